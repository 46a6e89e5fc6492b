"""Demucs (version 2 and 3): a U-Net over the waveform.

Axes: (1, T, C). Upstream: `demucs.demucs.Demucs`; paper: Défossez et al. 2019, "Music Source Separation in the Waveform Domain".
"""

from __future__ import annotations

from dataclasses import replace

from .blocks import Array, DecoderLayer, EncoderLayer, LayerSpec, Tensors, outwards, scope, with_skip
from .config import DemucsConfig, SecondDemucsConfig, TimeLayer
from .network import Network
from .recurrent import BLSTM
from .taps import tap, tracing


class Demucs(Network):
    """Time-domain Demucs, ready to separate. `tensors`: every parameter under its name in upstream's state."""

    def __init__(self, config: DemucsConfig, tensors: Tensors, backend: str = "numba") -> None:
        super().__init__(config, backend)
        self.config = config
        self.second = isinstance(config, SecondDemucsConfig)
        inwards = config.layers()
        specs = [self._encoder(level) for level in inwards]
        self.encoder = [EncoderLayer(self.ops, scope(tensors, spec.path), spec) for spec in specs]
        specs = [self._decoder(level) for level in reversed(inwards)]
        self.decoder = [DecoderLayer(self.ops, scope(tensors, spec.path), spec) for spec in specs]
        self.lstm = BLSTM(self.ops, scope(tensors, "lstm"), "lstm", config.lstm_layers) if config.lstm_layers else None

    def _spec(self, path: str, context: int, names: dict[str, str], last: bool) -> LayerSpec:
        config = self.config
        spec = LayerSpec(path, False, config.stride, 0, config.norm_groups, context, config.dconv_depth, last, names=names)
        return replace(spec, activation="gelu" if config.gelu else "relu", gate="glu" if config.glu else "relu")

    def _encoder(self, level: TimeLayer) -> LayerSpec:
        # Places in upstream's Sequential. The residual branch, if any, comes before the second convolution.
        after = self.config.second
        dconv = {"dconv": str(after)} if self.config.dconv_mode & 1 else {}
        after += len(dconv)
        names = {"conv": "0", "norm1": "1", "rewrite": str(after), "norm2": str(after + 1)}
        return self._spec(f"encoder.{level.index}", 0, names | dconv, last=False)

    def _decoder(self, level: TimeLayer) -> LayerSpec:
        names, at = ({"rewrite": "0", "norm1": "1"}, self.config.second) if self.config.rewrite else ({}, 0)
        if self.config.dconv_mode & 2:
            names, at = names | {"dconv": str(at)}, at + 1
        names |= {"conv_tr": str(at), "norm2": str(at + 1)}
        context = 0 if self.second else self.config.context
        return self._spec(f"decoder.{self.config.depth - 1 - level.index}", context, names, last=level.index == 0)

    def valid_length(self, length: int) -> int:
        """The length to pad `length` samples to, at which no convolution leaves a sample over."""
        config = self.config
        length *= 2 if config.resample else 1
        for _ in range(config.depth):
            length = max(1, -(-(length - config.kernel_size) // config.stride) + 1) + (2 * config.context if self.second else 0)
        for _ in range(config.depth):
            length = (length - 1) * config.stride + config.kernel_size
        return -(-length // 2) if config.resample else length

    def forward(self, mix: Array, out: Array) -> None:
        """mix [channels, n] -> out [sources, channels, n]."""
        ops, config, n = self.ops, self.config, mix.shape[1]
        mean, std, x = 0.0, 1.0, mix
        if config.normalize:
            x, mean, std = ops.normalize_mono(mix)
        delta = self.valid_length(n) - n
        padded = ops.pad(x, delta // 2, delta - delta // 2)
        ops.free(None if x is mix else x)
        x = padded
        if self.second and not config.normalize:
            ops.denormalize(x, 0.0, 1 / (1 + 1e-5), x)  # it divides by a deviation of 1 all the same
        if config.resample:
            x = ops.resample(padded, 1, 2)
            ops.free(padded)
        used = (x.shape[1] - config.kernel_size) // config.stride * config.stride + config.kernel_size  # of an odd length, one is left
        first = ops.transpose(x[:, :used])  # [channels, T] -> [1, T, channels]
        ops.free(x)

        skips: list[Array] = []
        x = first
        for index, encode in enumerate(self.encoder):
            x = tap(f"encoder.{index}", encode(ops, x), "TC")  # -> [1, T/stride, C]
            skips.append(x)
            if index == 0:
                ops.free(first)  # the inputs of the other layers are skips, and the decoder frees them
        y: Array | None = self.bottom(x)
        for index, decode in enumerate(self.decoder):
            skip = self.skip(f"decoder.{index}.skip", skips.pop(), "TC")
            skip = skip if y is None else self._trimmed(skip, y.shape[1])
            pre = decode.before_upsampling(ops, with_skip(ops, y, skip, f"decoder.{index}.skip"))  # -> [1, T, C]
            length = (pre.shape[1] - 1) * config.stride + config.kernel_size
            if skips and not tracing():
                skips[-1] = self._trimmed(skips[-1], length)
            y = outwards(ops, decode, pre, length, skips)  # -> [1, T*stride, C]
            if y is not None:
                tap(f"decoder.{index}", y, "TC")
            ops.free(pre)

        assert y is not None
        x, y = y, ops.transpose(y[0])[0]  # [sources*channels, T]
        ops.free(x)
        if config.resample:
            x, y = y, ops.resample(y, 2, 1)
            ops.free(x)
        start = (y.shape[1] - n) // 2
        ops.make_room(out)
        ops.denormalize(y[:, start : start + n], mean, std, out.reshape(-1, n))
        ops.free(y)

    def _trimmed(self, skip: Array, length: int) -> Array:
        """The middle of a skip, which in the second generation is longer than what it is added to. Frees it."""
        if skip.shape[1] == length:
            return skip
        start = (skip.shape[1] - length) // 2
        middle = self.ops.copy(skip[:, start : start + length])
        self.ops.free(skip)
        return middle

    def bottom(self, x: Array) -> Array:
        """The LSTM between encoder and decoder, if there is one. x stays in use as a skip."""
        if self.lstm is None:
            return self.ops.copy(x)
        y = self.lstm(self.ops, x.reshape(-1, 1, x.shape[2])).reshape(x.shape)  # [T, 1, C]
        return tap("lstm", y, "TC")
