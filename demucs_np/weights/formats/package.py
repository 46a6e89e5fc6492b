"""Upstream's own package: a pickled `{klass, args, kwargs, state}`."""

from __future__ import annotations

from typing import Any

from ...errors import WeightsError
from ...models.config import config_from_arguments
from .checkpoint import ModelFile, exact_tensors
from .contents import Contents
from .stored import ClassName

KEYS = {"klass", "args", "kwargs", "state"}


def recognises(contents: Contents) -> bool:
    """Whether it is such a dict."""
    return isinstance(contents.value, dict) and contents.value.keys() >= KEYS


def read(contents: Contents) -> ModelFile:
    """The model. Raises WeightsError (its text without the path) if it names anything but a Demucs model, or not exactly its tensors."""
    klass, args, kwargs, state = (contents.value[key] for key in ("klass", "args", "kwargs", "state"))
    if not isinstance(klass, ClassName):
        raise WeightsError("not a Demucs model: its klass is no class")
    if not isinstance(args, (list, tuple)) or not _is_text_dict(kwargs) or not _is_text_dict(state):
        raise WeightsError("not a Demucs model: its args, kwargs or state are of a wrong type")
    config = config_from_arguments(klass.name, args, kwargs)
    return ModelFile(contents.path, config, args, kwargs, exact_tensors(config, state))


def _is_text_dict(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(key, str) for key in value)
