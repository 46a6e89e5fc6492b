"""Norms and sums. Statistics are taken in float64, tile by tile, and added up in the order of the tiles."""

from __future__ import annotations

import numpy as np

from ._jit import kernel, view
from .activation import gelu
from .conv import ACTIVATIONS, GLU, _activate, _store
from .layer import EPS
from .sums import clear, total_and_squares
from .tiles import pool

ROWS = 4096  # rows of a tile
PARTS = 16  # of an array, that statistics are taken of and then added up


def moments(x: np.ndarray, groups: int = 1, *, per_row: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Mean and biased variance, float64, of x [B, L, C].

    Over (B, L, C/groups) -> [groups], each; `per_row`: over (B, C/groups) -> [L, groups].
    """
    _, L, C = x.shape
    period = L * C if per_row else C
    width = _width(period)
    step = -(-x.size // (PARTS * width)) * width
    tiles = -(-x.size // step)
    partial = np.empty((tiles, 2, width))
    pool().run(_moments_tiles, tiles, 0, x.reshape(-1), partial.reshape(-1), width, step)
    shape = (L, groups) if per_row else (groups,)
    total = partial.sum(axis=0).reshape(2, width // period, *shape, C // groups).sum(axis=(1, -1)) / (x.size / np.prod(shape))
    mean, squares = total
    return mean, np.maximum(squares - mean * mean, 0)


def _width(period: int) -> int:
    """Columns to work on side by side: a multiple of the period with which they repeat, long enough for vector code."""
    return period * max(1, -(-256 // period))


@kernel
def _moments_tiles(tile0, tile1, scratch, x, partial, width, step):  # type: ignore[no-untyped-def]
    """Sums and sums of squares of each column of x read as rows of `width`."""
    for tile in range(tile0, tile1):
        clear(view(partial, tile * 2 * width, 2 * width))
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
        _affine_tiles, -(-rows // ROWS), C, x.reshape(-1), scale.astype(np.float32), shift.astype(np.float32), out.reshape(-1), geometry
    )


@kernel
def _affine_tiles(tile0, tile1, scratch, x, scale, shift, out, geometry):  # type: ignore[no-untyped-def]
    rows, L, length, crop, C, act = geometry
    for tile in range(tile0, tile1):
        z = view(scratch, 0, C)
        wide = C // 2 if act == GLU else C
        for row in range(tile * ROWS, min(rows, (tile + 1) * ROWS)):
            source = view(x, (row // length * L + row % length + crop) * C, C)
            for i in range(C):
                z[i] = source[i] * scale[i] + shift[i]
            _activate(scratch, 0, C, 1, C, act)
            _store(scratch, 0, C, 1, C, act == GLU, row * wide, wide, out)


def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, out: np.ndarray) -> None:
    """out[..., C] = LayerNorm(x [..., C]). `out` may be x."""
    rows = x.size // x.shape[-1]
    pool().run(_layer_norm_tiles, -(-rows // 128), 0, x.reshape(-1), weight, bias, out.reshape(-1), rows)


@kernel
def _layer_norm_tiles(tile0, tile1, scratch, x, weight, bias, out, rows):  # type: ignore[no-untyped-def]
    for tile in range(tile0, tile1):
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
        pool().run(_gelu_tiles, -(-x.size // 2**16), 0, x.reshape(-1))
    elif activation != "none":
        raise ValueError(f"activation {activation!r}")


@kernel
def _gelu_tiles(tile0, tile1, scratch, x):  # type: ignore[no-untyped-def]
    for tile in range(tile0, tile1):
        y = x[tile * 2**16 : (tile + 1) * 2**16]
        for i in range(y.size):
            y[i] = gelu(y[i])


def affine(x: np.ndarray, scale: float, shift: float, out: np.ndarray) -> None:
    """out = (x - shift) * scale, elementwise."""
    rows = -(-x.size // 2**16)
    pool().run(_scale_tiles, rows, 0, x.reshape(-1), np.float32(scale), np.float32(shift), out.reshape(-1))


@kernel
def _scale_tiles(tile0, tile1, scratch, x, scale, shift, out):  # type: ignore[no-untyped-def]
    for tile in range(tile0, tile1):
        source, target = x[tile * 2**16 : (tile + 1) * 2**16], out[tile * 2**16 : (tile + 1) * 2**16]
        for i in range(source.size):
            target[i] = (source[i] - shift) * scale


def add_table(x: np.ndarray, table: np.ndarray) -> None:
    """x[B, ...] += table[...], in place."""
    parts = -(-table.size // 2**16)
    pool().run(_add_tiles, x.size // table.size * parts, 0, x.reshape(-1), table.reshape(-1), parts)


@kernel
def _add_tiles(tile0, tile1, scratch, x, table, parts):  # type: ignore[no-untyped-def]
    for tile in range(tile0, tile1):
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
    table = np.empty((3, width // (L * C), L, C), np.float32)
    table[0], table[1], table[2] = mean, weight / np.sqrt(variance + EPS), bias
    step = max(1, 2**15 // width) * width
    pool().run(_norm_gelu_tiles, -(-x.size // step), 0, x.reshape(-1), table.reshape(-1), width, step)


@kernel
def _norm_gelu_tiles(tile0, tile1, scratch, x, table, width, step):  # type: ignore[no-untyped-def]
    for tile in range(tile0, tile1):
        mean, scale, bias = view(table, 0, width), view(table, width, width), view(table, 2 * width, width)
        stop = min(x.size, (tile + 1) * step)
        for start in range(tile * step, stop, width):
            y = view(x, start, min(width, stop - start))
            for i in range(y.size):
                y[i] = gelu((y[i] - mean[i]) * scale[i] + bias[i])


def second_moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums [L, C] and sums of products [C, L, C] over B of x[B, L, C], float64: products[d, l, i] of x[:, l, i] and the number d places on.

    (For i + d >= C that number is of another row, and of no use.) So the loops are as long as all rows together. Over the C channels
    of each row they would be too short: twice the time, with 6 channels 3 times.
    """
    _, L, C = x.shape
    width = _width(L * C)
    rows = -(-x.size // width)
    tiles = min(PARTS, -(-rows // 4))
    partial = np.empty((tiles, 1 + C, width))
    geometry = np.array([x.size, width, C, -(-rows // (4 * tiles)) * 4])
    pool().run(_second_moments_tiles, tiles, 8 * width, x.reshape(-1), partial.reshape(-1), geometry)
    total = partial.sum(axis=0).reshape(1 + C, -1, L, C).sum(axis=1)
    return total[0], total[1:]


@kernel
def _second_moments_tiles(tile0, tile1, scratch, x, partial, geometry):  # type: ignore[no-untyped-def]
    size, width, C, rows = geometry
    row = scratch[: 8 * width].view(np.float64)
    for tile in range(tile0, tile1):
        at = tile * (1 + C) * width
        clear(view(partial, at, (1 + C) * width))
        stop = min(size, (tile + 1) * rows * width)
        for start in range(tile * rows * width, stop, 4 * width):  # four rows at a time: the sums are read and written less often
            n = min(4 * width, stop - start)
            source, sums = view(x, start, n), view(partial, at, width)
            for i in range(n):
                row[i] = np.float64(source[i])
            for i in range(n, 4 * width):
                row[i] = 0.0
            y0, y1, y2, y3 = view(row, 0, width), view(row, width, width), view(row, 2 * width, width), view(row, 3 * width, width)
            for i in range(width):
                sums[i] += (y0[i] + y1[i]) + (y2[i] + y3[i])
            for d in range(C):
                z0, z1, z2, z3 = view(y0, d, width - d), view(y1, d, width - d), view(y2, d, width - d), view(y3, d, width - d)
                products = view(partial, at + (1 + d) * width, width - d)
                for i in range(products.size):
                    products[i] += (y0[i] * z0[i] + y1[i] * z1[i]) + (y2[i] * z2[i] + y3[i] * z3[i])
