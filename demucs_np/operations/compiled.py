"""The operations of `reference` on compiled kernels. Results live in buffers of an arena until `free` is called on them; an operation
whose input is not needed in its old form works in place and returns its input."""

from __future__ import annotations

import threading

import numpy as np

from ..kernels import attention, conv, feed_forward, local_attention, lstm, norm, signal, stft, wiener, winograd
from ..kernels.arena import Arena
from ..kernels.layer import Conv
from .numpy_ops import NumpyOperations

Array = np.ndarray


class CompiledOperations(NumpyOperations):
    """See `NumpyOperations` for what each operation is. Every Python thread has buffers of its own."""

    name = "numba"

    def __init__(self) -> None:
        self._local = threading.local()

    def __getstate__(self) -> dict[str, object]:
        return {}  # buffers stay where they are

    def __setstate__(self, state: dict[str, object]) -> None:
        self._local = threading.local()

    @property
    def arena(self) -> Arena:
        if not hasattr(self._local, "arena"):
            self._local.arena = Arena()
        arena: Arena = self._local.arena
        return arena

    def prepare(self, layer: Conv) -> Conv:
        return winograd.prepare(layer) if winograd.suits(layer) else conv.prepare(layer)

    def free(self, *arrays: Array | None) -> None:
        for array in arrays:
            if array is not None:
                self.arena.give(array)

    def reset(self) -> None:
        self.arena.reset()

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

    def conv(
        self,
        x: Array,
        layer: Conv,
        *,
        rows: int | None = None,
        length: int | None = None,
        skip: Array | None = None,
        before: Array | None = None,
        stats: Array | None = None,
        scale: Array | None = None,
        residual: Array | None = None,
    ) -> Array:
        """As in `NumpyOperations`; with `residual`, into it."""
        assert layer.upsample == 1 or (stats is None and before is None and residual is None)
        assert layer.activation != "glu" or before is None
        rows, length = layer.extent(x.shape[1], rows, length)
        out = self.arena.take(x.shape[0], length, layer.outputs) if residual is None else residual
        if layer.winograd:
            assert residual is None
            winograd.winograd(x, layer, out, rows, skip=skip, before=before)
            return out
        if residual is not None and scale is None:
            scale = np.ones(layer.outputs, np.float32)
        conv.conv_(x, layer, out, rows, skip=skip, before=before, stats=stats, scale=scale)
        return out

    def normalize(self, x: Array) -> tuple[Array, Array]:
        out, moments = self.arena.take(*x.shape), self.arena.take_doubles(2)
        norm.normalize(x, out, moments, self.arena)
        return out, moments

    def add_table(self, x: Array, table: Array) -> Array:
        norm.add_table(x, table)
        return x

    def activate(self, x: Array, name: str) -> Array:
        norm.activate(x, name)
        return x

    def group_norm(
        self, x: Array, groups: int, weight: Array, bias: Array, *, activation: str = "none", crop: int = 0, length: int | None = None
    ) -> Array:
        B, L, C = x.shape
        out = self.arena.take(B, L if length is None else length, C // 2 if activation == "glu" else C)
        norm.group_norm(x, groups, weight, bias, out, self.arena, activation=activation, crop=crop)
        return out

    def layer_norm(self, x: Array, weight: Array, bias: Array) -> Array:
        out = self.arena.take(*x.shape)
        norm.layer_norm(x, weight, bias, out)
        return out

    def norm_gelu(self, x: Array, weight: Array, bias: Array) -> Array:
        norm.norm_gelu(x, weight, bias, self.arena)
        return x

    def projected_stats(self, x: Array, layer: Conv) -> Array:
        assert layer.projection is not None
        out = self.arena.take(x.shape[1], 2)
        norm.projected_stats(x, layer.projection, layer.columns, out, self.arena)
        return out

    def attention(self, q: Array, k: Array, v: Array, heads: int) -> Array:
        out = self.arena.take(*q.shape)
        packed = self.arena.take(attention.room(k.shape[0], k.shape[1], heads))
        attention.attention(q, k, v, heads, out, packed)
        self.free(packed)
        return out

    def prepare_recurrent(self, weights: Array) -> Array:
        return lstm.prepare(weights)

    def lstm(self, gates: Array, recurrent: Array, first: Array, step: int, steps: int) -> Array:
        out = self.arena.take(steps, first.size, gates.shape[1] // 4)
        lstm.lstm(gates, recurrent, first, step, out)
        return out

    def local_attention(self, x: Array, heads: int, decays: int) -> Array:
        T, F, width = x.shape
        out = self.arena.take(T, F, (width - heads * decays) // 3)
        local_attention.local_attention(x, heads, decays, out)
        return out

    def wiener(self, z: Array, m: Array, iterations: int, residual: bool) -> Array:
        out = self.arena.take(*z.shape[:2], 2 * m.shape[2])
        wiener.wiener(z, m, iterations, residual, out)
        return out

    def feed_forward(self, x: Array, y: Array, widen: Conv, narrow: Conv, scale: Array | None) -> Array:
        scale = np.ones(narrow.outputs, np.float32) if scale is None else scale
        feed_forward.feed_forward(y[0], widen, narrow, scale, x[0])
        return x

    def stft(self, x: Array, n_fft: int, hop: int, frames: int) -> Array:
        if not stft.own_size(n_fft):
            return super().stft(x, n_fft, hop, frames)
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
        if not stft.own_size(n_fft):
            return super().istft(z, n_fft, hop, offset, envelope, **affine, out=out)
        if out is None:
            out = self.arena.take(z.shape[2] // 2, envelope.size)
        stft.istft(z, n_fft, hop, offset, envelope, out, **affine)
        return out
