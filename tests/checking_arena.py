"""An arena under which mistakes with buffers show: each lies in memory of its own between guards of NaN, and is NaN before its first use
and after its last."""

import numpy as np

from demucs_np.kernels.arena import Arena

GUARD = 4096  # floats on each side


class Nothing(dict):
    """What is kept in it is not: no buffer lies where it lay in the pass before."""

    def __setitem__(self, key, value):
        pass


class CheckingArena(Arena):
    """Raises AssertionError where something was written outside a buffer, or into one that had been given back."""

    def __init__(self):
        super().__init__()
        self.kept = Nothing()
        self._blocks = {}  # address -> (the whole of it, size)
        self._given = []

    def take(self, *shape):
        size = int(np.prod(shape, dtype=np.int64))
        block = np.full(size + 2 * GUARD, np.nan, np.float32)
        array = block[GUARD : GUARD + size].reshape(shape)
        self._blocks[array.ctypes.data] = (self._count, block, size)
        self._count += 1
        return array

    def give(self, array):
        at = array.ctypes.data
        if at not in self._blocks:
            raise ValueError(f"an array of shape {array.shape} is given back that is no buffer in use")
        _, block, size = self._blocks.pop(at)
        assert size == array.size or array.base is not None
        assert np.isnan(block[:GUARD]).all(), f"written before a buffer of {size}"
        assert np.isnan(block[GUARD + size :]).all(), f"written behind a buffer of {size}"
        block[:] = np.nan
        self._given = [*self._given[-7:], block]

    def reset(self, mark=0):
        self._blocks = {at: entry for at, entry in self._blocks.items() if entry[0] < mark}

    def check(self):
        """Nothing is left over, and nothing was written into what had been given back."""
        assert not self._blocks, f"left over: {[size for _, _, size in self._blocks.values()]} floats"
        assert all(np.isnan(block).all() for block in self._given), "written after it was given back"

    @property
    def taken(self):
        return len(self._blocks)
