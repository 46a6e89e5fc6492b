"""Demucs (version 2 and 3): a U-Net over the waveform.

Axes: (1, T, C). Upstream: `demucs.demucs.Demucs`; paper: Défossez et al. 2019, "Music Source Separation in the Waveform Domain".
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..kernels.resample import resample
from .blocks import Array, DecoderLayer, EncoderLayer, Tensors, scope
from .config import DemucsConfig, TimeLayer
from .network import Network
from .recurrent import BLSTM
from .taps import tap


class Demucs(Network):
    """Time-domain Demucs, ready to separate. `tensors`: every parameter under its name in the reference's state."""

    def __init__(self, config: DemucsConfig, tensors: Tensors, backend: str = "numba") -> None:
        super().__init__(config, backend)
        self.config = config
        plan = config.layers()
        self.encoder = [self._encoder(tensors, level) for level in plan]
        self.decoder = [self._decoder(tensors, level) for level in reversed(plan)]
        self.lstm = BLSTM(self.ops, scope(tensors, "lstm"), config.lstm_layers) if config.lstm_layers else None

    def _settings(self) -> dict[str, Any]:
        config = self.config
        return {
            "freq": False,
            "stride": config.stride,
            "pad": 0,
            "groups": config.norm_groups,
            "dconv_depth": config.dconv_depth,
            "activation": "gelu" if config.gelu else "relu",
            "gate": "glu" if config.glu else "relu",
        }

    def _encoder(self, tensors: Tensors, level: TimeLayer) -> EncoderLayer:
        path = f"encoder.{level.index}"
        after = 4 if self.config.dconv_mode & 1 else 3  # places in the reference's Sequential; 3 is the residual branch, if any
        places = {"conv": 0, "norm1": 1, "rewrite": after, "norm2": after + 1}
        own = _renamed(scope(tensors, path), places) | {f"3.{name}": w for name, w in scope(tensors, f"{path}.3").items()}
        return EncoderLayer(self.ops, own, path, context=0, dconv="3" if after == 4 else "dconv", **self._settings())

    def _decoder(self, tensors: Tensors, level: TimeLayer) -> DecoderLayer:
        path = f"decoder.{self.config.depth - 1 - level.index}"
        residual = 3 if self.config.rewrite else 0
        after = residual + 1 if self.config.dconv_mode & 2 else residual
        places = {"rewrite": 0, "norm1": 1} if self.config.rewrite else {}
        places |= {"conv_tr": after, "norm2": after + 1}
        dconv = str(residual) if after > residual else "dconv"
        own = _renamed(scope(tensors, path), places) | {f"{dconv}.{name}": w for name, w in scope(tensors, f"{path}.{dconv}").items()}
        return DecoderLayer(self.ops, own, path, context=self.config.context, last=level.index == 0, dconv=dconv, **self._settings())

    def valid_length(self, length: int) -> int:
        """The length to pad `length` samples to, at which no convolution leaves a sample over."""
        config = self.config
        length *= 2 if config.resample else 1
        for _ in range(config.depth):
            length = max(1, -(-(length - config.kernel_size) // config.stride) + 1)
        for _ in range(config.depth):
            length = (length - 1) * config.stride + config.kernel_size
        return -(-length // 2) if config.resample else length

    def forward(self, mix: Array, out: Array) -> None:
        """mix [channels, n] -> out [sources, channels, n]."""
        ops, config, n = self.ops, self.config, mix.shape[1]
        mean, std = 0.0, 1.0
        if config.normalize:
            mono = mix.mean(axis=0, dtype=np.float64)
            mean, std = float(mono.mean()), float(mono.std(ddof=1)) if n > 1 else math.nan
            mix = (mix - np.float32(mean)) * np.float32(1 / (1e-5 + std))
        delta = self.valid_length(n) - n
        x = np.pad(mix, ((0, 0), (delta // 2, delta - delta // 2)))
        if config.resample:
            x = resample(x, 1, 2, self.backend)
        used = (x.shape[1] - config.kernel_size) // config.stride * config.stride + config.kernel_size  # of an odd length, one is left
        x = np.ascontiguousarray(x[:, :used].T)[None]  # [channels, T] -> [1, T, channels]

        skips = []
        for index, encode in enumerate(self.encoder):
            x = tap(f"encoder.{index}", encode(x), "TC")  # -> [1, T/stride, C]
            skips.append(x)
        x = self.bottom(x)
        for index, decode in enumerate(self.decoder):
            pre = decode.before_upsampling(x, tap(f"decoder.{index}.skip", skips.pop(), "TC", extra=True))
            length = (pre.shape[1] - 1) * config.stride + config.kernel_size
            x = tap(f"decoder.{index}", decode.upsample(pre, length), "TC")  # -> [1, T*stride, C]
            ops.free(pre)

        y = np.ascontiguousarray(x[0].T)  # [sources*channels, T]
        ops.free(x)
        if config.resample:
            y = resample(y, 2, 1, self.backend)
        start = (y.shape[1] - n) // 2
        out[...] = (y[:, start : start + n] * np.float32(std) + np.float32(mean)).reshape(out.shape)

    def bottom(self, x: Array) -> Array:
        """The LSTM between encoder and decoder, if there is one. x stays in use as a skip."""
        if self.lstm is None:
            return self.ops.copy(x)
        y = self.lstm(x.reshape(-1, 1, x.shape[2])).reshape(x.shape)  # [T, 1, C]
        return tap("lstm", y, "TC")


def _renamed(tensors: Tensors, places: dict[str, int]) -> dict[str, Array]:
    """The tensors at some places of a Sequential, under the names that the layers of `blocks` have for them."""
    return {
        f"{name}.{kind}": tensors[f"{at}.{kind}"] for name, at in places.items() for kind in ("weight", "bias") if f"{at}.{kind}" in tensors
    }
