"""A part of an audio file, as a model takes it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..audio import open_track, read_blocks
from ..errors import AudioError
from .loudness import Moments

if TYPE_CHECKING:
    from ..models.config import Config


def read_excerpt(path: Path, at: float, length: int, config: Config, *, whole: bool = False) -> tuple[NDArray[np.float32], Moments]:
    """Up to `length` samples (channels, samples) of a file from `at` seconds on, fewer where it ends, and the moments of what was read:
    up to the excerpt's end, or of the `whole` file. Raises AudioError for a file that cannot be read, or that ends before `at`."""
    start, position, parts, moments = round(at * config.samplerate), 0, [], Moments()
    with open_track(path) as track:
        for block in read_blocks(track, config.samplerate, config.audio_channels):
            parts.append(block[:, max(start - position, 0) : max(start + length - position, 0)])
            position += block.shape[1]
            moments.update(block)
            if position >= start + length and not whole:
                break
    excerpt = np.concatenate(parts, axis=1)
    if excerpt.shape[1] < 2:
        raise AudioError(f"{path}: is {position / config.samplerate:.2f} s long; choose an --at before its end")
    return excerpt, moments
