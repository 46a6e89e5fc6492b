"""What a checkpoint says about its model: one frozen dataclass per architecture.

Fields are the arguments of upstream's constructors that change inference, with the same names and defaults
(`demucs.htdemucs.HTDemucs`, `demucs.hdemucs.HDemucs`, `demucs.demucs.Demucs`). Arguments that only matter while training
are accepted by `from_arguments` and dropped; one that inference cannot honour, or that no version knows, is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, ClassVar

from ..errors import ModelError, shown
from .arguments import Arguments

MAX_DEPTH = 32  # far above any real model; keeps a hostile checkpoint from asking for endless layers
MAX_WIDTH = 1 << 20
MAX_SECONDS = 3600  # of a segment
MAX_FFT = 1 << 17


@dataclass(frozen=True)
class HybridLayer:
    """One level of a hybrid model, in one branch: an encoder layer and the decoder layer opposite."""

    index: int  # 0 is the outermost
    freq: bool  # convolves along frequency; False: along time, in the time branch or after the branches have merged
    channels_in: int  # encoder's input
    channels_out: int  # encoder's output, decoder's input
    decoder_out: int  # decoder's output
    kernel_size: int
    stride: int
    pad: int
    norm: bool
    lstm: bool
    attention: bool
    rows: int = 1  # frequency rows at the encoder's input
    bands: int = 0  # layers inside MultiWrap, one a frequency band; 0: not wrapped
    rows_out: int = 1  # and at its output
    last_freq: bool = False  # brings frequency to one row, where the time branch joins
    empty: bool = False  # the time layer there: nothing but the convolution
    time: HybridLayer | None = None  # the time layer beside it, if any


@dataclass(frozen=True)
class _Hybrid(Arguments):
    """The fields in the order that HTDemucs and HDemucs share. See `HTDemucs.__init__` of upstream for their meaning."""

    sources: tuple[str, ...]
    audio_channels: int = 2
    channels: int = 48
    channels_time: int | None = None
    growth: float = 2
    nfft: int = 4096
    wiener_iters: int = 0
    wiener_residual: bool = False
    cac: bool = True
    depth: int = 4
    rewrite: bool = True
    multi_freqs: tuple[float, ...] | None = None
    multi_freqs_depth: int = 3
    freq_emb: float | None = 0.2
    emb_scale: float = 10
    kernel_size: int = 8
    time_stride: int = 2
    stride: int = 4
    context: int = 1
    context_enc: int = 0
    norm_starts: int | float = 4
    norm_groups: int = 4
    dconv_mode: int = 1
    dconv_depth: int = 2
    dconv_comp: float = 8
    samplerate: int = 44100
    segment: Fraction | float | int = 10

    def _is_hybrid(self) -> bool:
        return True

    def _residual_parts(self, index: int) -> tuple[bool, bool]:
        """Whether DConv has a BLSTM and a LocalState at this level."""
        return False, False

    @property
    def embedded(self) -> int:
        """Rows of the frequency embedding, of which the first are used as far as there are rows."""
        rows = self.nfft // 2
        return 1 if rows <= self.kernel_size else rows // self.stride

    def layers(self) -> list[HybridLayer]:
        """The levels from the outermost inwards, with the arithmetic of upstream's constructor."""
        plan = []
        complex_parts = 2 if self.cac else 1
        time_in, freq_in = self.audio_channels, self.audio_channels * complex_parts
        time_out, freq_out = self.channels_time or self.channels, self.channels
        time_back = self.audio_channels * len(self.sources)
        freq_back = time_back * complex_parts
        rows = planned = self.nfft // 2  # upstream's plan counts rows // stride for each layer
        for index in range(self.depth):
            freq = planned > 1
            last_freq = freq and planned <= self.kernel_size
            kernel_size, stride = (self.kernel_size, self.stride) if freq else (2 * self.time_stride, self.time_stride)
            if last_freq:
                kernel_size = planned
                time_out = freq_out = max(time_out, freq_out)
            pad = 0 if last_freq else kernel_size // 4
            rows_out = (rows + 2 * pad - kernel_size) // stride + 1 if freq else rows
            lstm, attention = self._residual_parts(index)
            beside = HybridLayer(
                index=index,
                freq=False,
                channels_in=time_in,
                channels_out=time_out,
                decoder_out=time_back,
                kernel_size=self.kernel_size,
                stride=self.stride,
                pad=self.kernel_size // 4,
                norm=index >= self.norm_starts,
                lstm=lstm,
                attention=attention,
                empty=last_freq,
            )
            plan.append(
                replace(
                    beside,
                    freq=freq,
                    channels_in=freq_in,
                    channels_out=freq_out,
                    decoder_out=freq_back,
                    kernel_size=kernel_size,
                    stride=stride,
                    pad=pad,
                    rows=rows,
                    rows_out=rows_out,
                    bands=len(self.multi_freqs) + 1 if self.multi_freqs and index < self.multi_freqs_depth else 0,
                    last_freq=last_freq,
                    empty=False,
                    time=beside if freq and self._is_hybrid() else None,
                )
            )
            time_in = time_back = time_out
            freq_in = freq_back = freq_out
            time_out, freq_out = int(self.growth * time_out), int(self.growth * freq_out)
            rows = rows_out
            if freq:
                planned = 1 if last_freq else planned // self.stride
        return plan

    def _check_common(self) -> None:
        self._require_range(1, 64, "audio_channels")
        self._require_range(1, MAX_DEPTH, "depth")
        self._require_range(1, MAX_WIDTH, "channels", "norm_groups", "samplerate")
        self._require_range(1, 1024, "kernel_size", "stride", "time_stride")
        self._require_range(0, 64, "context", "context_enc")
        self._require_range(0, 3, "dconv_mode")
        self._require_range(-MAX_DEPTH, MAX_DEPTH, "dconv_depth")
        self._require(self.wiener_iters <= 1000, f"wiener_iters={self.wiener_iters!r} is more than 1000")
        self._require(8 <= self.nfft <= MAX_FFT and self.nfft % 4 == 0, f"nfft={self.nfft} is not a multiple of 4 up to {MAX_FFT}")
        self._require(0 <= (self.channels_time or 0) <= MAX_WIDTH, f"channels_time={self.channels_time!r} is out of range")
        self._require(self.growth > 0, f"growth={self.growth!r} is not positive")
        self._require(self.dconv_comp > 0, f"dconv_comp={self.dconv_comp!r} is not positive")
        self._require(0 < self.segment <= MAX_SECONDS, f"segment={float(self.segment):g} s is not between 0 and {MAX_SECONDS}")
        self._require(len(self.sources) * self.audio_channels <= MAX_WIDTH, "too many sources")
        ratios = self.multi_freqs or ()
        self._require(
            len(ratios) <= 64 and all(0 < a < b for a, b in zip(ratios, (*ratios[1:], 1), strict=False)),
            f"multi_freqs={ratios[:4]!r} are not growing ratios between 0 and 1",
        )
        self._require(self.cac or self.wiener_iters < 1 or self.audio_channels <= 2, "Wiener filtering needs one or two audio channels")
        for layer in self.layers():
            self._check_layer(layer)

    def _check_layer(self, layer: HybridLayer) -> None:
        what = f"layer {layer.index}"
        branches = [layer, layer.time] if layer.time else [layer]
        widths = [branch.channels_out for branch in branches]
        self._require(all(1 <= width <= MAX_WIDTH for width in widths), f"{what}: {max(widths)} channels are out of range")
        self._require(layer.rows >= 1 and (layer.freq or layer.rows == 1), f"{what}: nfft={self.nfft} does not lead to one frequency row")
        self._require(
            not layer.bands or (layer.freq and not layer.last_freq and not layer.norm),
            f"{what}: multi_freqs splits only frequency layers without norm, before the last",
        )
        # Upstream crops what the bands give by half a stride on either side, and it then must be as long as what they were made of.
        self._require(
            not layer.bands or layer.kernel_size == layer.stride + 2 * (layer.stride // 2),
            f"{what}: bands of kernel_size={layer.kernel_size} and stride={layer.stride} do not give back the rows they take",
        )
        if layer.freq:
            back = (layer.rows_out - 1) * layer.stride + layer.kernel_size - 2 * layer.pad
            fits = layer.rows_out >= 1 and back == layer.rows and (layer.index > 0 or not self.freq_emb or layer.rows_out <= self.embedded)
            self._require(fits, f"{what}: {layer.rows} rows do not fit kernel_size={layer.kernel_size}, stride={layer.stride}")
        if layer.norm:
            for width in widths + [branch.decoder_out for branch in branches]:
                self._require_groups(width, self.norm_groups, what)
        if self.dconv_mode and self.dconv_depth:
            for width in widths:
                self._check_dconv(width, self.dconv_comp, layer.attention, what)


@dataclass(frozen=True)
class HTDemucsConfig(_Hybrid):
    """Arguments of the Hybrid Transformer Demucs (`demucs.htdemucs.HTDemucs`).

    `t_sin_random_shift` is dropped: upstream draws the shift of the time branch's positions anew for each call, from 0 to
    that number, also in evaluation; this package always evaluates the shift 0, one of its draws.
    """

    klass: ClassVar[str] = "demucs.htdemucs.HTDemucs"
    _order: ClassVar[str] = (
        "sources audio_channels channels channels_time growth nfft wiener_iters end_iters wiener_residual cac depth rewrite "
        "multi_freqs multi_freqs_depth freq_emb emb_scale emb_smooth kernel_size time_stride stride context context_enc "
        "norm_starts norm_groups dconv_mode dconv_depth dconv_comp dconv_init bottom_channels t_layers t_emb t_hidden_scale "
        "t_heads t_dropout t_max_positions t_norm_in t_norm_in_group t_group_norm t_norm_first t_norm_out t_max_period "
        "t_weight_decay t_lr t_layer_scale t_gelu t_weight_pos_embed t_sin_random_shift t_cape_mean_normalize t_cape_augment "
        "t_cape_glob_loc_scale t_sparse_self_attn t_sparse_cross_attn t_mask_type t_mask_random_seed t_sparse_attn_window "
        "t_global_window t_sparsity t_auto_sparsity t_cross_first rescale samplerate segment use_train_segment"
    )
    _unsupported: ClassVar[Mapping[str, str]] = {
        "t_sparse_self_attn": "sparse attention needs other weights and a package that upstream itself cannot run on a CPU",
        "t_sparse_cross_attn": "sparse attention needs other weights and a package that upstream itself cannot run on a CPU",
    }

    bottom_channels: int = 0
    t_layers: int = 5
    t_emb: str = "sin"
    t_hidden_scale: float = 4.0
    t_heads: int = 8
    t_max_positions: int = 10000
    t_norm_in: bool = True
    t_norm_in_group: int | bool = False
    t_group_norm: int | bool = False
    t_norm_first: bool = True
    t_norm_out: int | bool = True
    t_max_period: float = 10000.0
    t_layer_scale: bool = True
    t_gelu: bool = True
    t_weight_pos_embed: float = 1.0
    t_cape_mean_normalize: bool = True
    t_cross_first: bool = False
    use_train_segment: bool = True

    @property
    def transformer_channels(self) -> int:
        """Width of the transformer: `bottom_channels`, or else the innermost level's channels."""
        return self.bottom_channels or int(self.channels * self.growth ** (self.depth - 1))

    def is_cross(self, index: int) -> bool:
        """Whether a layer of the transformer attends to the other branch: every second one does."""
        return (index % 2 == 1) != self.t_cross_first

    def __post_init__(self) -> None:
        self._check_common()
        self._require_range(0, MAX_WIDTH, "bottom_channels")
        self._require_range(0, 256, "t_layers")
        width = self.channels * self.growth ** (self.depth - 1)
        if self.bottom_channels or self.t_layers:
            self._require(isinstance(width, int), f"growth={self.growth!r} must be an integer before a transformer")
        if self.t_layers:
            inner = self.layers()[-1]
            inner_t = inner.time or inner
            self._require(
                inner.channels_out == inner_t.channels_out == width,
                f"both branches must reach the transformer with {width} channels, not {inner.channels_out} and {inner_t.channels_out}",
            )
            self._require(inner.freq, f"depth={self.depth} is too deep for a transformer, which comes before the branches merge")
            self._check_transformer(self.transformer_channels)

    def _check_transformer(self, width: int) -> None:
        self._require(self.t_emb in ("sin", "cape", "scaled"), f"t_emb={shown(self.t_emb)} is not sin, cape or scaled")
        self._require_range(1, MAX_WIDTH, "t_heads")
        self._require(width % self.t_heads == 0, f"{width} channels do not divide into t_heads={self.t_heads}")
        self._require(width % 4 == 0, f"the transformer's {width} channels are not a multiple of 4")
        self._require(1 <= width * self.t_hidden_scale <= MAX_WIDTH, f"t_hidden_scale={self.t_hidden_scale!r} is out of range")
        self._require(self.t_max_period > 0, f"t_max_period={self.t_max_period!r} is not positive")
        if self.t_emb == "scaled":
            self._require_range(1, 1 << 24, "t_max_positions")
        if not self.t_norm_in and self.t_norm_in_group:
            self._require_groups(width, int(self.t_norm_in_group), "t_norm_in_group")
        if self.t_group_norm:
            self._require_groups(width, int(self.t_group_norm), "t_group_norm")
        if self.t_norm_first & self.t_norm_out:
            self._require_groups(width, int(self.t_norm_out), "t_norm_out")


@dataclass(frozen=True)
class HDemucsConfig(_Hybrid):
    """Arguments of the Hybrid Demucs, version 3 (`demucs.hdemucs.HDemucs`)."""

    klass: ClassVar[str] = "demucs.hdemucs.HDemucs"
    _order: ClassVar[str] = (
        "sources audio_channels channels channels_time growth nfft wiener_iters end_iters wiener_residual cac depth rewrite "
        "hybrid hybrid_old multi_freqs multi_freqs_depth freq_emb emb_scale emb_smooth kernel_size time_stride stride context "
        "context_enc norm_starts norm_groups dconv_mode dconv_depth dconv_comp dconv_attn dconv_lstm dconv_init rescale "
        "samplerate segment"
    )

    depth: int = 6
    multi_freqs_depth: int = 2
    dconv_comp: float = 4
    segment: Fraction | float | int = 40
    hybrid: bool = True
    hybrid_old: bool = False
    dconv_attn: int | float = 4
    dconv_lstm: int | float = 4

    def __post_init__(self) -> None:
        self._require(self.hybrid or not self.hybrid_old, "hybrid_old must come with hybrid=True")
        self._check_common()

    def _is_hybrid(self) -> bool:
        return self.hybrid

    def _residual_parts(self, index: int) -> tuple[bool, bool]:
        return index >= self.dconv_lstm, index >= self.dconv_attn


@dataclass(frozen=True)
class TimeLayer:
    """One level of the time-domain model."""

    index: int
    channels_in: int  # encoder's input, and decoder's output but for the outermost level
    channels_out: int  # encoder's output, decoder's input
    decoder_out: int
    norm: bool
    lstm: bool
    attention: bool


@dataclass(frozen=True)
class DemucsConfig(Arguments):
    """Arguments of the time-domain Demucs (`demucs.demucs.Demucs`)."""

    klass: ClassVar[str] = "demucs.demucs.Demucs"
    second: ClassVar[int] = 3  # where the second convolution stands in upstream's Sequential: after the first, its norm and activation
    _order: ClassVar[str] = (
        "sources audio_channels channels growth depth rewrite lstm_layers kernel_size stride context gelu glu norm_starts "
        "norm_groups dconv_mode dconv_depth dconv_comp dconv_attn dconv_lstm dconv_init normalize resample rescale samplerate segment"
    )

    sources: tuple[str, ...]
    audio_channels: int = 2
    channels: int = 64
    growth: float = 2.0
    depth: int = 6
    rewrite: bool = True
    lstm_layers: int = 0
    kernel_size: int = 8
    stride: int = 4
    context: int = 1
    gelu: bool = True
    glu: bool = True
    norm_starts: int | float = 4
    norm_groups: int = 4
    dconv_mode: int = 1
    dconv_depth: int = 2
    dconv_comp: float = 4
    dconv_attn: int | float = 4
    dconv_lstm: int | float = 4
    normalize: bool = True
    resample: bool = True
    samplerate: int = 44100
    segment: Fraction | float | int = 40

    def layers(self) -> list[TimeLayer]:
        """The levels from the outermost inwards, with the arithmetic of upstream's constructor."""
        plan = []
        channels_in, channels_out = self.audio_channels, self.channels
        for index in range(self.depth):
            plan.append(
                TimeLayer(
                    index=index,
                    channels_in=channels_in,
                    channels_out=channels_out,
                    decoder_out=channels_in if index else self.audio_channels * len(self.sources),
                    norm=index >= self.norm_starts,
                    lstm=index >= self.dconv_lstm,
                    attention=index >= self.dconv_attn,
                )
            )
            channels_in, channels_out = channels_out, int(self.growth * channels_out)
        return plan

    def __post_init__(self) -> None:
        self._require_range(1, 64, "audio_channels")
        self._require_range(1, MAX_DEPTH, "depth")
        self._require_range(0, MAX_DEPTH, "lstm_layers")
        self._require_range(1, MAX_WIDTH, "channels", "norm_groups", "samplerate")
        self._require_range(1, 1024, "kernel_size", "stride")
        self._require_range(0, 64, "context")
        self._require_range(0, 3, "dconv_mode")
        self._require_range(-MAX_DEPTH, MAX_DEPTH, "dconv_depth")
        self._require(self.growth > 0, f"growth={self.growth!r} is not positive")
        self._require(self.dconv_comp > 0, f"dconv_comp={self.dconv_comp!r} is not positive")
        self._require(0 < self.segment <= MAX_SECONDS, f"segment={float(self.segment):g} s is not between 0 and {MAX_SECONDS}")
        for layer in self.layers():
            what = f"layer {layer.index}"
            self._require(1 <= layer.channels_out <= MAX_WIDTH, f"{what}: {layer.channels_out} channels are out of range")
            if layer.norm:
                self._require_groups(layer.channels_out, self.norm_groups, what)
                if layer.index:  # the outermost decoder layer ends without a norm
                    self._require_groups(layer.decoder_out, self.norm_groups, what)
            if self.dconv_mode and self.dconv_depth:
                self._check_dconv(layer.channels_out, self.dconv_comp, layer.attention, what)


@dataclass(frozen=True)
class SecondDemucsConfig(DemucsConfig):
    """Arguments of the second generation (`demucs.model.Demucs` of demucs 2): no residual branches, no norms, ReLU, an LSTM, and
    convolutions in the decoder that see no padding. Here `context` counts positions on each side, and `segment` is in seconds.
    """

    klass: ClassVar[str] = "demucs.model.Demucs"
    second: ClassVar[int] = 2
    _order: ClassVar[str] = (
        "sources audio_channels channels depth rewrite glu rescale resample kernel_size stride growth lstm_layers context normalize "
        "samplerate segment_length"
    )

    lstm_layers: int = 2
    gelu: bool = False
    norm_starts: int | float = math.inf
    dconv_mode: int = 0
    normalize: bool = False

    @classmethod
    def from_arguments(cls, args: Sequence[object], kwargs: Mapping[str, object]) -> SecondDemucsConfig:
        """See `Arguments.from_arguments`. Raises ModelError for the first generation, too, whose class had the same name."""
        given = dict(zip(cls._order.split(), args, strict=False)) | dict(kwargs)
        if isinstance(given.get("sources"), int) or "upsample" in given:
            raise ModelError(f"{cls.klass} of the first generation: another network, in files of a gigabyte; not supported")
        width, rate = given.pop("context", 3), given.get("samplerate", 44100)
        length = given.pop("segment_length", 40 * rate if type(rate) is int else 0)
        if type(width) is not int or not 1 <= width <= 99 or width % 2 == 0:
            raise ModelError(f"{cls.klass}: argument 'context' must be an odd number, not {width!r}")
        if type(rate) is not int or rate < 1 or type(length) is not int:
            raise ModelError(f"{cls.klass}: arguments 'samplerate' and 'segment_length' must be whole numbers, not {rate!r} and {length!r}")
        plain = super().from_arguments((), given)
        return replace(plain, context=width // 2, segment=Fraction(length, rate))

    def constructor_arguments(self) -> dict[str, Any]:
        arguments = super().constructor_arguments()
        arguments |= {"context": 2 * self.context + 1, "segment_length": int(self.segment * self.samplerate)}
        return {name: arguments[name] for name in self._order.split() if name in arguments}


Config = HTDemucsConfig | HDemucsConfig | DemucsConfig

# `klass` of a checkpoint -> configuration. The second spellings are former homes of the same classes.
CLASSES: dict[str, type[Config]] = {
    "demucs.htdemucs.HTDemucs": HTDemucsConfig,
    "demucs.hdemucs.HDemucs": HDemucsConfig,
    "demucs.wdemucs.WDemucs": HDemucsConfig,
    "demucs.demucs.Demucs": DemucsConfig,
    "demucs.model.Demucs": SecondDemucsConfig,
}


def config_from_arguments(klass: str, args: Sequence[object], kwargs: Mapping[str, object]) -> Config:
    """The configuration of a checkpoint's class, by its dotted name. Raises ModelError for a class that is not Demucs's."""
    if klass not in CLASSES:
        known = ", ".join(sorted({config.klass for config in CLASSES.values()}))
        raise ModelError(f"unknown model class {shown(klass)}; this package runs {known}")
    return CLASSES[klass].from_arguments(args, kwargs)
