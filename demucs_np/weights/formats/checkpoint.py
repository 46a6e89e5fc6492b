"""Read a model's safetensors file, in the layout that demucs publishes.

The metadata holds `klass` (dotted name of the model's class), `args` and `kwargs` (its constructor's arguments as JSON;
a fraction is `{"_type": "fraction", "numerator": n, "denominator": d}`) and, for a quantised state, `structure`: the
nesting of lists and dicts in which the file's tensors stand.

The format of the file itself: https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import json
import math
import mmap
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import ModelError, WeightsError
from ...models.config import Config, DemucsConfig, config_from_arguments
from ...models.layout import expected_tensors
from . import diffq
from .stored import DTYPES, FLOATS, ClassName, Stored, as_float32

MAX_HEADER = 100_000_000  # bytes; the format's own limit
SMALL = 2**14  # elements


@dataclass(frozen=True)
class Checkpoint:
    """A model's configuration with exactly its tensors, float32, in the layout's order."""

    path: Path
    config: Config
    tensors: dict[str, np.ndarray]


@dataclass(frozen=True)
class ModelFile:
    """A model as its file has it: the constructor's arguments, training-only ones included, and the tensors in their own types."""

    path: Path
    config: Config
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    stored: dict[str, Stored]

    def checkpoint(self) -> Checkpoint:
        """With float32 tensors. Large ones are read-only views of the memory-mapped file where it holds float32.

        Models pack the large ones and keep the others as they are: views of those would keep the whole file in memory.
        """
        tensors = {name: as_float32(stored) for name, stored in self.stored.items()}
        kept = {name: tensor.copy() if tensor.size <= SMALL else tensor for name, tensor in tensors.items()}
        return Checkpoint(self.path, self.config, kept)


def read_safetensors_model(path: str | os.PathLike[str]) -> ModelFile:
    """Read a `.safetensors` model file, memory-mapped: what it holds is read when it is first used.

    Raises WeightsError, with the file and the reason in one line, for anything but a complete and exact model.
    """
    path = Path(path)
    try:
        metadata, stored = read_safetensors(path)
        for key in ("klass", "args", "kwargs"):
            if key not in metadata:
                raise WeightsError(f"not a Demucs model: its metadata has no {key!r}")
        args, kwargs = _arguments(metadata, "args", list), _arguments(metadata, "kwargs", dict)
        config = config_from_arguments(metadata["klass"], args, kwargs)
        if "structure" in metadata:
            state = _unflatten(_json(metadata, "structure"), stored)
            if not isinstance(state, dict):
                raise WeightsError("its 'structure' is not that of a model's state")
        else:
            state = stored
        return ModelFile(path, config, args, kwargs, exact_tensors(config, state))
    except RecursionError:
        raise WeightsError(f"{path}: its metadata are nested too deeply") from None
    except ModelError as error:
        raise WeightsError(f"{path}: {error}") from None


def exact_tensors(config: Config, state: Mapping[str, Any]) -> dict[str, Stored]:
    """The tensors of a state, plain (name -> Stored) or quantised, checked to be exactly those of the configuration.

    Raises WeightsError naming the tensors that are missing, extra, misshapen or not of a float type.
    """
    shapes = expected_tensors(config)
    if state.get("__quantized"):
        return {name: Stored("F32", array) for name, array in diffq.restore(state, shapes).items()}
    if isinstance(config, DemucsConfig):
        names = _renamed(config, state, shapes)
    else:
        names = {name: name for name in state}
    if missing := [name for name in shapes if name not in names]:
        raise WeightsError(f"{_listed(missing, 'tensor')} missing")
    if extra := [name for name in names if name not in shapes]:
        raise WeightsError(f"{_listed(extra, 'tensor')} unknown to the model")
    tensors = {}
    for name, shape in shapes.items():
        stored = state[names[name]]
        if not isinstance(stored, Stored):
            raise WeightsError(f"{name} is not a tensor")
        if stored.array.shape != shape:
            raise WeightsError(f"tensor {name} has shape {stored.array.shape}, the model needs {shape}")
        if stored.dtype not in FLOATS:
            raise WeightsError(f"tensor {name} holds {stored.dtype}, not floating-point numbers")
        tensors[name] = stored
    return tensors


