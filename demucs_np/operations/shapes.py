"""Operations without arithmetic: every result has the shape it would have, and one zero for all its numbers.

A model on them (`backend="shapes"`) runs in milliseconds and in no memory: what is recorded of it is what the model is made of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..kernels.layer import Conv, Norm

Array = np.ndarray


def nothing(*shape: int) -> Array:
    """Zeros of a shape, which share one place."""
    return np.broadcast_to(np.float32(0), shape)


class ShapeOperations:
    """See `Operations`."""

    name = "shapes"

    def prepare(self, layer: Conv, path: str = "") -> Conv:
        return replace(layer, path=path)

    def prepare_recurrent(self, weights: Array) -> Any:
        return weights

    def prepare_table(self, x: Array, *factors: float) -> Array:
        return nothing(*x.shape)

    def run(self, model: Any, mix: Array, out: Array) -> None:
        model.forward(mix, out)

    def mark(self) -> int:
        return 0

    def free(self, *arrays: Array | None) -> None:
        pass

    def make_room(self, out: Array) -> None:
        pass

    def reset(self, mark: int) -> None:
        pass

    def copy(self, x: Array) -> Array:
        return nothing(*x.shape)

    def pad(self, x: Array, left: int, right: int, *, reflect: bool = False) -> Array:
        return nothing(x.shape[0], left + x.shape[1] + right)

    def transpose(self, x: Array) -> Array:
        return nothing(1, *x.shape[::-1])

    def finite(self, x: Array) -> Array:
        return np.ones(1, np.float32)

    def join(self, parts: Sequence[Array]) -> Array:
        return nothing(parts[0].shape[0], sum(part.shape[1] for part in parts), parts[0].shape[2])

    def conv(
        self,
        x: Array,
        layer: Conv,
        *,
        rows: int | None = None,
        length: int | None = None,
        before: Array | None = None,
        stats: Array | None = None,
        scale: Array | None = None,
        residual: Array | None = None,
        spent: bool = False,
    ) -> Array:
        return nothing(x.shape[0], layer.extent(x.shape[1], rows, length)[1], layer.outputs)

    def projected_stats(self, x: Array, layer: Conv) -> Array:
        return nothing(x.shape[1], 2)

    def feed_forward(self, x: Array, y: Array, widen: Conv, narrow: Conv, scale: Array | None) -> Array:
        return nothing(*x.shape)

    def normalize(self, x: Array) -> tuple[Array, Array]:
        return nothing(*x.shape), np.array([0.0, 1.0])

    def restore(self, x: Array, moments: Array) -> Array:
        return nothing(*x.shape)

    def normalize_mono(self, x: Array) -> tuple[Array, float, float]:
        return nothing(*x.shape), 0.0, 1.0

    def denormalize(self, x: Array, mean: float, std: float, out: Array) -> None:
        pass

    def group_norm(
        self, x: Array, norm: Norm, *, activation: str = "none", crop: int = 0, length: int | None = None, spent: bool = False
    ) -> Array:
        B, L, C = x.shape
        return nothing(B, L if length is None else length, C // 2 if activation == "glu" else C)

    def layer_norm(self, x: Array, norm: Norm) -> Array:
        return nothing(*x.shape)

    def norm_gelu(self, x: Array, norm: Norm) -> Array:
        return nothing(*x.shape)

    def activate(self, x: Array, name: str) -> Array:
        return nothing(*x.shape)

    def add_table(self, x: Array, table: Array, path: str = "") -> Array:
        return nothing(*x.shape)

    def attention(self, q: Array, k: Array, v: Array, heads: int) -> Array:
        return nothing(*q.shape)

    def lstm(self, gates: Array, recurrent: Any, first: Array, step: int, steps: int) -> Array:
        return nothing(steps, first.size, gates.shape[1] // 4)

    def join_windows(self, y: Array, windows: int, stride: int, length: int) -> Array:
        return nothing(length, y.shape[1] // windows, y.shape[2])

    def local_attention(self, x: Array, heads: int, decays: int) -> Array:
        T, F, width = x.shape
        return nothing(T, F, (width - heads * decays) // 3)

    def join_bands(self, parts: Sequence[Array], biases: Sequence[Array], stride: int, overlap: int, crop: int, length: int) -> Array:
        return nothing(parts[0].shape[0], length, parts[0].shape[2])

    def magnitude(self, z: Array) -> Array:
        return nothing(*z.shape[:2], z.shape[2] // 2)

    def phase_mask(self, z: Array, m: Array) -> Array:
        return nothing(*z.shape[:2], 2 * m.shape[2])

    def wiener(self, z: Array, m: Array, iterations: int, residual: bool) -> Array:
        return nothing(*z.shape[:2], 2 * m.shape[2])

    def stft(self, x: Array, n_fft: int, hop: int, frames: int) -> Array:
        return nothing(frames, n_fft // 2, 2 * x.shape[0])

    def istft(
        self,
        z: Array,
        n_fft: int,
        hop: int,
        offset: int,
        envelope: Array,
        *,
        moments: Array | None = None,
        time: Array | None = None,
        time_moments: Array | None = None,
        out: Array | None = None,
    ) -> Array:
        return nothing(z.shape[2] // 2, envelope.size) if out is None else out

    def resample(self, x: Array, old_rate: int, new_rate: int) -> Array:
        return nothing(x.shape[0], new_rate * x.shape[1] // old_rate)
