"""Every operation in plain NumPy: the specification of the compiled kernels, and a backend of its own to read and step through.

`protocol.Operations` says what each one is. Nothing is changed in place: what `compiled` reuses, this returns anew.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ..kernels import packing
from ..kernels.layer import EPS, Conv, Norm
from ..kernels.resample import resample_numpy
from ..kernels.tables import hann

Array = np.ndarray


def sigmoid(x: Array) -> Array:
    with np.errstate(over="ignore"):  # e^-x may be infinite: 1/inf is the right answer
        return np.asarray(1 / (1 + np.exp(-x)), x.dtype)


@np.vectorize
def _erf(x: float) -> float:
    return math.erf(x)


def gelu(x: Array) -> Array:
    """x/2 (1 + erf(x/sqrt(2))). The erf is interpolated (cubic Hermite, step 1/512, error 1e-12): NumPy has none."""
    table, slope, step = _erf_table()
    u = np.clip(x.astype(np.float64) / math.sqrt(2), -6, 6 - 1e-9)
    at = np.nan_to_num((u + 6) / step).astype(np.int64)
    t = (u + 6) / step - at
    y0, y1, d0, d1 = table[at], table[at + 1], slope[at] * step, slope[at + 1] * step
    erf = y0 + t * (d0 + t * (3 * (y1 - y0) - 2 * d0 - d1 + t * (2 * (y0 - y1) + d0 + d1)))
    return np.asarray(x * 0.5 * (1 + erf), x.dtype)


@lru_cache(maxsize=1)
def _erf_table() -> tuple[Array, Array, float]:
    step = 1 / 512
    u = np.arange(-6, 6 + 2 * step, step)
    return _erf(u), 2 / math.sqrt(math.pi) * np.exp(-u * u), step


def activate(z: Array, name: str) -> Array:
    """`none`, `gelu`, `relu`, or `glu`: the first half of the channels times the sigmoid of the second."""
    if name == "gelu":
        return gelu(z)
    if name == "relu":
        return np.asarray(np.maximum(z, 0))
    if name == "glu":
        half = z.shape[-1] // 2
        return np.asarray(z[..., :half] * sigmoid(z[..., half:]))
    return z


DEPTH = 192  # as `kernels.gemm.DEPTH`


def product(x: Array, y: Array) -> Array:
    """x [..., M, K] times y [..., K, N] -> [..., M, N].

    Summed in blocks of `DEPTH`, which are added up in order, as the compiled product does: a chain over all of K, which BLAS makes of
    small products, leaves the sum several dB less accurate.
    """
    z: Array = np.matmul(x[..., :DEPTH], y[..., :DEPTH, :])
    for k in range(DEPTH, x.shape[-1], DEPTH):
        z += np.matmul(x[..., k : k + DEPTH], y[..., k : k + DEPTH, :])
    return z


def pad_reflect(x: Array, left: int, right: int) -> Array:
    """See `Operations.pad`."""
    n = x.shape[1]
    longest = max(left, right)
    if n <= longest:
        extra = longest - n + 1
        extra_right = min(right, extra)
        extra_left = extra - extra_right
        x = np.pad(x, ((0, 0), (extra_left, extra_right)))
        left, right = left - extra_left, right - extra_right
    return np.pad(x, ((0, 0), (left, right)), mode="reflect")


def stft(x: Array, n_fft: int, hop: int, frames: int) -> Array:
    """See `Operations.stft`."""
    windows = sliding_window_view(x, n_fft, axis=1)[:, ::hop][:, :frames] * hann(n_fft)  # [C, frames, n_fft]
    z = np.fft.rfft(windows)[..., :-1] * np.float32(1 / math.sqrt(n_fft))
    z = np.stack([z.real, z.imag], axis=-1)  # [C, frames, F, 2]
    return np.ascontiguousarray(z.transpose(1, 2, 0, 3).reshape(frames, n_fft // 2, -1), np.float32)


def istft(z: Array, n_fft: int, hop: int, offset: int, envelope: Array) -> Array:
    """See `Operations.istft`; of z as it stands -> [samples, signals]."""
    frames, bins, channels = z.shape
    samples = envelope.size
    pairs = z.reshape(frames, bins, channels // 2, 2)
    spectrum = np.zeros((frames, bins + 1, channels // 2), np.complex64)
    spectrum[:, :bins] = pairs[..., 0] + 1j * pairs[..., 1]
    spectrum[:, 0].imag = 0
    signal = np.fft.irfft(spectrum, n=n_fft, axis=1) * (hann(n_fft) * np.float32(math.sqrt(n_fft)))[:, None]  # [frames, n_fft, signals]
    lead = max(0, -offset)
    total = np.zeros((lead + max(samples, offset + (frames - 1) * hop + n_fft), channels // 2), np.float32)
    for t in range(frames):
        start = lead + offset + t * hop
        total[start : start + n_fft] += signal[t]
    return np.asarray(total[lead : lead + samples] * envelope[:, None])


class NumpyOperations:
    """See `Operations`."""

    name = "numpy"

    def prepare(self, layer: Conv, path: str = "") -> Conv:
        return replace(layer, weights=np.ascontiguousarray(layer.weights), path=path)

    def prepare_recurrent(self, weights: Array) -> Any:
        return weights

    def prepare_table(self, x: Array, *factors: float) -> Array:
        return packing.scaled_numpy(x, *factors)

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
        return x.copy()

    def pad(self, x: Array, left: int, right: int, *, reflect: bool = False) -> Array:
        return pad_reflect(x, left, right) if reflect else np.pad(x, ((0, 0), (left, right)))

    def transpose(self, x: Array) -> Array:
        return np.asarray(np.ascontiguousarray(x.T)[None])

    def finite(self, x: Array) -> Array:
        return np.asarray(np.isfinite(x), np.float32)

    def join(self, parts: Sequence[Array]) -> Array:
        return np.concatenate(parts, axis=1)

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
        rows, length = layer.extent(x.shape[1], rows, length)
        B, L, C = x.shape
        right = max(0, (rows - 1) * layer.stride + layer.width - layer.pad - L)
        padded = np.pad(x, ((0, 0), (layer.pad, right), (0, 0)))
        windows = sliding_window_view(padded, layer.width, axis=1)[:, :: layer.stride][:, :rows]  # [B, L, C] -> [B, rows, C, width]
        windows = windows.transpose(0, 1, 3, 2).reshape(B, rows, layer.width * C)  # -> [B, rows, width*C]
        z = np.broadcast_to(np.tile(layer.bias, layer.upsample), (B, rows, layer.columns)).copy()
        for tap in range(layer.taps):
            db = (tap - layer.taps // 2) * layer.dilation
            low, high = max(0, -db), min(B, B - db)
            if low < high:
                taken = windows[low + db : high + db].reshape(-1, layer.width * C)
                z[low:high] += product(taken, layer.matrix[tap]).reshape(-1, rows, layer.columns)
        if stats is not None and layer.norm is not None:
            z = (z - stats[:, :1]) * stats[:, 1:] * layer.norm[0] + layer.norm[1]
        if before is not None:
            z = z + before.reshape(z.shape)
        y = activate(z, layer.activation)
        y = y.reshape(B, rows * layer.upsample, layer.outputs)[:, layer.crop : layer.crop + length]
        if residual is not None:
            y = residual + (y if scale is None else scale * y)
        return np.ascontiguousarray(y, np.float32)

    def normalize(self, x: Array) -> tuple[Array, Array]:
        mean = np.mean(x, dtype=np.float64)
        std = np.std(x, dtype=np.float64, ddof=1) if x.size > 1 else math.nan
        return ((x - np.float32(mean)) * np.float32(1 / (1e-5 + std))).astype(np.float32), np.array([mean, std])

    def normalize_mono(self, x: Array) -> tuple[Array, float, float]:
        mono = x.mean(axis=0, dtype=np.float64)
        mean, std = float(mono.mean()), float(mono.std(ddof=1)) if mono.size > 1 else math.nan
        return (x - np.float32(mean)) * np.float32(1 / (1e-5 + std)), mean, std

    def denormalize(self, x: Array, mean: float, std: float, out: Array) -> None:
        out[...] = x * np.float32(std) + np.float32(mean)

    def restore(self, x: Array, moments: Array) -> Array:
        return x * np.float32(moments[1]) + np.float32(moments[0])

    def add_table(self, x: Array, table: Array, path: str = "") -> Array:
        return np.asarray(x + table)

    def activate(self, x: Array, name: str) -> Array:
        return activate(x, name)

    def group_norm(
        self, x: Array, norm: Norm, *, activation: str = "none", crop: int = 0, length: int | None = None, spent: bool = False
    ) -> Array:
        B, L, C = x.shape
        length = L if length is None else length
        z = x.reshape(B * L, norm.groups, C // norm.groups).astype(np.float64)
        mean, variance = z.mean(axis=(0, 2), keepdims=True), z.var(axis=(0, 2), keepdims=True)
        z = ((z - mean) / np.sqrt(variance + EPS)).reshape(B, L, C) * norm.weight + norm.bias
        return np.ascontiguousarray(activate(z[:, crop : crop + length].astype(np.float32), activation))

    def layer_norm(self, x: Array, norm: Norm) -> Array:
        z = x.astype(np.float64)
        z = (z - z.mean(axis=-1, keepdims=True)) / np.sqrt(z.var(axis=-1, keepdims=True) + EPS)
        return np.asarray((z * norm.weight + norm.bias).astype(np.float32))

    def norm_gelu(self, x: Array, norm: Norm) -> Array:
        z = x.astype(np.float64)
        z = (z - z.mean(axis=(0, 2), keepdims=True)) / np.sqrt(z.var(axis=(0, 2), keepdims=True) + EPS)
        return gelu((z * norm.weight + norm.bias).astype(np.float32))

    def projected_stats(self, x: Array, layer: Conv) -> Array:
        z = (product(x, layer.matrix[0]) + layer.bias).astype(np.float64)
        return np.stack([z.mean(axis=(0, 2)), 1 / np.sqrt(z.var(axis=(0, 2)) + EPS)], axis=1).astype(np.float32)

    def attention(self, q: Array, k: Array, v: Array, heads: int) -> Array:
        (N, C), S = q.shape, k.shape[0]
        qh, kh, vh = (a.reshape(-1, heads, C // heads).transpose(1, 0, 2) for a in (q, k, v))  # [N, C] -> [heads, N, C/heads]
        out = np.empty((N, C), np.float32)
        step = max(1, 2**22 // (heads * S))
        for n in range(0, N, step):
            scores = product(qh[:, n : n + step], kh.transpose(0, 2, 1)) * np.float32(1 / math.sqrt(C // heads))
            weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
            weights /= weights.sum(axis=-1, keepdims=True)
            out[n : n + step] = product(weights, vh).transpose(1, 0, 2).reshape(-1, C)
        return out

    def lstm(self, gates: Array, recurrent: Any, first: Array, step: int, steps: int) -> Array:
        R, H = first.size, gates.shape[1] // 8
        out = np.empty((steps, R, 2 * H), np.float32)
        for direction, times in enumerate((range(steps), range(steps - 1, -1, -1))):
            h, c = np.zeros((R, H), np.float32), np.zeros((R, H), np.float32)
            for t in times:
                z = gates[first + t * step, direction * 4 * H : (direction + 1) * 4 * H] + product(h, recurrent[direction])
                i, f, g, o = z[:, :H], z[:, H : 2 * H], z[:, 2 * H : 3 * H], z[:, 3 * H :]
                c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
                h = sigmoid(o) * np.tanh(c)
                out[t, :, direction * H : (direction + 1) * H] = h
        return out

    def join_windows(self, y: Array, windows: int, stride: int, length: int) -> Array:
        time = np.arange(length)
        window = np.clip((time - stride // 2) // stride, 0, windows - 1)
        return np.asarray(y.reshape(len(y), windows, -1, y.shape[2])[time - window * stride, window])

    def local_attention(self, x: Array, heads: int, decays: int) -> Array:
        T, F, width = x.shape
        C = (width - heads * decays) // 3
        q, k, v = (x[:, :, i * C : (i + 1) * C].reshape(T, F, heads, -1).transpose(1, 2, 0, 3) for i in range(3))  # [F, heads, T, D]
        rates = sigmoid(x[:, :, 3 * C :]).reshape(T, F, heads, decays) @ np.arange(1, decays + 1, dtype=np.float32)  # [T, F, heads]
        rates = rates.transpose(1, 2, 0)[..., None] * np.float32(0.5 / math.sqrt(decays))
        distance = np.abs(np.arange(T)[:, None] - np.arange(T)).astype(np.float32)
        out = np.empty((T, F, C), np.float32)
        for f in range(F):
            scores = product(q[f], k[f].transpose(0, 2, 1)) * np.float32(1 / math.sqrt(C // heads)) - rates[f] * distance
            scores[:, np.arange(T), np.arange(T)] = -100
            weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
            weights /= weights.sum(axis=-1, keepdims=True)
            out[:, f] = product(weights, v[f]).transpose(1, 0, 2).reshape(T, C)
        return out

    def join_bands(self, parts: Sequence[Array], biases: Sequence[Array], stride: int, overlap: int, crop: int, length: int) -> Array:
        starts = [0]
        for part in parts[:-1]:
            starts.append(starts[-1] + part.shape[1] - overlap)
        total = np.zeros((len(parts[0]), starts[-1] + parts[-1].shape[1], parts[0].shape[2]), np.float32)
        for start, part, bias in zip(starts, parts, biases, strict=True):
            total[:, start : start + part.shape[1]] += part
            if start:
                total[:, start : start + stride] -= bias
        return np.ascontiguousarray(total[:, crop : crop + length])

    def magnitude(self, z: Array) -> Array:
        pairs = z.reshape(*z.shape[:2], -1, 2)
        return np.ascontiguousarray(np.hypot(pairs[..., 0], pairs[..., 1]))

    def phase_mask(self, z: Array, m: Array) -> Array:
        (T, F, _), C = z.shape, z.shape[2] // 2
        unit = z.reshape(T, F, 1, C, 2) / (np.float32(1e-8) + self.magnitude(z).reshape(T, F, 1, C, 1))
        return np.ascontiguousarray((unit * m.reshape(T, F, -1, C, 1)).reshape(T, F, -1), np.float32)

    def wiener(self, z: Array, m: Array, iterations: int, residual: bool) -> Array:
        (T, F, _), C = z.shape, z.shape[2] // 2
        windows = []
        for start in range(0, T, 300):
            x = z[start : start + 300].astype(np.float64).view(np.complex128)  # [T, F, C]
            x[x == 0] = 1
            y = m[start : start + 300].reshape(len(x), F, -1, C) * (x / np.abs(x))[:, :, None]  # [T, F, S, C]
            S = y.shape[2]
            scale = max(1.0, float(np.abs(x).max()) / 10) if iterations else 1.0
            x, y = x / scale, y / scale
            if residual:
                y = np.concatenate([y, x[:, :, None] - y.sum(axis=2, keepdims=True)], axis=2)
            for _ in range(iterations):
                v = np.mean(np.abs(y) ** 2, axis=3)  # [T, F, S]
                covariance = np.einsum("tfsa,tfsb->fsab", y, y.conj()) / (1e-10 + v.sum(axis=0))[..., None, None]
                mixture = np.einsum("tfs,fsab->tfab", v, covariance) + 1e-5 * np.eye(C)
                white = np.linalg.solve(mixture, x[..., None])[..., 0]  # [T, F, C]
                y = v[..., None] * np.einsum("fsab,tfb->tfsa", covariance, white)
            windows.append(np.ascontiguousarray(y[:, :, :S] * scale).view(np.float64).reshape(len(x), F, -1))
        return np.concatenate(windows).astype(np.float32)

    def feed_forward(self, x: Array, y: Array, widen: Conv, narrow: Conv, scale: Array | None) -> Array:
        return self.conv(self.conv(y, widen), narrow, scale=scale, residual=x)

    def stft(self, x: Array, n_fft: int, hop: int, frames: int) -> Array:
        return stft(x, n_fft, hop, frames)

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
        result = istft(z if moments is None else self.restore(z, moments), n_fft, hop, offset, envelope)  # [samples, signals]
        if time is not None:
            time = time.reshape(-1, result.shape[1])[: len(result)]
            result = result + (time if time_moments is None else self.restore(time, time_moments))
        if out is None:
            return np.ascontiguousarray(result.T, np.float32)
        out[...] = result.T
        return out

    def resample(self, x: Array, old_rate: int, new_rate: int) -> Array:
        return resample_numpy(x, old_rate, new_rate)
