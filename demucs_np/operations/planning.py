"""Which buffers a forward pass will take, before it is run: the operations as they are compiled, their kernels left out.

All that remains of an operation is what it takes from the arena and gives back. A pass takes milliseconds, and no memory. So it is known
how much memory there has to be, and each buffer has a place from which the others leave little unused.
"""

from __future__ import annotations

import contextlib
import copy
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..kernels import resample, tiles
from ..kernels.arena import Plan, PlannedArena
from ..kernels.layer import Conv
from .compiled import CompiledOperations, use_arena

Array = np.ndarray
KEPT = 16  # plans, the last ones used
_plans: dict[Any, Plan] = {}
_lock = threading.Lock()


class _NoKernels:
    """Stands in for a pool."""

    def run(self, *call: Any) -> None:
        pass

    def keep(self, array: Array) -> None:
        pass


def no_kernels() -> contextlib.AbstractContextManager[None]:
    """Within the block, no kernel of this Python thread runs."""
    return tiles.recording(_NoKernels())


def _nowhere(x: Array) -> Array:
    """An array of this shape in no memory."""
    return np.lib.stride_tricks.as_strided(np.zeros(1, x.dtype), x.shape, (0,) * x.ndim)


class PlannedOperations(CompiledOperations):
    """See `Operations`. What is done in NumPy, or needs contiguous arrays, is left out here; kernels are by the pool. `packed` counts the
    bytes of weights."""

    name = "planned"

    def __init__(self) -> None:
        self.packed = 0

    def prepare(self, layer: Conv, path: str = "") -> Conv:
        with no_kernels():
            prepared = super().prepare(layer, path)
        assert prepared.packed is not None
        self.packed += prepared.packed.nbytes
        projection = prepared.projection
        if projection is not None:
            self.packed += projection.nbytes
            projection = _nowhere(projection)
        return replace(prepared, packed=_nowhere(prepared.packed), projection=projection)

    def prepare_recurrent(self, weights: Array) -> Any:
        prepared = super().prepare_recurrent(weights)
        self.packed += prepared.nbytes
        return _nowhere(prepared)

    def prepare_table(self, x: Array, *factors: float) -> Array:
        self.packed += x.nbytes
        return _nowhere(x)

    def join(self, parts: Sequence[Array]) -> Array:
        B, _, C = parts[0].shape
        return self.arena.take(B, sum(part.shape[1] for part in parts), C)

    def normalize_mono(self, x: Array) -> tuple[Array, float, float]:
        return self.arena.take(*x.shape), 0.0, 1.0

    def denormalize(self, x: Array, mean: float, std: float, out: Array) -> None:
        pass

    def restore(self, x: Array, moments: Array) -> Array:
        return self.arena.take(*x.shape)

    def join_windows(self, y: Array, windows: int, stride: int, length: int) -> Array:
        return self.arena.take(length, y.shape[1] // windows, y.shape[2])

    def join_bands(self, parts: Sequence[Array], biases: Sequence[Array], stride: int, overlap: int, crop: int, length: int) -> Array:
        total = self.arena.take(len(parts[0]), sum(part.shape[1] - overlap for part in parts) + overlap, parts[0].shape[2])
        out = self.arena.take(total.shape[0], length, total.shape[2])
        self.free(total)
        return out

    def magnitude(self, z: Array) -> Array:
        return self.arena.take(*z.shape[:2], z.shape[2] // 2)

    def phase_mask(self, z: Array, m: Array) -> Array:
        self.free(self.magnitude(z))
        return self.arena.take(*z.shape[:2], 2 * m.shape[2])

    def wiener(self, z: Array, m: Array, iterations: int, residual: bool) -> Array:
        return self.arena.take(*z.shape[:2], 2 * m.shape[2])

    def stft(self, x: Array, n_fft: int, hop: int, frames: int) -> Array:
        return self.arena.take(frames, n_fft // 2, 2 * x.shape[0])

    def istft(self, z: Array, n_fft: int, hop: int, offset: int, envelope: Array, **how: Any) -> Array:
        out: Array | None = how.get("out")
        return self.arena.take(z.shape[2] // 2, envelope.size) if out is None else out

    def resample(self, x: Array, old_rate: int, new_rate: int) -> Array:
        padded = self.arena.take(*resample.padded_shape(x, old_rate, new_rate))
        out = self.arena.take(x.shape[0], new_rate * x.shape[1] // old_rate)
        self.free(padded)
        return out


def plan_of(model: Any, samples: int) -> Plan:
    """Where the buffers of a compiled model's forward pass for a mix of `samples` lie."""
    key = type(model), model.config, samples, model.valid_length(samples)
    with _lock:
        if (known := _plans.pop(key, None)) is None:
            known = _new_plan(model, samples)
            while len(_plans) >= KEPT:
                del _plans[next(iter(_plans))]
        _plans[key] = known  # the last one that was used
        return known


def arena_peak(model: Any, samples: int) -> int:
    """Bytes of the arena that a compiled model's forward pass for a mix of `samples` will have reached."""
    return 4 * plan_of(model, samples).size


def _new_plan(model: Any, samples: int) -> Plan:
    planned = copy.copy(model)
    planned.ops = PlannedOperations()
    arena = PlannedArena()
    nothing = np.zeros(1, np.float32)
    mix = np.lib.stride_tricks.as_strided(nothing, (model.audio_channels, samples), (0, 0))
    out = np.lib.stride_tricks.as_strided(nothing, (len(model.sources), *mix.shape), (0, 0, 0))
    with use_arena(arena), no_kernels():
        planned.forward(mix, out)
    return arena.plan()
