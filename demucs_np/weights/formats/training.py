"""Configurations of the reference's own training runs: `.hydra/config.yaml` beside a run's `checkpoint.th`.

Source: `get_model` of `demucs/train.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import WeightsError
from .described import Described, entry, klass_and_arguments, plain


def recognises(content: Mapping[str, Any]) -> bool:
    """Whether the configuration has the parts of such a run."""
    return "model" in content and "dset" in content


def describe(source: str, content: Mapping[str, Any]) -> Described:
    """The model. Raises WeightsError (its text without the file) for entries that are missing or unknown here."""
    klass, kwargs = klass_and_arguments(content)
    segment = plain(content.get("model_segment"))
    if not segment:
        segment = entry(content, "dset", "segment")
        if isinstance(segment, bool) or not isinstance(segment, (int, float)):
            raise WeightsError(f"dset.segment is {segment!r}, but must be a number of seconds")
        segment *= 4
    kwargs |= {
        "sources": entry(content, "dset", "sources"),
        "audio_channels": entry(content, "dset", "channels"),
        "samplerate": entry(content, "dset", "samplerate"),
        "segment": segment,
    }
    return Described(source, klass, kwargs)
