"""A track that can be read anywhere: an array in memory, or a file without a name on disk."""

from __future__ import annotations

import bisect
import os
import tempfile
from pathlib import Path
from typing import IO, Protocol

import numpy as np

from ..kernels.arena import apart

BLOCK = 1 << 18  # samples that are read, converted or written at a time


class Source(Protocol):
    """A track that can be read anywhere: an array, or a file. One that is still growing has an attribute `ended`, False so far."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(channels, samples) or (batch, channels, samples)."""

    def read(self, start: int, stop: int) -> np.ndarray:
        """Samples start ... stop - 1, all within the track, as float32 (..., channels, stop - start)."""


class ArraySource:
    """An array in memory as a `Source`."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array

    @property
    def shape(self) -> tuple[int, ...]:
        return self._array.shape

    def read(self, start: int, stop: int) -> np.ndarray:
        return self._array[..., start:stop]


class Slice:
    """Samples `start` ... `stop` - 1 of a `Source`, as a `Source`."""

    def __init__(self, source: Source, start: int, stop: int) -> None:
        self._source, self._start, self._length = source, start, stop - start

    @property
    def shape(self) -> tuple[int, ...]:
        return *self._source.shape[:-1], self._length

    def read(self, start: int, stop: int) -> np.ndarray:
        return self._source.read(self._start + start, self._start + stop)


class Spool:
    """A track on disk, as float32 in a file without a name that vanishes when it is closed, whatever happens.

    A `Source`: shape (channels, samples). `peak` is the largest magnitude.
    """

    def __init__(self, channels: int, folder: str | Path) -> None:
        self.channels, self.folder = channels, Path(folder)
        self.samples = 0
        self.peak = np.float32(0)
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=folder, prefix=".demucs-np-", buffering=0)  # noqa: SIM115
        self._starts: list[int] = []  # first samples of the blocks, which lie in the file as they came, channel after channel

    @property
    def shape(self) -> tuple[int, ...]:
        return self.channels, self.samples

    def append(self, block: np.ndarray) -> None:
        """Add float32 (channels, samples). Raises OSError if the disk is full."""
        if block.size == 0:
            return
        self.peak = np.maximum(self.peak, np.maximum(block.max(), -block.min()))
        self._file.seek(0, os.SEEK_END)
        data = np.ascontiguousarray(block, np.float32).data.cast("B")
        while len(data):  # an unbuffered file may take less than all
            data = data[self._file.write(data) :]
        self._starts.append(self.samples)
        self.samples += block.shape[1]

    def read(self, start: int, stop: int) -> np.ndarray:
        out = apart((self.channels, stop - start))
        number = bisect.bisect_right(self._starts, start) - 1
        while start < stop:
            first = self._starts[number]
            end = self._starts[number + 1] if number + 1 < len(self._starts) else self.samples
            count, at = min(stop, end) - start, out.shape[1] - (stop - start)
            for channel, row in enumerate(out):
                self._fill(row[at : at + count], first * self.channels + channel * (end - first) + start - first)
            start, number = start + count, number + 1
        return out

    def _fill(self, row: np.ndarray, place: int) -> None:
        self._file.seek(place * row.itemsize)
        data = row.data.cast("B")
        while len(data):
            count = self._file.readinto(data)  # type: ignore[attr-defined]
            if not count:
                raise OSError("a temporary file has lost its end")
            data = data[count:]

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
