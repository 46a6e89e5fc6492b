"""Models of three lines that have the real ones' habits of padding, and notice what they are given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from demucs_np.errors import UsageError
from demucs_np.models.recipe import Recipe

SOURCES = ("drums", "bass", "other", "vocals")


@dataclass(frozen=True)
class AnyConfig:
    """Of a model that pads by itself or not at all."""


@dataclass(frozen=True)
class TransformerConfig:
    use_train_segment: bool = True


class FakeModel:
    """Stem s is `(s + 1) x + 0.3 reversed(x) + 0.1 ramp`: its samples depend on all that is in the chunk, and on where it lies.

    kind "htdemucs" takes up to one segment and fills it with zeros on the right, "hdemucs" takes any length, "demucs" wants lengths of
    one above a multiple of 64.
    """

    def __init__(
        self,
        kind: str = "hdemucs",
        sources: tuple[str, ...] = SOURCES,
        samplerate: int = 1000,
        channels: int = 2,
        segment: float | Fraction = Fraction(2, 5),
        gain: float = 1.0,
    ) -> None:
        self.kind = kind
        self.sources = sources
        self.samplerate = samplerate
        self.audio_channels = channels
        self.segment = segment
        self.gain = gain
        self.backend = "numpy"
        self.recipe, self.normalize = Recipe(), True
        self.config = TransformerConfig() if kind == "htdemucs" else AnyConfig()
        self.calls: list[tuple[int, ...]] = []
        self.before: Callable[[], None] = lambda: None
        self.models, self.weights = [self], [[1.0] * len(sources)]  # a bag of one

    @property
    def max_segment(self) -> float | Fraction | None:
        return self.segment if self.kind == "htdemucs" else None

    def valid_length(self, length: int) -> int:
        if self.kind == "demucs":
            return -(-(length - 1) // 64) * 64 + 1
        if self.kind == "htdemucs":
            if length > self.samplerate * self.segment:
                raise UsageError(f"{length} samples are longer than the segment")
            return int(self.samplerate * self.segment)
        return length

    def __call__(self, mix: np.ndarray) -> np.ndarray:
        self.before()
        self.calls.append(mix.shape)
        assert mix.dtype == np.float32
        length = mix.shape[-1]
        if self.kind == "htdemucs":
            mix = np.pad(mix, ((0, 0), (0, 0), (0, int(self.samplerate * self.segment) - length)))
        ramp = np.arange(mix.shape[-1], dtype=np.float32) / np.float32(mix.shape[-1])
        stems = [
            np.float32(self.gain * (s + 1)) * mix + np.float32(0.3) * mix[..., ::-1] + np.float32(0.1) * ramp
            for s in range(len(self.sources))
        ]
        return np.stack(stems, axis=1)[..., :length]


class Straight(FakeModel):
    """Every stem is the mix: what a window makes of a sample does not depend on where it lies."""

    def __call__(self, mix: np.ndarray) -> np.ndarray:
        self.calls.append(mix.shape)
        return np.stack([mix] * len(self.sources), axis=1)
