"""Norms and sums. Statistics are taken in float64, tile by tile, and added up in the order of the tiles."""

from __future__ import annotations

import numpy as np

from .._jit import kernel, view
from .activation import gelu, sigmoid
from .conv import ACTIVATIONS, GELU, GLU, RELU
from .layer import EPS
from .sums import total_and_squares
from .tiles import pool

ROWS = 4096  # rows of a tile


def moments(x: np.ndarray, groups: int = 1, *, per_row: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Mean and biased variance, float64, of x [B, L, C].

    Over (B, L, C/groups) -> [groups], each; `per_row`: over (B, C/groups) -> [L, groups].
    """
    _, L, C = x.shape
    period = L * C if per_row else C
    width = _width(period)
    step = max(1, 2**15 // width) * width
    tiles = -(-x.size // step)
    partial = np.zeros((tiles, 2, width))
    pool().run(_moments_tile, tiles, 0, x.reshape(-1), partial.reshape(-1), width, step)
    shape = (L, groups) if per_row else (groups,)
    total = partial.sum(axis=0).reshape(2, width // period, *shape, C // groups).sum(axis=(1, -1)) / (x.size / np.prod(shape))
    mean, squares = total
    return mean, np.maximum(squares - mean * mean, 0)


def _width(period: int) -> int:
    """Columns to work on side by side: a multiple of the period with which they repeat, long enough for vector code."""
    return period * max(1, -(-256 // period))


@kernel
def _moments_tile(tile, scratch, x, partial, width, step):  # type: ignore[no-untyped-def]
    """Sums and sums of squares of each column of x read as rows of `width`."""
    sums, squares = view(partial, tile * 2 * width, width), view(partial, (tile * 2 + 1) * width, width)
    stop = min(x.size, (tile + 1) * step)
    for start in range(tile * step, stop, width):
        row = view(x, start, min(width, stop - start))
        for i in range(row.size):
            v = np.float64(row[i])
            sums[i] += v
            squares[i] += v * v


def group_norm(
    x: np.ndarray, groups: int, weight: np.ndarray, bias: np.ndarray, out: np.ndarray, *, activation: str = "none", crop: int = 0
) -> None:
    """out[B, L_out, C or C/2] = activation(GroupNorm(x [B, L, C])) for the rows crop ... crop + L_out. `out` may be x if shapes agree."""
    C = x.shape[2]
    mean, variance = moments(x, groups)
    scale = np.repeat(1 / np.sqrt(variance + EPS), C // groups) * weight
    shift = bias - np.repeat(mean, C // groups) * scale
    rows = out.shape[0] * out.shape[1]
    geometry = np.array([rows, x.shape[1], out.shape[1], crop, C, ACTIVATIONS[activation]])
    pool().run(
        _affine_tile, -(-rows // ROWS), C, x.reshape(-1), scale.astype(np.float32), shift.astype(np.float32), out.reshape(-1), geometry
    )


@kernel
def _affine_tile(tile, scratch, x, scale, shift, out, geometry):  # type: ignore[no-untyped-def]
    rows, L, length, crop, C, act = geometry
    z = view(scratch, 0, C)
    half = C // 2
    for row in range(tile * ROWS, min(rows, (tile + 1) * ROWS)):
        at = (row // length * L + row % length + crop) * C
        source = view(x, at, C)
        for i in range(C):
            z[i] = source[i] * scale[i] + shift[i]
        if act == GLU:
            target, gate = view(out, row * half, half), view(z, half, half)
            for i in range(half):
                target[i] = z[i] * sigmoid(gate[i])
        else:
            target = view(out, row * C, C)
            if act == GELU:
                for i in range(C):
                    target[i] = gelu(z[i])
            elif act == RELU:
                for i in range(C):
                    target[i] = max(z[i], np.float32(0))
            else:
                for i in range(C):
                    target[i] = z[i]


def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, out: np.ndarray) -> None:
    """out[..., C] = LayerNorm(x [..., C]). `out` may be x."""
    rows = x.size // x.shape[-1]
    pool().run(_layer_norm_tile, -(-rows // 128), 0, x.reshape(-1), weight, bias, out.reshape(-1), rows)


@kernel
def _layer_norm_tile(tile, scratch, x, weight, bias, out, rows):  # type: ignore[no-untyped-def]
    C = weight.size
    for row in range(tile * 128, min(rows, (tile + 1) * 128)):
        source, target = view(x, row * C, C), view(out, row * C, C)
        total, squares = total_and_squares(source)
        mean = total / C
        scale = np.float32(1 / np.sqrt(max(squares / C - mean * mean, 0.0) + EPS))
        center = np.float32(mean)
        for i in range(C):
            target[i] = (source[i] - center) * scale * weight[i] + bias[i]


def activate(x: np.ndarray, activation: str) -> None:
    """In place x = GELU(x)."""
    if activation == "gelu":
        pool().run(_gelu_tile, -(-x.size // 2**16), 0, x.reshape(-1))
    elif activation != "none":
        raise ValueError(f"activation {activation!r}")


@kernel
def _gelu_tile(tile, scratch, x):  # type: ignore[no-untyped-def]
    y = x[tile * 2**16 : (tile + 1) * 2**16]
    for i in range(y.size):
        y[i] = gelu(y[i])


def affine(x: np.ndarray, scale: float, shift: float, out: np.ndarray) -> None:
    """out = (x - shift) * scale, elementwise."""
    rows = -(-x.size // 2**16)
    pool().run(_scale_tile, rows, 0, x.reshape(-1), np.float32(scale), np.float32(shift), out.reshape(-1))


@kernel
def _scale_tile(tile, scratch, x, scale, shift, out):  # type: ignore[no-untyped-def]
    source, target = x[tile * 2**16 : (tile + 1) * 2**16], out[tile * 2**16 : (tile + 1) * 2**16]
    for i in range(source.size):
        target[i] = (source[i] - shift) * scale


def add_table(x: np.ndarray, table: np.ndarray) -> None:
    """x[B, ...] += table[...], in place."""
    parts = -(-table.size // 2**16)
    pool().run(_add_tile, x.size // table.size * parts, 0, x.reshape(-1), table.reshape(-1), parts)


@kernel
def _add_tile(tile, scratch, x, table, parts):  # type: ignore[no-untyped-def]
    start = tile % parts * 2**16
    added = table[start : start + 2**16]
    target = x[tile // parts * table.size + start : tile // parts * table.size + start + added.size]
    for i in range(added.size):
        target[i] += added[i]


def norm_gelu(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> None:
    """In place x[B, L, C] = GELU(GroupNorm(1)) of each row of L by itself: statistics over (B, C)."""
    _, L, C = x.shape
    mean, variance = moments(x, per_row=True)  # [L, 1]
    width = _width(L * C)
    scale = weight / np.sqrt(variance + EPS)
    table = np.stack([np.resize(column, width) for column in (np.broadcast_to(mean, (L, C)), scale, np.broadcast_to(bias, (L, C)))])
    step = max(1, 2**15 // width) * width
    pool().run(_norm_gelu_tile, -(-x.size // step), 0, x.reshape(-1), table.astype(np.float32).reshape(-1), width, step)


@kernel
def _norm_gelu_tile(tile, scratch, x, table, width, step):  # type: ignore[no-untyped-def]
    mean, scale, bias = view(table, 0, width), view(table, width, width), view(table, 2 * width, width)
    stop = min(x.size, (tile + 1) * step)
    for start in range(tile * step, stop, width):
        y = view(x, start, min(width, stop - start))
        for i in range(y.size):
            y[i] = gelu((y[i] - mean[i]) * scale[i] + bias[i])


def second_moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums [L, C] and sums of products [L, C, C] over B of x[B, L, C], float64."""
    B, L, C = x.shape
    tiles = -(-B * L // ROWS)
    partial = np.zeros((tiles, L, C + C * C))
    pool().run(_second_moments_tile, tiles, 0, x.reshape(-1), partial.reshape(-1), np.array([B * L, L, C]))
    total = partial.sum(axis=0)
    upper = np.triu(total[:, C:].reshape(L, C, C))
    return total[:, :C], upper + np.triu(upper, 1).transpose(0, 2, 1)


@kernel
def _second_moments_tile(tile, scratch, x, partial, geometry):  # type: ignore[no-untyped-def]
    rows, L, C = geometry
    for row in range(tile * ROWS, min(rows, (tile + 1) * ROWS)):
        y = view(x, row * C, C)
        key = (tile * L + row % L) * (C + C * C)
        sums = view(partial, key, C)
        for i in range(C):
            sums[i] += np.float64(y[i])
        for i in range(C):
            v = np.float64(y[i])
            products = view(partial, key + C + i * C + i, C - i)
            other = view(y, i, C - i)
            for j in range(other.size):
                products[j] += v * np.float64(other[j])
