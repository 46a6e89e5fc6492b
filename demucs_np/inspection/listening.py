"""What a part of a model does to the stems: an excerpt with the part and without it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .. import audio
from ..audio import ArraySource
from ..audio.levels import told_changes
from ..errors import DemucsError
from ..models.bag import BagOfModels
from ..models.taps import trace
from ..separation.loudness import Moments
from ..separation.separator import Separator

Array = np.ndarray
FLOOR = -120.0  # dB; what is below is silence


@dataclass(frozen=True)
class Change:
    """A stem with and without a part: levels (root mean square) in dB of full scale, at least `FLOOR`; `difference`: that of what the
    part adds to the stem."""

    stem: str
    level: float
    ablated: float
    difference: float

    @property
    def change(self) -> float:
        """Of the level, in dB."""
        return self.ablated - self.level


def stems_of(
    model: BagOfModels, excerpt: Array, moments: Moments, ablate: Sequence[str] = (), threads: int | None = None
) -> dict[str, Array]:
    """Stem -> float32 (channels, samples) of an excerpt (channels, samples) of a track with these moments, at the track's loudness.

    Raises UsageError for what cannot be switched off.
    """
    names, out = list(model.sources), np.empty((len(model.sources), *excerpt.shape), np.float32)
    longer = excerpt.shape[1] > model.segment * model.samplerate  # what fits into one segment is not cut
    separator = Separator(model, shifts=0, split=longer, threads=threads)
    with trace(layers=[], ablate=ablate):
        for start, block in separator.stems_of(ArraySource(excerpt), moments, names, "the excerpt"):
            out[..., start : start + block.shape[-1]] = block
    return dict(zip(names, out, strict=True))


def changes(plain: Mapping[str, Array], ablated: Mapping[str, Array]) -> list[Change]:
    """Of each stem."""
    return [Change(stem, level(wav), level(ablated[stem]), level(wav - ablated[stem])) for stem, wav in plain.items()]


def level(wav: Array) -> float:
    """Root mean square in dB of full scale, at least `FLOOR`."""
    power = float(np.mean(np.square(wav, dtype=np.float64)))
    return max(FLOOR, 10 * math.log10(power)) if power > 0 else FLOOR


def table(found: Sequence[Change]) -> str:
    """For people."""
    width = max(len("stem"), *(len(change.stem) for change in found))
    lines = [f"{'stem':{width}}  level dB  without it  change  what it adds"]
    for change in found:
        numbers = f"{change.level:8.1f}  {change.ablated:10.1f}  {change.change:+6.1f}  {change.difference:12.1f}"
        lines.append(f"{change.stem:{width}}  {numbers}")
    return "\n".join(lines)


def files_of(folder: Path, stems: Sequence[str]) -> list[Path]:
    """Where `write_all` writes."""
    return [folder / f"{stem}{kind}.wav" for stem in stems for kind in ("", ".ablated", ".difference")]


def write_all(folder: Path, plain: Mapping[str, Array], ablated: Mapping[str, Array], samplerate: int) -> str:
    """Write STEM.wav, STEM.ablated.wav and STEM.difference.wav, the first less the second, with one gain for all of them.

    Returns what was done against clipping, "" if nothing. Raises DemucsError where they cannot be written.
    """
    waves = [wav for stem in plain for wav in (plain[stem], ablated[stem], plain[stem] - ablated[stem])]
    files = files_of(folder, list(plain))
    peaks = {file.name: np.abs(wav).max() for file, wav in zip(files, waves, strict=True)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DemucsError(f"{folder}: cannot be written ({error.strerror}); choose another folder") from error
    for file, wav in zip(files, waves, strict=True):
        audio.write(file, ArraySource(wav), samplerate, clip="common", peak=max(peaks.values()))
    return told_changes(peaks, "common").partition(";")[0]
