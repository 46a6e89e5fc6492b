"""Two U-Nets, one over the spectrogram and one over the waveform: what HTDemucs and HDemucs share.

Read `forward` first. Axes: T time, F frequency, C channels; (T, F, C) in the frequency branch, (1, T, C) in the time branch.
Upstream: `demucs.hdemucs`; paper: Défossez 2021.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import ModelError
from . import spectral
from .blocks import Array, BandedDecoder, BandedEncoder, DecoderLayer, EncoderLayer, LayerSpec, Tensors, outwards, scope, with_skip
from .config import HDemucsConfig, HTDemucsConfig, HybridLayer
from .network import Network
from .taps import tap


@dataclass
class Skips:
    """What the encoders' layers leave for the decoders', of both U-Nets: their outputs, and the lengths of their inputs."""

    freq: list[Array] = field(default_factory=list)
    time: list[Array] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    lengths_t: list[int] = field(default_factory=list)


class Hybrid(Network):
    """The two U-Nets, and what differs between the models as methods: spectrogram and waveform, and what is between the U-Nets' halves."""

    def forward(self, mix: Array, out: Array) -> None:
        """mix [channels, n] -> out [sources, channels, n or fewer].

        Every operation returns a buffer of `ops`; whoever used it last gives it back with `ops.free`. An encoder's output stays: it is
        the skip of the decoder opposite, which frees it.
        """
        ops, config = self.ops, self.config
        z = self.spectrogram(mix)  # [channels, n] -> [T, F, 2*channels]
        bins = z.shape[:2]
        x, moments = ops.normalize(z if config.cac else ops.magnitude(z))  # [T, F, C]
        xt, moments_t = ops.normalize(ops.transpose(mix))  # [channels, n] -> [1, n, channels]

        skips = Skips()
        x, xt, inject = self.encode(x, xt, skips)  # -> [T, F', C'], [1, T', C']
        x, xt = self.bottom(x, xt)  # type: ignore[assignment]
        ops.free(inject)
        x, xt = self.decode(x, xt, skips)  # type: ignore[assignment]  # -> [T, F, sources*C], [1, n, sources*channels]

        if x.shape[:2] != bins:  # as upstream; the inverse, and Wiener filtering, read every bin
            raise ModelError(f"the decoder gives {x.shape[1]} of {bins[1]} frequencies: multi_freqs does not fit nfft and the strides")
        affine: dict[str, Any] = {"moments": moments, "time": xt, "time_moments": moments_t}
        if not config.cac:
            m = ops.restore(x, moments)
            ops.free(x)
            x = spectral.mask(ops, z, m, config.wiener_iters, config.wiener_residual)  # -> [T, F, 2*sources*channels]
            ops.free(m, z)
            affine["moments"] = None
        ops.make_room(out)
        self.waveform(x, out.reshape(-1, out.shape[2]), **affine)  # -> [sources*channels, n]
        ops.free(x, xt, moments, moments_t)

    def encode(self, x: Array, xt: Array, skips: Skips) -> tuple[Array, Array, Array | None]:
        """x [T, F, C] and xt [1, T, C] inwards through the layers of both U-Nets; consumes both.

        `inject`, the third result, matters only to models so deep that the time branch joins the other.
        """
        ops, inputs = self.ops, (x, xt)
        inject: Array | None = None
        for index, encode in enumerate(self.encoder):
            if index < len(self.tencoder):
                skips.lengths_t.append(xt.shape[1])
                xt = tap(f"tencoder.{index}", self.tencoder[index](ops, xt), "TC")  # [1, T, C] -> [1, T/stride, C']
                if self.tencoder[index].empty:
                    inject = xt  # the time branch has reached the frequency branch's stride and joins it
                else:
                    skips.time.append(xt)
            if not encode.freq:
                x = x.reshape(1, -1, x.shape[2])  # [T, 1, C] -> [1, T, C]
            skips.lengths.append(x.shape[1])
            joins = inject is not None and index == len(self.tencoder) - 1
            if joins and xt.shape[1] != len(x):  # as upstream; kernels check nothing, and would read beyond its end
                raise ModelError(f"the time branch has {xt.shape[1]} steps where it joins {len(x)} frames: nfft does not fit the strides")
            x = tap(f"encoder.{index}", encode(ops, x, inject if joins else None), "TFC" if encode.freq else "TC")  # -> [T, F/stride, C']
            if index == 0:
                ops.free(*inputs)  # the inputs of the other layers are skips, and the decoder frees them
                if self.frequency_table is not None:
                    x = ops.add_table(x, self.frequency_table, path="freq_emb")
            skips.freq.append(x)
        return x, xt, inject

    def decode(self, x: Array | None, xt: Array | None, skips: Skips) -> tuple[Array, Array | None]:
        """x and xt outwards, each layer with the skip from the encoder's opposite; consumes all. None stands for zeros, for no such branch,
        or for what was added to the skip already."""
        ops = self.ops
        parts_at = len(self.decoder) - len(self.tdecoder)  # from this decoder layer on there is a time layer beside it
        for index, decode in enumerate(self.decoder):
            axes = "TFC" if decode.freq else "TC"
            skip, length = self.skip(f"decoder.{index}.skip", skips.freq.pop(), axes), skips.lengths.pop()
            if x is not None and x.size != skip.size:  # as upstream
                raise ModelError(f"decoder.{index} is given {x.shape[1]} positions of {skip.shape[1]}: the strides do not fit the length")
            pre = decode.before_upsampling(ops, with_skip(ops, x, skip, f"decoder.{index}.skip"))  # [T, F, C] -> [T, F, C]
            x = outwards(ops, decode, pre, length, skips.freq)  # -> [T, F*stride, C']
            if x is not None:
                tap(f"decoder.{index}", x, axes)
            at = index - parts_at
            if at >= 0 and self.tdecoder[at].empty:
                ops.free(xt)
                pre_t = pre.reshape(1, -1, pre.shape[2])  # [T, 1, C] -> [1, T, C]
            else:
                ops.free(pre)
            if at >= 0:
                if not self.tdecoder[at].empty:
                    skip_t = self.skip(f"tdecoder.{at}.skip", skips.time.pop(), "TC")
                    pre_t = self.tdecoder[at].before_upsampling(ops, with_skip(ops, xt, skip_t, f"tdecoder.{at}.skip"))
                xt = outwards(ops, self.tdecoder[at], pre_t, skips.lengths_t.pop(), skips.time)  # [1, T, C] -> [1, T*stride, C']
                ops.free(pre_t)
                if xt is not None:
                    tap(f"tdecoder.{at}", xt, "TC")
        assert x is not None
        return x, xt

    def bottom(self, x: Array, xt: Array) -> tuple[Array | None, Array | None]:
        """Between encoder and decoder. Both arguments stay in use as skips. None stands for zeros."""
        raise NotImplementedError

    def spectrogram(self, mix: Array) -> Array:
        return spectral.spectrogram(self.ops, mix, self.config.nfft)

    def waveform(self, z: Array, out: Array, **affine: Any) -> None:
        spectral.waveform(self.ops, z, self.config.nfft, out.shape[1], out=out, **affine)

    def __init__(self, config: HTDemucsConfig | HDemucsConfig, tensors: Tensors, backend: str = "numba") -> None:
        super().__init__(config, backend)
        self.config = config
        levels = config.layers()
        times = [level.time for level in levels if level.time]
        self.encoder = [self._encoder(tensors, f"encoder.{at}", level) for at, level in enumerate(levels)]
        self.decoder = [self._decoder(tensors, f"decoder.{at}", level) for at, level in enumerate(reversed(levels))]
        specs = [self._spec(f"tencoder.{at}", level, config.context_enc) for at, level in enumerate(times)]
        self.tencoder = [EncoderLayer(self.ops, scope(tensors, spec.path), spec) for spec in specs]
        specs = [self._spec(f"tdecoder.{at}", level, config.context) for at, level in enumerate(reversed(times))]
        self.tdecoder = [DecoderLayer(self.ops, scope(tensors, spec.path), spec) for spec in specs]
        self.frequency_table: Array | None = None
        if "freq_emb.embedding.weight" in tensors:
            assert config.freq_emb is not None
            factors = float(config.emb_scale), float(config.freq_emb)
            table = tensors["freq_emb.embedding.weight"]
            rows = levels[0].rows_out  # a few fewer, where the kernel does not fit as often as its stride
            self.frequency_table = self.ops.prepare_table(table if len(table) == rows else table[:rows], *factors)  # [F, C]

    def _spec(self, path: str, level: HybridLayer, context: int) -> LayerSpec:
        spec = LayerSpec(path, level.freq, level.stride, level.pad, self.config.norm_groups, context, self.config.dconv_depth)
        return replace(spec, last=level.index == 0, empty=level.empty, single_row=level.last_freq)

    def _encoder(self, tensors: Tensors, path: str, level: HybridLayer) -> EncoderLayer | BandedEncoder:
        spec = self._spec(path, level, self.config.context_enc)
        if not level.bands:
            return EncoderLayer(self.ops, scope(tensors, path), spec)
        specs = [replace(spec, path=f"{path}.layers.{band}") for band in range(level.bands)]
        return BandedEncoder([EncoderLayer(self.ops, scope(tensors, one.path), one) for one in specs], self.config.multi_freqs or ())

    def _decoder(self, tensors: Tensors, path: str, level: HybridLayer) -> DecoderLayer | BandedDecoder:
        spec = self._spec(path, level, self.config.context)
        if not level.bands:
            return DecoderLayer(self.ops, scope(tensors, path), spec)
        # Bands are cropped and activated when they are joined.
        specs = [replace(spec, path=f"{path}.layers.{band}", pad=0, last=True) for band in range(level.bands)]
        layers = [DecoderLayer(self.ops, scope(tensors, one.path), one) for one in specs]
        return BandedDecoder(layers, self.config.multi_freqs or (), level.index == 0)
