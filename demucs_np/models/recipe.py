"""How a model is run over a track unless one is told otherwise: part of the model, as its trainers' own program runs it."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, TypeAlias

Window: TypeAlias = Literal["triangle", "flat"]


@dataclass(frozen=True)
class Recipe:
    """- `shifts`: so many passes over the track, each delayed by a random time, are averaged; 0: one pass, not delayed.
    - `overlap`: the part of a chunk that it has in common with the next.
    - `window`: "triangle": chunks are cross-faded, and one that is short is filled up on both sides, as in `demucs.apply`. "flat": chunks
      are averaged with equal weights, and the last one is filled up with zeros to a whole one, as MSST does.
    - `normalize`: whether the model hears the track at a mean of 0 and a standard deviation of 1.
    """

    shifts: int = 1
    overlap: float | Fraction = 0.25
    window: Window = "triangle"
    normalize: bool = True
