"""Stems on disk while they grow and afterwards: WAV of 32-bit floats, whose samples are never limited, read at any place."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from types import TracebackType

import numpy as np

from ..audio import turned
from ..errors import AudioError
from ..page.pictures import Pictures

HEADER = 56  # bytes: RIFF, fmt, fact, data


def header(channels: int, samplerate: int, samples: int) -> bytes:
    """Of a float32 WAV file. Raises AudioError above 4 GB."""
    size = samples * channels * 4
    if size + HEADER >= 2**32:
        raise AudioError(f"a stem of {samples / samplerate / 3600:.1f} hours is larger than a WAV file can be (4 GB); cut the track")
    form = struct.pack("<IHHIIHH", 16, 3, channels, samplerate, samplerate * channels * 4, channels * 4, 32)
    rest = b"WAVEfmt " + form + b"fact" + struct.pack("<II", 4, samples) + b"data" + struct.pack("<I", size)
    return b"RIFF" + struct.pack("<I", len(rest) + size) + rest


class WaveWriter:
    """A stem that is written from its beginning to its end, and its pictures. The header holds its length from the start."""

    def __init__(self, path: Path, channels: int, samplerate: int, samples: int) -> None:
        self.path = path
        self.pictures = Pictures(samplerate)
        self._file = open(path, "wb", buffering=0)  # noqa: SIM115
        self._file.write(header(channels, samplerate, samples))

    def append(self, block: np.ndarray) -> None:
        """float32 (channels, samples)."""
        data = turned(block.astype("<f4", copy=False)).data.cast("B") if block.size else memoryview(b"")
        while len(data):
            data = data[self._file.write(data) :]
        self.pictures.append(block)

    def finish(self) -> None:
        """Write the pictures beside the file, and wait until the disk has it all."""
        self.pictures.finish()
        for ending, content in ((".peaks", self.pictures.peaks), (".spectrogram", self.pictures.spectrogram)):
            self.path.with_suffix(ending).write_bytes(content)
        os.fsync(self._file.fileno())

    def __enter__(self) -> WaveWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()


class Wave:
    """A stem as a source of samples: shape (channels, samples) of the part from `start` to `stop`."""

    def __init__(self, path: Path, channels: int, start: int, stop: int) -> None:
        self.path, self.channels, self.start, self.stop = path, channels, start, stop

    @property
    def shape(self) -> tuple[int, ...]:
        return self.channels, self.stop - self.start

    def read(self, start: int, stop: int) -> np.ndarray:
        """Samples of the part, as float32 (channels, stop - start)."""
        frames = read_frames(self.path, self.channels, self.start + start, self.start + stop)
        return turned(frames)


def read_frames(path: Path, channels: int, start: int, stop: int) -> np.ndarray:
    """float32 (samples, channels); fewer where the file ends before `stop`."""
    count = max(0, stop - start) * channels
    return np.fromfile(path, "<f4", count, offset=HEADER + start * channels * 4).reshape(-1, channels)
