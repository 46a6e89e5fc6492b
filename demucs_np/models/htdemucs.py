"""Hybrid Transformer Demucs: a U-Net over the spectrogram and one over the waveform, joined by a transformer.

Read `forward` first. Axes: T time, F frequency, C channels; (T, F, C) in the frequency branch, (1, T, C) in the time branch.
Upstream: `demucs.htdemucs.HTDemucs`; papers: Défossez 2021 (hybrid), Rouard et al. 2023 (transformer).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import ModelError, UsageError
from ..kernels.layer import linear
from ..operations.numpy_ops import restored
from . import spectral
from .blocks import Array, BandedDecoder, BandedEncoder, DecoderLayer, EncoderLayer, Tensors, scope
from .config import HDemucsConfig, HTDemucsConfig, HybridLayer
from .network import Network
from .taps import tap, tracing
from .transformer import CrossTransformer


class Hybrid(Network):
    """The two U-Nets, as HTDemucs and HDemucs share them."""

    def __init__(self, config: HTDemucsConfig | HDemucsConfig, tensors: Tensors, backend: str = "numba") -> None:
        super().__init__(config, backend)
        self.config = config
        self.encoder, self.tencoder, self.decoder, self.tdecoder = [], [], [], []  # type: ignore[var-annotated]
        plan = config.layers()
        for at, level in enumerate(plan):
            back = len(plan) - 1 - at
            self.encoder.append(self._encoder(scope(tensors, f"encoder.{at}"), f"encoder.{at}", level))
            self.decoder.insert(0, self._decoder(scope(tensors, f"decoder.{back}"), f"decoder.{back}", level))
            if level.time:
                self.tencoder.append(self._tencoder(scope(tensors, f"tencoder.{at}"), f"tencoder.{at}", level))
        times = len(self.tencoder)
        for at in range(times):
            name = f"tdecoder.{at}"
            self.tdecoder.append(self._tdecoder(scope(tensors, name), name, plan[times - 1 - at]))
        self.frequency_table: Array | None = None
        if "freq_emb.embedding.weight" in tensors:
            assert config.freq_emb is not None
            embedding = tensors["freq_emb.embedding.weight"].astype(np.float64) * float(config.emb_scale) * float(config.freq_emb)
            self.frequency_table = embedding.astype(np.float32)  # [F, C]

    def _layer(self, level: HybridLayer, freq: bool) -> dict[str, Any]:
        # Beside a frequency layer, a time layer has the configuration's own stride; after the branches have merged, the level's.
        stride, pad = (level.stride, level.pad) if freq or not level.time else (self.config.stride, self.config.kernel_size // 4)
        shared = {"groups": self.config.norm_groups, "dconv_depth": self.config.dconv_depth}
        return {"freq": freq, "stride": stride, "pad": pad, "single_row": freq and level.last_freq} | shared

    def _encoder(self, tensors: Tensors, path: str, level: HybridLayer) -> EncoderLayer | BandedEncoder:
        settings = self._layer(level, level.freq) | {"context": self.config.context_enc}
        if not level.bands:
            return EncoderLayer(self.ops, tensors, path, **settings)
        bands = [EncoderLayer(self.ops, scope(tensors, f"layers.{k}"), f"{path}.layers.{k}", **settings) for k in range(level.bands)]
        return BandedEncoder(bands, self.config.multi_freqs or ())

    def _tencoder(self, tensors: Tensors, path: str, level: HybridLayer) -> EncoderLayer:
        settings = self._layer(level, False) | {"context": self.config.context_enc}
        return EncoderLayer(self.ops, tensors, path, empty=level.last_freq, **settings)

    def _decoder(self, tensors: Tensors, path: str, level: HybridLayer) -> DecoderLayer | BandedDecoder:
        settings = self._layer(level, level.freq) | {"context": self.config.context, "last": level.index == 0}
        if not level.bands:
            return DecoderLayer(self.ops, tensors, path, **settings)
        settings |= {"pad": 0, "last": True}  # cropped and activated when the bands are joined
        bands = [DecoderLayer(self.ops, scope(tensors, f"layers.{k}"), f"{path}.layers.{k}", **settings) for k in range(level.bands)]
        return BandedDecoder(bands, self.config.multi_freqs or (), level.index == 0)

    def _tdecoder(self, tensors: Tensors, path: str, level: HybridLayer) -> DecoderLayer:
        settings = self._layer(level, False) | {"context": self.config.context, "last": level.index == 0}
        return DecoderLayer(self.ops, tensors, path, empty=level.last_freq, **settings)

    def forward(self, mix: Array, out: Array) -> None:
        """mix [channels, n] -> out [sources, channels, n or fewer].

        Every operation returns a buffer of `ops`; whoever used it last gives it back with `ops.free`. An encoder's output stays: it is
        the skip of the decoder opposite, which frees it. `inject` matters only to models so deep that the time branch joins the other.
        """
        ops = self.ops
        z = self.spectrogram(mix)  # [channels, n] -> [T, F, 2*channels]
        x, moments = ops.normalize(z if self.config.cac else spectral.magnitude(z))  # [T, F, C]
        wave = ops.transpose(mix)  # [channels, n] -> [1, n, channels]
        xt, moments_t = ops.normalize(wave)
        ops.free(wave)

        inputs = (x, xt)
        skips: list[Array] = []
        skips_t: list[Array] = []
        lengths, lengths_t = [], []
        inject: Array | None = None
        for index, encode in enumerate(self.encoder):
            if index < len(self.tencoder):
                lengths_t.append(xt.shape[1])
                xt = tap(f"tencoder.{index}", self.tencoder[index](xt), "TC")  # [1, T, C] -> [1, T/stride, C']
                if self.tencoder[index].empty:
                    inject = xt  # the time branch has reached the frequency branch's stride and joins it
                else:
                    skips_t.append(xt)
            if not encode.freq:
                x = x.reshape(1, -1, x.shape[2])  # [T, 1, C] -> [1, T, C]
            lengths.append(x.shape[1])
            joins = inject is not None and index == len(self.tencoder) - 1
            if joins and xt.shape[1] != len(x):  # as upstream; kernels check nothing, and would read beyond its end
                raise ModelError(f"the time branch has {xt.shape[1]} steps where it joins {len(x)} frames: nfft does not fit the strides")
            x = tap(f"encoder.{index}", encode(x, inject if joins else None), "TFC" if encode.freq else "TC")  # -> [T, F/stride, C']
            if index == 0:
                ops.free(*inputs)  # the inputs of the other layers are skips, and the decoder frees them
                if self.frequency_table is not None:
                    x = ops.add_table(x, self.frequency_table)
            skips.append(x)

        x, xt = self.bottom(x, xt)  # type: ignore[assignment]
        ops.free(inject)

        parts_at = len(self.decoder) - len(self.tdecoder)  # from this decoder layer on there is a time layer beside it
        for index, decode in enumerate(self.decoder):
            axes = "TFC" if decode.freq else "TC"
            skip, length = tap(f"decoder.{index}.skip", skips.pop(), axes, extra=True), lengths.pop()
            x = x if x is None else x.reshape(skip.shape)  # where the branches part, [1, T, C] -> [T, 1, C]
            pre = decode.before_upsampling(x, skip)  # [T, F, C] -> [T, F, C]
            x = tap(f"decoder.{index}", decode.upsample(pre, length), axes)  # -> [T, F*stride, C']
            if index >= parts_at:
                tdecode, length = self.tdecoder[index - parts_at], lengths_t.pop()
                if tdecode.empty:
                    ops.free(xt)
                    xt = tdecode.upsample(pre.reshape(1, -1, pre.shape[2]), length)  # [T, 1, C] -> [1, T*stride, C']
                else:
                    pre_t = tdecode.before_upsampling(xt, tap(f"tdecoder.{index - parts_at}.skip", skips_t.pop(), "TC", extra=True))
                    xt = tdecode.upsample(pre_t, length)  # [1, T, C] -> [1, T*stride, C']
                    ops.free(pre_t)
                xt = tap(f"tdecoder.{index - parts_at}", xt, "TC")
            ops.free(pre)

        if x.shape[:2] != z.shape[:2]:  # as above: the inverse, and Wiener filtering, read every bin
            raise ModelError(f"the decoder gives {x.shape[1]} of {z.shape[1]} frequencies: multi_freqs does not fit nfft and the strides")
        affine: dict[str, Any] = {"moments": moments, "time": xt, "time_moments": moments_t}
        if not self.config.cac:
            x = spectral.mask(ops, z, restored(x, moments), self.config.wiener_iters, self.config.wiener_residual)
            affine["moments"] = None
        self.waveform(x, out.reshape(-1, out.shape[2]), **affine)  # -> [sources*channels, n]
        ops.free(z, x, xt, moments, moments_t)

    def bottom(self, x: Array, xt: Array) -> tuple[Array | None, Array | None]:
        """Between encoder and decoder. Both arguments stay in use as skips. None stands for zeros."""
        raise NotImplementedError

    def spectrogram(self, mix: Array) -> Array:
        return spectral.spectrogram(self.ops, mix, self.config.nfft)

    def waveform(self, z: Array, out: Array, **affine: Any) -> None:
        spectral.waveform(self.ops, z, self.config.nfft, out.shape[1], out=out, **affine)


class HTDemucs(Hybrid):
    """Hybrid Transformer Demucs, ready to separate. `tensors`: every parameter under its name in the reference's state."""

    config: HTDemucsConfig

    def __init__(self, config: HTDemucsConfig, tensors: Tensors, backend: str = "numba") -> None:
        super().__init__(config, tensors, backend)
        self.resample = {
            name: self.ops.prepare(linear(tensors[f"{name}.weight"], tensors[f"{name}.bias"]))
            for name in ("channel_upsampler", "channel_upsampler_t", "channel_downsampler", "channel_downsampler_t")
            if f"{name}.weight" in tensors
        }
        self.transformer = CrossTransformer(self.ops, scope(tensors, "crosstransformer"), config) if config.t_layers else None

    @property
    def max_segment(self) -> Any:
        return self.segment if self.config.use_train_segment else None

    def valid_length(self, length: int) -> int:
        """The training length, or `length` itself if the model was not made to keep to it. Raises UsageError if it is exceeded."""
        if not self.config.use_train_segment:
            return length
        longest = int(self.segment * self.samplerate)
        if length > longest:
            raise UsageError(
                f"a segment of {length} samples is longer than the {longest} ({float(self.segment):g} s) the model was made for"
            )
        return longest

    def forward(self, mix: Array, out: Array) -> None:
        more = self.valid_length(mix.shape[1]) - mix.shape[1]
        padded = self.ops.pad(mix, 0, more) if more else mix
        super().forward(padded, out)
        self.ops.free(padded)

    def bottom(self, x: Array, xt: Array) -> tuple[Array, Array]:
        """The transformer, between 1x1 convolutions to and from its width if the configuration has them."""
        if self.transformer is None:
            return self.ops.copy(x), self.ops.copy(xt)
        if self.resample:
            x, xt = self._channels(x, "channel_upsampler"), self._channels(xt, "channel_upsampler_t")
        else:
            x, xt = self.ops.copy(x), self.ops.copy(xt)
        x, xt = self.transformer(x, xt)  # [T, F, C], [1, T', C]
        if self.resample:
            wide, wide_t = x, xt
            x, xt = self._channels(x, "channel_downsampler"), self._channels(xt, "channel_downsampler_t")
            self.ops.free(wide, wide_t)
        return x, xt

    def _channels(self, x: Array, name: str) -> Array:
        y = self.ops.conv(x, self.resample[name])  # [T, F, C] -> [T, F, C'], or [1, T, C] -> [1, T, C']
        if tracing():
            # the reference flattens (F, T) in this order: [T, F, C] -> [1, F*T, C]
            flat = np.ascontiguousarray(y.transpose(1, 0, 2)).reshape(1, -1, y.shape[2]) if not name.endswith("_t") else y
            tap(name, flat, "TC")
        return y
