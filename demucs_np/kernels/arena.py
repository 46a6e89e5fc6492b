"""Reused buffers. A segment takes and gives back the same sizes in the same order, so after the first one nothing is allocated:
fresh memory costs page faults, which do not get faster with threads."""

from __future__ import annotations

import math

import numpy as np


class Arena:
    """Float32 buffers, handed out by `take` and given back by `give`."""

    def __init__(self) -> None:
        self._free: list[np.ndarray] = []
        self._taken: dict[int, np.ndarray] = {}

    def take(self, *shape: int) -> np.ndarray:
        """An array of this shape with arbitrary content, in the smallest free buffer that holds it."""
        size = math.prod(shape)
        fitting = [i for i, buffer in enumerate(self._free) if size <= buffer.size <= 2 * size + 1024]
        if fitting:
            buffer = self._free.pop(min(fitting, key=lambda i: self._free[i].size))
        else:
            buffer = np.empty(max(size, 1), np.float32)
        self._taken[id(buffer)] = buffer
        return buffer[:size].reshape(shape)

    def give(self, array: np.ndarray) -> None:
        """The buffer under `array` may be handed out again; arrays that are not from here are left alone."""
        owner = array if array.base is None else array.base
        buffer = self._taken.pop(id(owner), None)
        if buffer is not None:
            self._free.append(buffer)

    def reset(self) -> None:
        """Take everything back, as after an exception."""
        self._free += self._taken.values()
        self._taken.clear()
