"""Which stems are computed, which are written, and at what level."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..audio import ClipMode, Encoding, Source, pieces, prevent_clip, to_pcm
from ..audio.levels import divisor, told_changes, told_decibels
from ..errors import UsageError
from ..models.bag import BagOfModels
from . import apply

OtherMethod = Literal["add", "minus", "none"]
RESIDUAL = "residual"


@dataclass(frozen=True)
class Outputs:
    """Which stems the model has to compute, and what is written from them."""

    computed: list[str]
    names: list[str]

    @classmethod
    def choose(cls, model: BagOfModels, stems: Sequence[str] | None, two_stems: str | None, other_method: OtherMethod) -> Outputs:
        """Raises UsageError for a stem that the model does not have."""
        if two_stems is None:
            names = apply.wanted_stems(model, stems)
            return cls(names, names)
        if stems is not None:
            raise UsageError("either choose the stems to write, or two stems: not both")
        apply.wanted_stems(model, [two_stems])
        if other_method == "add":
            return cls(list(model.sources), [two_stems, f"no_{two_stems}"])
        return cls([two_stems], [two_stems] + ([f"minus_{two_stems}"] if other_method == "minus" else []))

    def mix(self, block: np.ndarray, origin: Source, start: int) -> Sequence[np.ndarray]:
        """What is written, from computed (stems, channels, samples) that begin at sample `start` of the track."""
        if self.names == self.computed:
            return block  # type: ignore[return-value]
        stem = block[self.computed.index(self.names[0])]
        if len(self.names) == 1:
            return [stem]
        if self.names[1].startswith("minus_"):
            return [stem, origin.read(start, start + block.shape[-1]) - stem]
        others = np.zeros_like(stem)
        for name, part in zip(self.computed, block, strict=True):
            if name != self.names[0]:
                others += part
        return [stem, others]


class Levels:
    """The stems as they are written: after a clip mode, as the samples of an encoding. `mix`: what they and the residual add up to."""

    def __init__(
        self, stems: Mapping[str, Source], peaks: Mapping[str, Any], clip: ClipMode, encoding: Encoding, mix: Source | None
    ) -> None:
        self._stems, self._clip, self._mix, self._bits = stems, clip, mix, encoding.depth
        self._peaks = dict(peaks)
        if clip == "common" and mix is not None:
            self._peaks[RESIDUAL] = max(np.abs(block).max() for block in self._differences(mix))
        loudest = max(self._peaks.values())
        self._levels = {name: loudest if clip == "common" else peak for name, peak in self._peaks.items()}
        self._cut = 1.0  # by how much the residual would have had to be quieter

    def frames(self, name: str) -> Iterator[np.ndarray]:
        """What is written of a stem, or of the residual, in blocks as `to_pcm` makes them."""
        if name == RESIDUAL:
            return self._residual()
        return (self._written(name, block) for block in pieces(self._stems[name]))

    def _residual(self) -> Iterator[np.ndarray]:
        """The mix, to the nearest step of the format, less all stems as they are written. With "common", the mix has their gain."""
        assert self._mix is not None
        gain = 1 / float(divisor(self._clip, max(self._peaks.values()))) if self._clip == "common" else 1.0
        scale = 1.0 if self._bits == 32 else 2.0 ** (self._bits - 1)
        blocks = zip(pieces(self._mix), *(self.frames(name) for name in self._stems), strict=True)
        for mix, *stems in blocks:
            rest = np.ascontiguousarray(mix.T, np.float64) * (gain * scale)  # [C, n] -> [n, C]
            if self._bits < 32:
                rest = np.rint(rest)
            for stem in stems:
                rest -= stem
            if self._bits == 32:
                yield rest.astype("<f4")
                continue
            self._cut = max(self._cut, float(np.abs(rest).max(initial=0)) / (scale - 1))
            yield rest.clip(-scale, scale - 1).astype("<i2" if self._bits == 16 else "<i4")

    def told(self) -> str:
        """What was changed, when all is written; "": nothing."""
        told = told_changes(self._peaks, self._clip)
        if self._cut > 1.001:  # else half a step
            too_loud = f"the residual is {told_decibels(self._cut)} too loud for the format and was cut; --clip-mode common avoids it"
            told = f"{told}; {too_loud}" if told else too_loud
        return told

    def _written(self, name: str, block: np.ndarray) -> np.ndarray:
        return to_pcm(prevent_clip(block, self._clip, self._levels[name]), self._bits)

    def _differences(self, mix: Source) -> Iterator[np.ndarray]:
        for block, *stems in zip(pieces(mix), *map(pieces, self._stems.values()), strict=True):
            rest = block.astype(np.float64)
            for stem in stems:
                rest -= stem
            yield rest