def _renamed(config: DemucsConfig, state: Mapping[str, Any], shapes: Mapping[str, Any]) -> dict[str, str]:
    """Name in the model -> name in the state. Checkpoints from before DConv call `.2.` what is now `.3.`."""
    names = {name: name for name in state}
    for index in range(config.depth):
        for side in ("encoder", "decoder"):
            for part in ("weight", "bias"):
                old, new = f"{side}.{index}.2.{part}", f"{side}.{index}.3.{part}"
                if old in names and old not in shapes and new in shapes and new not in state:
                    names[new] = names.pop(old)
    return names


def _listed(names: list[str], noun: str, most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    plural = "s" if len(names) > 1 else ""
    return f"{noun}{plural} {', '.join(names[:most])}{more} {'are' if plural else 'is'}"


def read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, Stored]]:
    """Metadata and tensors of a safetensors file; the arrays are views of the memory-mapped file.

    Raises WeightsError (its text without the path) if the file cannot be read or is not exactly of that format.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(8)
            if len(start) < 8:
                raise WeightsError(f"not a safetensors file: it has {size} bytes")
            length = int.from_bytes(start, "little")
            if length > MAX_HEADER or length < 2:
                raise WeightsError("not a safetensors file")
            if 8 + length > size:
                raise WeightsError(f"truncated, or not a safetensors file: {size} bytes where the header alone needs {8 + length}")
            header = file.read(length)
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))[8 + length :]
    except OSError as error:
        raise WeightsError(f"cannot be read: {error.strerror or error}") from None
    try:
        entries = json.loads(header.decode(), object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError):
        raise WeightsError("not a safetensors file: its header is no valid JSON") from None
    if not isinstance(entries, dict):
        raise WeightsError("not a safetensors file: its header is no JSON object")
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise WeightsError("not a safetensors file: its metadata are not texts")
    return metadata, _tensors(entries, data)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("duplicate key")
    return result


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 62


def _tensors(entries: Mapping[str, Any], data: memoryview) -> dict[str, Stored]:
    """Views of the data, which the tensors must cover from end to end without a gap or an overlap."""
    placed = []
    for name, entry in entries.items():
        try:
            dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        except (TypeError, KeyError, ValueError):
            raise WeightsError(f"not a safetensors file: bad header entry {name!r}") from None
        if not all(_is_count(value) for value in (*shape, begin, end)):
            raise WeightsError(f"not a safetensors file: bad header entry {name!r}")
        if dtype not in DTYPES:
            raise WeightsError(f"tensor {name} has the unknown type {dtype!r}")
        if end - begin != math.prod(shape) * DTYPES[dtype].itemsize:
            raise WeightsError(f"not a safetensors file: tensor {name} and its {end - begin} bytes do not fit")
        placed.append((begin, end, name, dtype, shape))
    result, position = {}, 0
    for begin, end, name, dtype, shape in sorted(placed):
        if begin != position:
            raise WeightsError(f"not a safetensors file: a gap or overlap before tensor {name}")
        if end > len(data):
            raise WeightsError(f"truncated: {len(data)} bytes of tensors where at least {end} belong; fetch the file again")
        array = np.frombuffer(data, DTYPES[dtype], math.prod(shape), begin) if end > begin else np.empty(0, DTYPES[dtype])
        result[name] = Stored(dtype, array.reshape(shape))
        position = end
    if position != len(data):
        raise WeightsError(f"not a safetensors file: {len(data) - position} bytes too many")
    return result


def _json(metadata: Mapping[str, str], key: str) -> Any:
    try:
        return json.loads(metadata[key])
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
        raise WeightsError(f"its metadata hold a bad fraction {numerator!r}/{denominator!r}")
    return Fraction(numerator, denominator)


def _unflatten(node: Any, stored: Mapping[str, Stored]) -> Any:
    """A nested state from its description and the file's tensors. A class is only named, never imported."""
    if not isinstance(node, dict):
        return node
    if len(node) != 1:
        raise WeightsError(f"bad node in its 'structure': {str(node)[:60]}")
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
    raise WeightsError(f"bad node in its 'structure': {str(node)[:60]}")
