"""What can be saved of a separated track: stems, or what is heard, whole or a part; one file or a ZIP."""

from __future__ import annotations

import contextlib
import math
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..audio import BLOCK, Encoding, Spool, write
from ..errors import UsageError
from ..kernels.resample import Resampler
from .library import Library, Track
from .waves import Wave

MIX = "mix"  # the original, as the model heard it


@dataclass(frozen=True)
class Voice:
    """A stem in a mix: a gain, and a place from -1 (left) to 1 (right)."""

    stem: str
    gain: float = 1.0
    pan: float = 0.0


def parse_voices(text: str, names: Sequence[str]) -> list[Voice]:
    """`drums:0.5:-1,bass` -> voices. Raises UsageError."""
    voices = []
    for item in text.split(","):
        stem, *numbers = item.split(":")
        try:
            gain, pan = ([float(number) for number in numbers] + [1.0, 0.0][len(numbers) :])[:2]
        except ValueError:
            raise UsageError(f"{item!r} is not a stem, STEM:GAIN or STEM:GAIN:PAN") from None
        if stem not in names:
            raise UsageError(f"there is no stem {stem!r}; choose from {', '.join(names)}")
        if not (0 <= gain <= 16 and -1 <= pan <= 1):
            raise UsageError(f"{item!r}: a gain is 0 to 16, a pan -1 to 1")
        voices.append(Voice(stem, gain, pan))
    return voices


def pan_matrix(pan: float) -> np.ndarray:
    """What a StereoPannerNode does to stereo: [left, right] out = matrix @ [left, right] in, float32 (2, 2)."""
    angle = (pan + 1 if pan <= 0 else pan) * math.pi / 2
    near, far = math.cos(angle), math.sin(angle)
    return np.array([[1, near], [0, far]] if pan <= 0 else [[near, 0], [far, 1]], np.float32)


class Mixture:
    """Voices as one source: shape (channels, samples)."""

    def __init__(self, voices: list[tuple[Voice, Wave]]) -> None:
        self.voices = voices

    @property
    def shape(self) -> tuple[int, ...]:
        return self.voices[0][1].shape

    def read(self, start: int, stop: int) -> np.ndarray:
        """float32 (channels, stop - start)."""
        total: np.ndarray | None = None
        for voice, wave in self.voices:
            part = wave.read(start, stop)
            if voice.pan and part.shape[0] == 2:
                part = pan_matrix(voice.pan) @ part
            if voice.gain != 1:
                part *= np.float32(voice.gain)
            total = part if total is None else total + part
        assert total is not None
        return total


@dataclass(frozen=True)
class Wanted:
    """What is to be saved: each group of voices is a file of that name. `start` and `stop` are samples at the stems' rate."""

    groups: dict[str, list[Voice]]
    encoding: Encoding
    rate: int
    start: int
    stop: int


def export(library: Library, track: Track, wanted: Wanted, folder: Path) -> Path:
    """Write it into `folder`, one file, or a ZIP if there are several groups; returns the path, whose name is a label."""
    files = []
    for name, voices in wanted.groups.items():
        waves = [(voice, _wave(library, track, voice.stem, wanted)) for voice in voices]
        path = folder / f"{track.name.rsplit('.', 1)[0]} - {name}.{wanted.encoding.format}"
        with _at_rate(Mixture(waves), track.rate, wanted.rate, folder) as source:
            write(path, source, wanted.rate, wanted.encoding, "none" if wanted.encoding.bits == 32 else "rescale")
        files.append(path)
    if len(files) == 1:
        return files[0]
    archive = folder / f"{track.name.rsplit('.', 1)[0]}.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as bundle:
        for path in files:
            bundle.write(path, path.name)
            path.unlink()
    return archive


def _wave(library: Library, track: Track, stem: str, wanted: Wanted) -> Wave:
    return Wave(library.path(track, "stems", f"{stem}.wav"), track.stem_channels, wanted.start, wanted.stop)


@contextlib.contextmanager
def _at_rate(source: Mixture, old: int, new: int, folder: Path) -> Iterator[Mixture | Spool]:
    """The source at another sample rate, through a file."""
    if old == new:
        yield source
        return
    channels, samples = source.shape
    resampler = Resampler(old, new, "numba", fine=True)
    with Spool(channels, folder) as spool:
        for start in range(0, samples, BLOCK):
            spool.append(resampler.push(source.read(start, min(start + BLOCK, samples))))
        spool.append(resampler.finish())
        yield spool
