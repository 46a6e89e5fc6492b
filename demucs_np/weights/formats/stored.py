"""Tensors and class names as a file holds them, before they are known to fit a model."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from typing import Any

import numpy as np

DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),  # NumPy has no bfloat16: the upper half of a float32, widened by `as_float32`
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
FLOATS = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True)
class Stored:
    """A tensor with the name of its type in safetensors (a key of DTYPES)."""

    dtype: str
    array: np.ndarray


@dataclass(frozen=True)
class ClassName:
    """A class that a file names, as inert text: `module.name`."""

    name: str


def as_float32(stored: Stored) -> np.ndarray:
    """C-contiguous, aligned float32; the array itself where it is that already."""
    array = stored.array
    if stored.dtype == "BF16":
        return (np.ascontiguousarray(array).astype(np.uint32) << np.uint32(16)).view(np.float32)
    if array.dtype == np.float32 and array.flags.c_contiguous and array.flags.aligned:
        return array
    if stored.dtype == "F16":
        from ...kernels.packing import widened  # Numba, which what only looks at files does without

        return widened(array)
    with np.errstate(over="ignore"):  # a float64 beyond float32's range becomes infinite
        return np.array(array, dtype=np.float32, order="C")


def forget_pages(array: np.ndarray) -> None:
    """Let the system take back the pages of the memory-mapped file of which `array` is a view, if it is one: they are read again when they
    are needed."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    file = base.obj if isinstance(base, memoryview) else base
    if isinstance(file, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        file.madvise(mmap.MADV_DONTNEED)
