"""A pass of a model that is all kernels, from a list of its calls.

What is called, and with which arrays, follows from the configuration and the length of the mix. So the first pass keeps its calls, and
those after it make them without the Python that leads there: four milliseconds of a segment by itself, twenty among kernels, whose arrays
have driven it out of the caches. What an arena's passes use lies in its slabs, at the same places each time, and in the model's weights.
"""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np

from ..kernels import tiles
from ..kernels.arena import Arena, Pages

Array = np.ndarray
KEPT = 8  # passes of an arena, the last ones used


class Pass:
    """The calls of one, in order. As a pool's stand-in it hands calls on to the pool, and keeps them."""

    def __init__(self, mix: Array, out: Array) -> None:
        self._pool = tiles.pool()
        self._given = mix.reshape(-1), out.reshape(-1)
        # kernel, tiles, scratch, arrays; which of them are parts of the mix and of the result: index, 0 or 1, first float, floats
        self._calls: list[tuple[Any, int, int, list[Any], list[tuple[int, int, int, int]]]] = []
        self._pages: dict[int, list[Pages]] = {}  # given back before the call of this number

    def run(self, kernel: Any, count: int, scratch: int, *arrays: Array) -> None:
        self._pool.run(kernel, count, scratch, *arrays)
        own: list[Array | None] = list(arrays)
        parts = []
        for at, array in enumerate(arrays):
            for which, given in enumerate(self._given):
                first = array.ctypes.data - given.ctypes.data
                if array.size and 0 <= first < given.nbytes:
                    own[at] = None
                    parts.append((at, which, first // given.itemsize, array.size))
        self._calls.append((kernel, count, scratch, own, parts))

    def keep(self, array: Array) -> None:
        raise AssertionError("a pass packs no weights")

    def give(self, pages: list[Pages]) -> None:
        """These were given back to the system."""
        self._pages.setdefault(len(self._calls), []).extend(pages)

    def end(self) -> None:
        """It has all its calls; nothing of this pass's mix and result is held any more."""
        del self._pool, self._given

    def __call__(self, mix: Array, out: Array) -> None:
        """Another one."""
        pool, given = tiles.pool(), (mix.reshape(-1), out.reshape(-1))
        for number, (kernel, count, scratch, arrays, parts) in enumerate(self._calls):
            for pages in self._pages.get(number, ()):
                pages.give()
            if parts:
                arrays = arrays.copy()
                for at, which, first, size in parts:
                    arrays[at] = given[which][first : first + size]
            pool.run(kernel, count, scratch, *arrays)


def run(arena: Arena, model: Any, mix: Array, out: Array) -> None:
    """The model's forward pass, mix [channels, n] -> out [sources, channels, n], in an arena of which nothing is in use."""
    kept, key = arena.kept, (id(model), mix.shape[1])
    if key in kept:
        kept[key] = known, _ = kept.pop(key)
        known(mix, out)
        return
    noted = arena.noting = Pass(mix, out)
    try:
        with tiles.recording(noted):
            model.forward(mix, out)
    finally:
        arena.noting = None
    noted.end()
    while len(kept) >= KEPT:
        del kept[next(iter(kept))]
    kept[key] = noted, weakref.ref(model, lambda _: kept.pop(key, None))  # its weights do not stay for the calls' sake
