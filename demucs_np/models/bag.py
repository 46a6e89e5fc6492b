"""Models whose stems are averaged with weights: what every name stands for, be it a single model."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Protocol, cast

import numpy as np

from ..errors import ModelError, UsageError
from .config import Config
from .recipe import Recipe


class Model(Protocol):
    """A member of a bag. HTDemucs, HDemucs and Demucs are that."""

    sources: tuple[str, ...]
    """Names of the stems, in the order of the output."""

    @property
    def samplerate(self) -> int:
        """Hz."""

    @property
    def audio_channels(self) -> int:
        """Channels of the input and of each stem."""

    @property
    def segment(self) -> Fraction | float:
        """Seconds of the chunks that a long track is cut into."""

    @property
    def max_segment(self) -> Fraction | float | None:
        """The longest chunk in seconds that the model takes. None: any."""

    @property
    def config(self) -> Config:
        """The constructor arguments."""

    @property
    def backend(self) -> str:
        """numba or numpy."""

    recipe: Recipe
    """How it is run over a track unless one is told otherwise."""

    def valid_length(self, length: int) -> int:
        """The length that an input of `length` samples is to be padded to."""

    def __call__(self, mix: np.ndarray) -> np.ndarray:
        """float32 (batch, channels, samples) -> (batch, sources, channels, samples)."""


class BagOfModels:
    """One or more models that run one after the other, each stem averaged with a weight per model.

    `weights` holds one list per model with a number per stem (None: all 1). `segment` (seconds) replaces the models' own, for
    HTDemucs only where it is not longer; unlike the `segment` of `apply_model` it shortens the network's input as well.

    Raises ModelError if the models do not agree on stems, sample rate and channels, or the weights do not fit them.
    Source: `demucs.apply.BagOfModels`.
    """

    def __init__(self, models: Sequence[Model], weights: Sequence[Sequence[float]] | None = None, segment: float | None = None) -> None:
        if not models:
            raise ModelError("a bag of models needs at least one model")
        first = models[0]
        for number, other in enumerate(models[1:], 2):
            for name in ("sources", "samplerate", "audio_channels"):
                if getattr(other, name) != getattr(first, name):
                    raise ModelError(
                        f"model {number} of the bag has {name} {getattr(other, name)}, but the first has {getattr(first, name)}: "
                        "only models that agree can be averaged"
                    )
        if len({model.recipe.normalize for model in models}) > 1:
            raise ModelError("some models of the bag want the track at its own loudness and some do not: they cannot be averaged")
        if weights is None:
            weights = [[1.0] * len(first.sources)] * len(models)
        if [len(row) for row in weights] != [len(first.sources)] * len(models):
            raise ModelError(f"the bag's weights must be {len(models)} lists (a model each) of {len(first.sources)} numbers (a stem each)")
        for source, column in zip(first.sources, zip(*weights, strict=True), strict=True):
            if sum(column) == 0:
                raise ModelError(f"the bag's weights for stem {source} add up to zero: no model would make it")
        if segment is not None and not segment > 0:
            raise ModelError(f"the bag's segment is {segment} seconds, but must be above zero")
        self.models: list[Model] = [model if segment is None else _with_segment(model, segment) for model in models]
        self.weights = [[float(weight) for weight in row] for row in weights]
        self.sources = first.sources
        self.samplerate = first.samplerate
        self.audio_channels = first.audio_channels
        self.backend = first.backend

    def __repr__(self) -> str:
        kinds = ", ".join(type(model).__name__ for model in self.models)
        return f"BagOfModels([{kinds}]: {', '.join(self.sources)}; {self.audio_channels} channels at {self.samplerate} Hz)"

    @property
    def segment(self) -> Fraction | float:
        """Seconds of the chunks that a long track is cut into; the shortest, where the models differ."""
        return min(model.segment for model in self.models)

    @property
    def normalize(self) -> bool:
        """Whether the models hear the track at a mean of 0 and a standard deviation of 1 (see `Recipe`)."""
        return self.models[0].recipe.normalize

    @property
    def only(self) -> Model:
        """The one model of a bag of one, for what makes no sense with more. Raises UsageError."""
        if len(self.models) > 1:
            raise UsageError(f"this is a bag of {len(self.models)} models; load one of them by its signature or its file")
        return self.models[0]

    @property
    def config(self) -> Config:
        """The constructor arguments of the model of a bag of one. Raises UsageError for a larger bag."""
        return self.only.config

    @property
    def max_segment(self) -> Fraction | float | None:
        """The longest chunk in seconds that every model takes. None: any."""
        limits = [model.max_segment for model in self.models if model.max_segment is not None]
        return min(limits, default=None)

    def __call__(self, mix: np.ndarray) -> np.ndarray:
        """The weighted average of the models' outputs: float32 (batch, channels, samples) -> (batch, sources, channels, samples)."""
        return weighted_average([model(mix) for model in self.models], self.weights)


def mean_of(bags: Sequence[BagOfModels]) -> BagOfModels:
    """A bag in which each of the `bags` weighs the same for every stem. Raises ModelError if they do not agree."""
    weights = []
    for bag in bags:
        totals = [sum(column) for column in zip(*bag.weights, strict=True)]
        weights += [[weight / total for weight, total in zip(row, totals, strict=True)] for row in bag.weights]
    return BagOfModels([model for bag in bags for model in bag.models], weights)


def fills_segment(model: Model) -> bool:
    """Whether the model is an HTDemucs, the only architecture whose chunks are filled up to the segment."""
    return hasattr(model.config, "use_train_segment")


def weighted_average(
    outputs: Iterable[np.ndarray], weights: Sequence[Sequence[float]], totals: Sequence[float] | None = None
) -> np.ndarray:
    """Average `outputs`, float32 (..., sources, channels, samples), in float32 and in their order; writes into them.

    `totals` are the divisors of the stems where not every model is among the outputs (None: the sums of the weights).
    """
    total: np.ndarray | None = None
    for output, row in zip(outputs, weights, strict=True):
        for source, weight in enumerate(row):
            if weight != 1:
                output[..., source, :, :] *= np.float32(weight)
        total = output if total is None else np.add(total, output, out=total)
    assert total is not None
    for source, divisor in enumerate(totals or [sum(column) for column in zip(*weights, strict=True)]):
        if divisor != 1:
            total[..., source, :, :] /= np.float32(divisor)
    return total


def _with_segment(model: Model, segment: float) -> Model:
    """The same network with another segment; the caller's own model keeps its."""
    if fills_segment(model) and segment > model.segment:
        return model
    shortened = copy.copy(model)
    cast("_HasSegment", shortened).segment = segment
    return shortened


class _HasSegment(Protocol):
    segment: float
