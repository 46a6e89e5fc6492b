"""Configurations of MSST, a widely used training code: https://github.com/ZFTurbo/Music-Source-Separation-Training.

`model` is demucs, hdemucs or htdemucs and names the section with the class's arguments; stems, channels, sample rate and segment are
those of `training`. Its driver (`demix`) cuts a track into chunks of a segment, one every `segment / inference.num_overlap`, fills the
last up with zeros, and averages with equal weights; the track is normalised only with `inference.normalize`.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from ...errors import WeightsError
from ...models.recipe import Recipe
from .described import Described, entry, klass_and_arguments, section


def recognises(content: Mapping[str, Any]) -> bool:
    """Whether the configuration has MSST's parts."""
    return "model" in content and "training" in content


def describe(source: str, content: Mapping[str, Any]) -> Described:
    """The model. Raises WeightsError (its text without the file) for entries that are missing or unknown here."""
    klass, kwargs = klass_and_arguments(content)
    bands = kwargs.pop("num_subbands", 1)
    if bands not in (1, None):
        raise WeightsError(f"num_subbands={bands!r} is MSST's own extension of HTDemucs, which this package does not have")
    if content["model"] == "htdemucs":
        kwargs.setdefault("use_train_segment", False)
    kwargs |= {
        "sources": entry(content, "training", "instruments"),
        "audio_channels": entry(content, "training", "channels"),
        "samplerate": entry(content, "training", "samplerate"),
        "segment": entry(content, "training", "segment"),
    }
    return Described(source, klass, kwargs, _recipe(content))


def _recipe(content: Mapping[str, Any]) -> Recipe:
    count = entry(content, "inference", "num_overlap")
    if type(count) is not int or not 1 <= count <= 1000:
        raise WeightsError(f"inference.num_overlap is {count!r}, but must be a whole number above 0")
    return Recipe(0, Fraction(count - 1, count), "flat", section(content, "inference").get("normalize") is True)
