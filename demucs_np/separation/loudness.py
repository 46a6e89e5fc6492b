"""The loudness of a track: measured, taken away for the model, and given back to the stems."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from ..audio import Source
from ..kernels.arena import apart
from .windows import Block, Loudness


class Moments:
    """Mean and unbiased standard deviation of a track's mono mix, gathered block by block in float64."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = 0.0
        self._squares = 0.0  # sum of squared distances from the mean

    def update(self, wav: np.ndarray) -> None:
        """Add float32 (channels, samples)."""
        count = wav.shape[1]
        if count == 0:
            return
        mono = wav.mean(axis=0, dtype=np.float64)
        mean = float(mono.mean())
        delta, total = mean - self.mean, self.count + count
        self._squares += float(np.square(mono - mean).sum()) + delta * delta * self.count * count / total
        self.mean += delta * count / total
        self.count = total

    @property
    def std(self) -> float:
        """NaN for a single sample."""
        return math.sqrt(self._squares / (self.count - 1)) if self.count > 1 else math.nan


class Normalised:
    """A source with the track's mean removed and divided by its standard deviation."""

    def __init__(self, source: Source, mean: np.float32, std: np.float32) -> None:
        self._source, self._mean, self._std = source, mean, std

    @property
    def shape(self) -> tuple[int, ...]:
        return self._source.shape

    @property
    def ended(self) -> bool:
        """False while the track is still growing."""
        return getattr(self._source, "ended", True)

    def read(self, start: int, stop: int) -> np.ndarray:
        part = self._source.read(start, stop)
        out: np.ndarray = np.subtract(part, self._mean, out=apart(part.shape))
        out /= self._std
        return out


def louder(blocks: Iterator[Block], level: Loudness) -> Iterator[Block]:
    """The blocks, which models made of a `Normalised` track, with its loudness (mean, deviation) given back, in place."""
    for start, block in blocks:
        block *= level[1]
        block += level[0]
        yield start, block
