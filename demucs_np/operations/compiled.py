"""The operations on compiled kernels. Results live in buffers of the thread's arena until they are freed; what is consumed is changed
in place and returned."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..kernels import attention, conv, feed_forward, local_attention, lstm, packing, resample, signal, stft, wiener, winograd
from ..kernels import norm as norms
from ..kernels.arena import Arena
from ..kernels.layer import Conv, Norm
from ..kernels.tables import ones
from . import numpy_ops, replay

Array = np.ndarray
_local = threading.local()


def thread_arena() -> Arena:
    """The buffers of this Python thread, shared by all its models."""
    if not hasattr(_local, "arena"):
        _local.arena = Arena()
    arena: Arena = _local.arena
    return arena


@contextlib.contextmanager
def use_arena(arena: Arena) -> Iterator[None]:
    """Within the block, operations of this Python thread take their buffers from `arena`."""
    before = thread_arena()
    _local.arena = arena
    try:
        yield
    finally:
        _local.arena = before


class CompiledOperations:
    """See `Operations`. Holds nothing itself: it can be shared, copied and pickled."""

    name = "numba"

    @property
    def arena(self) -> Arena:
        """Of this Python thread."""
        return thread_arena()

    def prepare(self, layer: Conv, path: str = "") -> Conv:
        layer = replace(layer, path=path)
        return winograd.prepare(layer) if winograd.suits(layer) else conv.prepare(layer)

    def prepare_recurrent(self, weights: Array) -> Any:
        return lstm.prepare(weights)

    def prepare_table(self, x: Array, *factors: float) -> Array:
        return packing.scaled(x, *factors)

    def run(self, model: Any, mix: Array, out: Array) -> None:
        from .planning import plan_of  # which is made of these operations

        with self.arena.following(plan_of(model, mix.shape[1])):
            if model.ops is self and model.all_kernels and not self.arena.taken:  # not while somebody looks at the operations
                replay.run(self.arena, model, mix, out)
            else:
                model.forward(mix, out)

    def mark(self) -> int:
        return self.arena.mark()

    def free(self, *arrays: Array | None) -> None:
        for array in arrays:
            if array is not None:
                self.arena.give(array)

    def make_room(self, out: Array) -> None:
        self.arena.give_pages(out.nbytes)

    def reset(self, mark: int) -> None:
        self.arena.reset(mark)

    def copy(self, x: Array) -> Array:
        out = self.arena.take(*x.shape)
        signal.copy(x, out)
        return out

    def pad(self, x: Array, left: int, right: int, *, reflect: bool = False) -> Array:
        out = self.arena.take(x.shape[0], left + x.shape[1] + right)
        signal.pad(x, left, right, out, reflect=reflect)
        return out

    def transpose(self, x: Array) -> Array:
        out = self.arena.take(1, *x.shape[::-1])
        signal.transpose(x, out)
        return out

    def finite(self, x: Array) -> Array:
        out = self.arena.take(signal.parts_of(x.size))
        signal.finite(x, out)
        return out

    def join(self, parts: Sequence[Array]) -> Array:
        B, _, C = parts[0].shape
        return np.concatenate(parts, axis=1, out=self.arena.take(B, sum(part.shape[1] for part in parts), C))

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
        assert layer.upsample == 1 or (stats is None and before is None and scale is None)
        assert layer.activation != "glu" or before is None
        rows, length = layer.extent(x.shape[1], rows, length)
        out = residual
        if out is None:
            out = x if spent and layer.pointwise else self.arena.take(x.shape[0], length, layer.outputs)
        elif scale is None:
            scale = ones(layer.outputs * layer.upsample)
        if layer.winograd:
            winograd.winograd(x, layer, out, rows, before=before, scale=scale)
        else:
            conv.conv_(x, layer, out, rows, before=before, stats=stats, scale=scale)
        if spent and out is not x:
            self.free(x)
        return out

    def normalize(self, x: Array) -> tuple[Array, Array]:
        moments = self.arena.take_doubles(2)
        norms.normalize(x, x, moments, self.arena)
        return x, moments

    def normalize_mono(self, x: Array) -> tuple[Array, float, float]:
        mono = x.mean(axis=0, dtype=np.float64)
        mean, std = float(mono.mean()), float(mono.std(ddof=1)) if mono.size > 1 else math.nan
        out = self.arena.take(*x.shape)
        np.subtract(x, np.float32(mean), out=out)
        out *= np.float32(1 / (1e-5 + std))
        return out, mean, std

    def denormalize(self, x: Array, mean: float, std: float, out: Array) -> None:
        np.multiply(x, np.float32(std), out=out)
        out += np.float32(mean)

    def restore(self, x: Array, moments: Array) -> Array:
        out = self.arena.take(*x.shape)
        self.denormalize(x, float(moments[0]), float(moments[1]), out)
        return out

    def add_table(self, x: Array, table: Array, path: str = "") -> Array:
        norms.add_table(x, table)
        return x

    def activate(self, x: Array, name: str) -> Array:
        norms.activate(x, name)
        return x

    def group_norm(
        self, x: Array, norm: Norm, *, activation: str = "none", crop: int = 0, length: int | None = None, spent: bool = False
    ) -> Array:
        B, L, C = x.shape
        shape = B, L if length is None else length, C // 2 if activation == "glu" else C
        out = x if spent and shape == x.shape else self.arena.take(*shape)
        norms.group_norm(x, norm.groups, norm.weight, norm.bias, out, self.arena, activation=activation, crop=crop)
        if spent and out is not x:
            self.free(x)
        return out

    def layer_norm(self, x: Array, norm: Norm) -> Array:
        out = self.arena.take(*x.shape)
        norms.layer_norm(x, norm.weight, norm.bias, out)
        return out

    def norm_gelu(self, x: Array, norm: Norm) -> Array:
        norms.norm_gelu(x, norm.weight, norm.bias, self.arena)
        return x

    def projected_stats(self, x: Array, layer: Conv) -> Array:
        assert layer.projection is not None
        out = self.arena.take(x.shape[1], 2)
        norms.projected_stats(x, layer.projection, layer.columns, out, self.arena)
        return out

    def attention(self, q: Array, k: Array, v: Array, heads: int) -> Array:
        out = self.arena.take(*q.shape)
        packed = self.arena.take(attention.room(k.shape[0], k.shape[1], heads))
        attention.attention(q, k, v, heads, out, packed)
        self.free(packed)
        return out

    def lstm(self, gates: Array, recurrent: Any, first: Array, step: int, steps: int) -> Array:
        out = self.arena.take(steps, first.size, gates.shape[1] // 4)
        lstm.lstm(gates, recurrent, first, step, out)
        return out

    def join_windows(self, y: Array, windows: int, stride: int, length: int) -> Array:
        time = np.arange(length)
        window = np.clip((time - stride // 2) // stride, 0, windows - 1)
        out = self.arena.take(length, y.shape[1] // windows, y.shape[2])
        out[:] = y.reshape(len(y), windows, -1, y.shape[2])[time - window * stride, window]
        return out

    def local_attention(self, x: Array, heads: int, decays: int) -> Array:
        T, F, width = x.shape
        out = self.arena.take(T, F, (width - heads * decays) // 3)
        local_attention.local_attention(x, heads, decays, out)
        return out

    def join_bands(self, parts: Sequence[Array], biases: Sequence[Array], stride: int, overlap: int, crop: int, length: int) -> Array:
        total = self.arena.take(len(parts[0]), sum(part.shape[1] - overlap for part in parts) + overlap, parts[0].shape[2])
        total[:] = 0
        start = 0
        for part, bias in zip(parts, biases, strict=True):
            total[:, start : start + part.shape[1]] += part
            if start:
                total[:, start : start + stride] -= bias
            start += part.shape[1] - overlap
        out = self.copy(total[:, crop : crop + length])
        self.free(total)
        return out

    def magnitude(self, z: Array) -> Array:
        T, F, channels = z.shape
        pairs = z.reshape(T, F, -1, 2)
        out = self.arena.take(T, F, channels // 2)
        np.hypot(pairs[..., 0], pairs[..., 1], out=out)
        return out

    def phase_mask(self, z: Array, m: Array) -> Array:
        (T, F, _), C = z.shape, z.shape[2] // 2
        size = self.magnitude(z)
        unit = z.reshape(T, F, 1, C, 2) / (np.float32(1e-8) + size.reshape(T, F, 1, C, 1))
        self.free(size)
        out = self.arena.take(T, F, 2 * m.shape[2])
        np.multiply(unit, m.reshape(T, F, -1, C, 1), out=out.reshape(T, F, -1, C, 2))
        return out

    def wiener(self, z: Array, m: Array, iterations: int, residual: bool) -> Array:
        out = self.arena.take(*z.shape[:2], 2 * m.shape[2])
        wiener.wiener(z, m, iterations, residual, out)
        return out

    def feed_forward(self, x: Array, y: Array, widen: Conv, narrow: Conv, scale: Array | None) -> Array:
        scale = ones(narrow.outputs) if scale is None else scale
        feed_forward.feed_forward(y[0], widen, narrow, scale, x[0])
        return x

    def stft(self, x: Array, n_fft: int, hop: int, frames: int) -> Array:
        if not stft.own_size(n_fft):
            return self.copy(numpy_ops.stft(x, n_fft, hop, frames))
        out = self.arena.take(frames, n_fft // 2, 2 * x.shape[0])
        stft.stft(np.ascontiguousarray(x), n_fft, hop, frames, out)
        return out

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
        affine = {"moments": moments, "time": time, "time_moments": time_moments}
        out = self.arena.take(z.shape[2] // 2, envelope.size) if out is None else out
        if stft.own_size(n_fft):
            stft.istft(z, n_fft, hop, offset, envelope, out, **affine)
        else:
            numpy_ops.NumpyOperations().istft(z, n_fft, hop, offset, envelope, **affine, out=out)
        return out

    def resample(self, x: Array, old_rate: int, new_rate: int) -> Array:
        padded = self.arena.take(*resample.padded_shape(x, old_rate, new_rate))
        out = self.arena.take(x.shape[0], new_rate * x.shape[1] // old_rate)
        resample.resample_into(x, old_rate, new_rate, padded, out)
        self.free(padded)
        return out
