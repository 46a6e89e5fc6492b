"""Polyphase resampling by a windowed sinc: the filter of julius' `resample_frac`, which Demucs uses.

With both rates divided by their greatest common divisor, `rate = 0.945 * min(old, new)` and `width = ceil(24 * old / rate)`:

    out[n] = sum_k taps[n % new, k] * x[n * old // new + k - width],   k = 0 .. 2 * width

where x repeats its first and last sample beyond its ends, and the filter of a phase, at `t = π * rate * distance in seconds`
from the output sample, is `sinc(t) * cos²(t / 48)` for `|t| < 24 π`, zero elsewhere, divided by its sum.

What comes back from a model may be converted by a finer filter of the same kind: 96 zero crossings on each side, `rate = 0.9575 * min(old,
new)`, and a Kaiser window, whose stop band, of 125 dB, begins where one of the signals ends.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from . import tiles
from ._jit import kernel, numbers, view

ZEROS = 24  # zero crossings of the sinc on each side
ROLLOFF = 0.945  # the pass band, as a part of the lower Nyquist frequency
FINE_ZEROS, FINE_ROLLOFF, FINE_BETA = 96, 0.9575, 12.8
TILE = 8192  # output samples of one channel


@functools.lru_cache(maxsize=8)
def taps(old: int, new: int, fine: bool = False) -> np.ndarray:
    """The filter of each output phase, float32 (new, 2 * width + 1), computed in float64 and rounded once. Rates are coprime."""
    zeros, rolloff = (FINE_ZEROS, FINE_ROLLOFF) if fine else (ZEROS, ROLLOFF)
    rate = rolloff * min(old, new)
    width = math.ceil(zeros * old / rate)
    table = np.empty((new, 2 * width + 1), np.float32)
    for start in range(0, new, 1024):  # some at a time: the intermediates are in float64
        phase = np.arange(start, min(start + 1024, new))[:, None]
        position = phase * old // new + np.arange(-width, width + 1)
        distance = (position * new - phase * old) / (old * new)  # seconds; the numerator is an exact integer
        t = np.clip(distance * rate, -zeros, zeros)
        rows = np.sinc(t) * (np.i0(FINE_BETA * np.sqrt(1 - (t / zeros) ** 2)) if fine else np.cos(t * (math.pi / (2 * zeros))) ** 2)
        table[start : start + 1024] = rows / rows.sum(axis=1, keepdims=True)
    table.flags.writeable = False
    return table


@kernel
def _resample_tiles(tile0, tile1, scratch, x, table, out, geometry):
    """out[c, n - first] = sum_k table[n % new, k] * x[c, n * old // new - base + k], summed in float64."""
    size, width, old, new, first, base, tiles, length = numbers(geometry, 8)
    count = out.size // (x.size // size)
    for tile in range(tile0, tile1):
        channel, start = tile // tiles, tile % tiles * length
        target = view(out, channel * count, count)
        for i in range(start, min(start + length, count)):
            n = first + i
            row, window = view(table, n % new * width, width), view(x, channel * size + n * old // new - base, width)
            total = 0.0
            for k in range(width):
                total += np.float64(row[k]) * np.float64(window[k])
            target[i] = np.float32(total)


def _filter(x: np.ndarray, table: np.ndarray, old: int, new: int, first: int, base: int, out: np.ndarray) -> None:
    """Outputs `first ...` of the signal whose padded sample `base` is `x[:, 0]`, by the compiled kernel."""
    per_channel = -(-out.shape[1] // TILE)
    geometry = np.array([x.shape[1], table.shape[1], old, new, first, base, per_channel, TILE])
    tiles.pool().run(_resample_tiles, out.shape[0] * per_channel, 0, x.reshape(-1), table.reshape(-1), out.reshape(-1), geometry)


def _filter_numpy(x: np.ndarray, table: np.ndarray, old: int, new: int, first: int, base: int, out: np.ndarray) -> None:
    """As `_filter`, in NumPy: all outputs of one phase read windows that lie `old` samples apart."""
    count = out.shape[1]
    if count == 0:
        return
    windows = np.lib.stride_tricks.sliding_window_view(x, table.shape[1], axis=1)  # [C, T, K]
    for n in range(first, first + min(new, count)):
        outputs = out[:, n - first :: new]  # [C, N]
        begin = n * old // new - base
        outputs[:] = windows[:, begin::old][:, : outputs.shape[1]] @ table[n % new].astype(np.float64)


class Resampler:
    """Resample a signal that arrives in blocks, with the samples that `resample` gives for the whole.

    `push` each block, float32 (channels, samples), then `finish`; both return the output samples that have become known.
    """

    def __init__(self, old_rate: int, new_rate: int, backend: str = "numba", fine: bool = False) -> None:
        divisor = math.gcd(old_rate, new_rate)
        self.old, self.new = old_rate // divisor, new_rate // divisor
        self._table = taps(self.old, self.new, fine) if self.old != self.new else np.ones((1, 1), np.float32)
        self._width = int(self._table.shape[1]) // 2
        self._filter = _filter_numpy if backend == "numpy" else _filter
        self._buffer = np.empty((0, 0), np.float32)  # padded input that later outputs still need
        self._base = 0  # position of its first sample in the padded input
        self._received = 0
        self._sent = 0

    def push(self, x: np.ndarray) -> np.ndarray:
        """Take `x`, float32 (channels, samples)."""
        if self.old == self.new or x.shape[1] == 0:
            self._buffer = x[:, :0] if self._received == 0 else self._buffer
            return x
        if self._received == 0:
            self._buffer = np.repeat(x[:, :1], self._width, axis=1)
        self._received += x.shape[1]
        self._buffer = np.concatenate([self._buffer, x], axis=1)
        # the last output whose window ends within the buffer: n * old // new + width of the window <= base + size
        last = self._base + self._buffer.shape[1] - self._table.shape[1]
        known = ((last + 1) * self.new - 1) // self.old + 1 if last >= 0 else 0
        return self._send(min(known, self.new * self._received // self.old))

    @property
    def lookahead(self) -> int:
        """Input samples that an output sample waits for."""
        return self._width

    def finish(self, samples: int | None = None) -> np.ndarray:
        """Take the end of the signal. In all, `samples` samples have then been returned; None: `new * received // old`, as `resample` does.

        What is asked for beyond that goes on as if the signal repeated its last sample.
        """
        if self._received == 0:
            return self._buffer
        if samples is None:
            samples = self.new * self._received // self.old
        more = max(0, (samples - 1) * self.old // self.new - (self._received - 1)) if samples > 0 else 0
        if self.old != self.new or more:
            self._buffer = np.concatenate([self._buffer, np.repeat(self._buffer[:, -1:], self._width + more, axis=1)], axis=1)
        return self._send(samples)

    def _send(self, until: int) -> np.ndarray:
        out = np.empty((self._buffer.shape[0], max(0, until - self._sent)), np.float32)
        if out.shape[1]:
            self._filter(self._buffer, self._table, self.old, self.new, self._sent, self._base, out)
            self._sent = until
            needed = self._sent * self.old // self.new
            self._buffer = self._buffer[:, needed - self._base :].copy()
            self._base = needed
        return out


def resample(x: np.ndarray, old_rate: int, new_rate: int, backend: str = "numba", fine: bool = False) -> np.ndarray:
    """Resample float32 `x` (channels, samples) to (channels, new_rate * samples // old_rate).

    Equal rates return `x` itself. `fine`: by the longer filter. Source: `julius.resample_frac`.
    """
    divisor = math.gcd(old_rate, new_rate)
    old, new = old_rate // divisor, new_rate // divisor
    if old == new:
        return x
    out = np.empty((x.shape[0], new * x.shape[1] // old), np.float32)
    if out.size:
        table = taps(old, new, fine)
        padded = np.pad(x, ((0, 0), (table.shape[1] // 2,) * 2), mode="edge")
        (_filter_numpy if backend == "numpy" else _filter)(padded, table, old, new, 0, 0, out)
    return out


def padded_shape(x: np.ndarray, old_rate: int, new_rate: int) -> tuple[int, int]:
    """Of what `resample_into` needs to work."""
    divisor = math.gcd(old_rate, new_rate)
    return x.shape[0], x.shape[1] + taps(old_rate // divisor, new_rate // divisor).shape[1] // 2 * 2


def resample_into(x: np.ndarray, old_rate: int, new_rate: int, padded: np.ndarray, out: np.ndarray) -> None:
    """out[C, new_rate * n // old_rate] = x [C, n], any view, resampled as by `resample`, rates different. padded: `padded_shape`."""
    divisor = math.gcd(old_rate, new_rate)
    old, new = old_rate // divisor, new_rate // divisor
    table = taps(old, new)
    width = table.shape[1] // 2
    padded[:, width : padded.shape[1] - width] = x
    padded[:, :width], padded[:, padded.shape[1] - width :] = x[:, :1], x[:, -1:]
    if out.size:
        _filter(padded, table, old, new, 0, 0, out)


def resample_numpy(x: np.ndarray, old_rate: int, new_rate: int) -> np.ndarray:
    """`resample` in plain NumPy."""
    return resample(x, old_rate, new_rate, backend="numpy")
