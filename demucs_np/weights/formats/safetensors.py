"""Read safetensors files, memory-mapped.

The format: https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import json
import math
import mmap
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import WeightsError, shown
from .bounds import MAX_AXES
from .stored import DTYPES, Stored

MAX_HEADER = 8_000_000  # bytes: the format allows a hundred, which take gigabytes to read; a model of a thousand tensors has a tenth of one


def read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, Stored]]:
    """Metadata and tensors of a safetensors file; the arrays are views of the memory-mapped file, which must not be cut meanwhile.

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
            raise WeightsError(f"not a safetensors file: bad header entry {shown(name)}") from None
        if len(shape) > MAX_AXES or not all(_is_count(value) for value in (*shape, begin, end)):
            raise WeightsError(f"not a safetensors file: bad header entry {shown(name)}")
        if not isinstance(dtype, str) or dtype not in DTYPES:
            raise WeightsError(f"tensor {shown(name)} has the unknown type {shown(dtype)}")
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
