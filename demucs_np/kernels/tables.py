"""Tables that follow from a configuration alone: computed in float64, rounded once, and known by the function that makes them."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import lru_cache, wraps

import numpy as np

_made: dict[int, tuple[weakref.ref[np.ndarray], str, tuple[float, ...]]] = {}  # address -> the table, its function's name and arguments


def table(function: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """The function with its last results kept. A tape holds a table's name and arguments, not its numbers: see `origin`."""

    @lru_cache(maxsize=8)
    @wraps(function)
    def made(*args: float) -> np.ndarray:
        array = function(*args)
        _made[array.ctypes.data] = weakref.ref(array), function.__name__, args
        return array

    return made


def origin(x: np.ndarray) -> tuple[str, tuple[float, ...]] | None:
    """The name and the arguments of the function that made x, a whole table in any shape; None if none did."""
    reference, name, args = _made.get(x.ctypes.data, (None, "", ()))
    array = reference() if reference is not None else None
    return (name, args) if array is not None and array.size == x.size else None


@table
def hann(n: int) -> np.ndarray:
    """The periodic Hann window [n], computed in float64 and rounded once."""
    window: np.ndarray = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n) / n)).astype(np.float32)
    return window


@table
def ones(n: int) -> np.ndarray:
    """[n] times 1, where a layer has no scale."""
    return np.ones(n, np.float32)
