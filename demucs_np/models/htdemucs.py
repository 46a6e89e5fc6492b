"""Hybrid Transformer Demucs: a U-Net over the spectrogram and one over the waveform, joined by a transformer.

Read `Hybrid.forward` first. Upstream: `demucs.htdemucs.HTDemucs`; paper: Rouard et al. 2023.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import UsageError
from ..kernels.layer import linear
from ..kernels.stft import own_size
from .blocks import Array, Tensors, scope
from .config import HTDemucsConfig
from .hybrid import Hybrid
from .taps import tap, tracing
from .transformer import CrossTransformer


class HTDemucs(Hybrid):
    """Hybrid Transformer Demucs, ready to separate. `tensors`: every parameter under its name in upstream's state."""

    config: HTDemucsConfig

    def __init__(self, config: HTDemucsConfig, tensors: Tensors, backend: str = "numba") -> None:
        super().__init__(config, tensors, backend)
        self.resample = {
            name: self.ops.prepare(linear(tensors[f"{name}.weight"], tensors[f"{name}.bias"]), name)
            for name in ("channel_upsampler", "channel_upsampler_t", "channel_downsampler", "channel_downsampler_t")
            if f"{name}.weight" in tensors
        }
        self.transformer = CrossTransformer(self.ops, scope(tensors, "crosstransformer"), config) if config.t_layers else None

    @property
    def all_kernels(self) -> bool:
        return not between_kernels(self.config)

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
        self.ops.free(padded if more else None)

    def bottom(self, x: Array, xt: Array) -> tuple[Array, Array]:
        """The transformer, between 1x1 convolutions to and from its width if the configuration has them."""
        if self.transformer is None:
            return self.ops.copy(x), self.ops.copy(xt)
        if self.resample:
            x, xt = self._channels(x, "channel_upsampler"), self._channels(xt, "channel_upsampler_t")
        else:
            x, xt = self.ops.copy(x), self.ops.copy(xt)
        x, xt = self.transformer(self.ops, x, xt)  # [T, F, C], [1, T', C]
        if self.resample:
            wide, wide_t = x, xt
            x, xt = self._channels(x, "channel_downsampler"), self._channels(xt, "channel_downsampler_t")
            self.ops.free(wide, wide_t)
        return x, xt

    def _channels(self, x: Array, name: str) -> Array:
        y = self.ops.conv(x, self.resample[name])  # [T, F, C] -> [T, F, C'], or [1, T, C] -> [1, T, C']
        if tracing():
            # upstream flattens (F, T) in this order: [T, F, C] -> [1, F*T, C]
            flat = np.ascontiguousarray(y.transpose(1, 0, 2)).reshape(1, -1, y.shape[2]) if not name.endswith("_t") else y
            tap(name, flat, "TC")
        return y


def between_kernels(config: HTDemucsConfig) -> list[str]:
    """For what NumPy computes between the kernels."""
    reasons = {
        "it predicts magnitudes (cac=False)": not config.cac,
        'its positions are weights (t_emb="scaled")': config.t_layers > 0 and config.t_emb == "scaled",
        "it has frequency bands (multi_freqs)": bool(config.multi_freqs),
        f"its FFT, nfft={config.nfft}, is no power of two": not own_size(config.nfft),
    }
    return [reason for reason, applies in reasons.items() if applies]
