"""What the page draws of a stem, gathered block by block: a waveform's peaks and a spectrogram, a byte a value.

The page's own `pictures.js` makes the same bytes where no server is.
"""

from __future__ import annotations

import itertools
from functools import lru_cache

import numpy as np

PEAK = 256  # samples of a peak: two int8, the least and the greatest sample of all channels, 127 being ±1
WINDOW = 2048  # samples of a column, without overlap
BANDS = 96  # rows of a column, from LOWEST to HIGHEST Hz in even steps of pitch, uint8
LOWEST, HIGHEST = 40.0, 16000.0
FLOOR = -90.0  # dB against a full-scale sine: 0; 0 dB: 255


class Pictures:
    """Of one stem. `peaks` and `spectrogram` grow as blocks come; `finish` adds what a last, incomplete window holds."""

    def __init__(self, samplerate: int) -> None:
        self.samplerate = samplerate
        self.peaks = bytearray()
        self.spectrogram = bytearray()
        self._rest = np.zeros(0, np.float32)
        self._tail: list[np.ndarray] = [np.zeros(0, np.float32), np.zeros(0, np.float32)]

    def append(self, block: np.ndarray) -> None:
        """float32 (channels, samples)."""
        low = np.concatenate([self._tail[0], block.min(axis=0)])
        high = np.concatenate([self._tail[1], block.max(axis=0)])
        whole = len(low) // PEAK * PEAK
        self._add_peaks(low[:whole].reshape(-1, PEAK), high[:whole].reshape(-1, PEAK))
        self._tail = [low[whole:], high[whole:]]
        mono = np.concatenate([self._rest, block.mean(axis=0, dtype=np.float32)])
        whole = len(mono) // WINDOW * WINDOW
        self._add_columns(mono[:whole].reshape(-1, WINDOW))
        self._rest = mono[whole:]

    def finish(self) -> None:
        if len(self._tail[0]):
            self._add_peaks(self._tail[0][None], self._tail[1][None])
        if len(self._rest):
            self._add_columns(np.pad(self._rest, (0, WINDOW - len(self._rest)))[None])

    def _add_peaks(self, low: np.ndarray, high: np.ndarray) -> None:
        pairs = np.stack([low.min(axis=1), high.max(axis=1)], axis=1) if len(low) else np.zeros((0, 2), np.float32)
        self.peaks += np.rint(pairs.clip(-1, 1) * 127).astype(np.int8).tobytes()

    def _add_columns(self, windows: np.ndarray) -> None:
        hann, bands = _tables(self.samplerate)
        power = np.abs(np.fft.rfft(windows * hann)) ** 2  # [n, WINDOW/2 + 1]
        level = np.stack([power[:, low:high].max(axis=1) for low, high in bands], axis=1)
        decibels = 10 * np.log10(np.maximum(level * (4 / WINDOW) ** 2, 1e-12))
        self.spectrogram += np.rint((1 - decibels / FLOOR).clip(0, 1) * 255).astype(np.uint8).tobytes()


@lru_cache(4)
def _tables(samplerate: int) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Hann's window, and the bins of each band."""
    edges = LOWEST * (HIGHEST / LOWEST) ** (np.arange(BANDS + 1) / BANDS) * WINDOW / samplerate
    starts = np.minimum(np.floor(edges).astype(int), WINDOW // 2)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    return hann, [(int(a), max(int(a) + 1, int(b))) for a, b in itertools.pairwise(starts)]
