"""A model as demucs publishes it: a safetensors file whose metadata describe the model.

The metadata hold `klass` (dotted name of the model's class), `args` and `kwargs` (its constructor's arguments as JSON;
a fraction is `{"_type": "fraction", "numerator": n, "denominator": d}`) and, for a quantised state, `structure`: the
nesting of lists and dicts in which the file's tensors stand. `recipe`, which demucs does not know, says how the model is run, as JSON:
the fields of `Recipe`, for models that are not run as demucs runs its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from ...errors import WeightsError, shown
from ...models.config import config_from_arguments
from ...models.recipe import Recipe
from .bounds import bounded
from .checkpoint import ModelFile, exact_tensors
from .contents import Contents
from .safetensors import read_safetensors
from .stored import ClassName, Stored

KEYS = ("klass", "args", "kwargs")


def recognises(contents: Contents) -> bool:
    """Whether any of the metadata are a model's."""
    return any(key in contents.metadata for key in KEYS)


def read(contents: Contents) -> ModelFile:
    """The model. Raises WeightsError (its text without the path) for metadata that describe none, or not these tensors."""
    metadata = contents.metadata
    for key in KEYS:
        if key not in metadata:
            raise WeightsError(f"not a Demucs model: its metadata has no {key!r}")
    args, kwargs = _arguments(metadata, "args", list), _arguments(metadata, "kwargs", dict)
    config = config_from_arguments(metadata["klass"], args, kwargs)
    state = contents.value
    if "structure" in metadata:
        state = _unflatten(_json(metadata, "structure"), state)
        if not isinstance(state, dict):
            raise WeightsError("its 'structure' is not that of a model's state")
    return ModelFile(contents.path, config, args, kwargs, exact_tensors(config, state), _recipe(metadata))


def is_plain(path: Path) -> bool:
    """Whether a file is a published model whose tensors have the names of upstream's state, as a page reads it: not a quantised one."""
    metadata, _ = read_safetensors(path)
    return all(key in metadata for key in KEYS) and "structure" not in metadata


def _recipe(metadata: Mapping[str, str]) -> Recipe:
    if "recipe" not in metadata:
        return Recipe()
    fields = _arguments(metadata, "recipe", dict)
    if fields.keys() != set(Recipe.__dataclass_fields__):
        raise WeightsError(f"its metadata 'recipe' does not have the entries {', '.join(Recipe.__dataclass_fields__)}")
    shifts, overlap, window, normalize = (fields[name] for name in Recipe.__dataclass_fields__)
    number = isinstance(overlap, (int, float, Fraction)) and not isinstance(overlap, bool) and 0 <= overlap < 1
    if type(shifts) is not int or not 0 <= shifts <= 100 or not number or window not in ("triangle", "flat") or type(normalize) is not bool:
        raise WeightsError("its metadata 'recipe' holds values that make no sense")
    return Recipe(shifts, overlap, window, normalize)


def _json(metadata: Mapping[str, str], key: str) -> Any:
    try:
        return bounded(json.loads(metadata[key]))
    except (ValueError, RecursionError):
        raise WeightsError(f"its metadata {key!r} is no valid JSON") from None


def _arguments(metadata: Mapping[str, str], key: str, kind: type) -> Any:
    value = _decode(_json(metadata, key))
    if not isinstance(value, kind):
        raise WeightsError(f"its metadata {key!r} is not a JSON {'list' if kind is list else 'object'}")
    return value


def _decode(value: Any) -> Any:
    """JSON of the constructor's arguments, with fractions."""
    if isinstance(value, list):
        return [_decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.get("_type") != "fraction":
        return {key: _decode(item) for key, item in value.items()}
    numerator, denominator = value.get("numerator"), value.get("denominator")
    if type(numerator) is not int or type(denominator) is not int or denominator == 0:
        raise WeightsError(f"its metadata hold a bad fraction {shown(numerator)}/{shown(denominator)}")
    return Fraction(numerator, denominator)


def _unflatten(node: Any, stored: Mapping[str, Stored]) -> Any:
    """A nested state from its description and the file's tensors. A class is only named, never imported."""
    if not isinstance(node, dict):
        return node
    if len(node) != 1:
        raise WeightsError(f"bad node in its 'structure': {shown(node)}")
    ((kind, value),) = node.items()
    try:
        if kind == "_tensor":
            return stored[value]
        if kind == "_dict":
            return {key: _unflatten(item, stored) for key, item in value}
        if kind == "_list":
            return [_unflatten(item, stored) for item in value]
        if kind == "_tuple":
            return tuple(_unflatten(item, stored) for item in value)
        if kind == "_class" and isinstance(value, str):
            return ClassName(value)
    except (TypeError, ValueError, KeyError):
        pass
    raise WeightsError(f"bad node in its 'structure': {shown(node)}")
