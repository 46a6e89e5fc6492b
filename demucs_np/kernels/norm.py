"""Norms and sums. Statistics are taken in float64, tile by tile, and added up in the order of the tiles."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from . import epilogue
from ._jit import exact, kernel, numbers, view, view_as
from .activation import gelu
from .arena import Arena
from .epilogue import ACTIVATIONS, GLU, store
from .lanes import along_row
from .layer import EPS
from .sums import clear, total_and_squares
from .tiles import pool

ROWS = 4096  # rows of a tile
PARTS = 16  # of an array, that statistics are taken of and then added up
FINISHERS = 8  # tiles that add them up


class Sums(NamedTuple):
    """What `_sums_tiles` left in partial[parts, 2, repeats, statistics, channels]: sums, and sums of squares, to be added up."""

    parts: int
    repeats: int  # of all statistics side by side
    statistics: int
    channels: int  # of one statistic
    size: int  # numbers that one statistic is of
    block: int  # statistics that a tile finishes


def _sums(x: np.ndarray, groups: int, arena: Arena, *, per_row: bool = False) -> tuple[np.ndarray, Sums]:
    """Sums in float64 of x [B, L, C] over (B, L, C/groups), or `per_row` over (B, C/groups), in parts, for a kernel to finish."""
    _, L, C = x.shape
    period = L * C if per_row else C
    width = _width(period)
    step = -(-x.size // (PARTS * width)) * width
    parts = -(-x.size // step)
    partial = arena.take_doubles(parts * 2 * width)
    pool().run(_sums_tiles, parts, 0, x.reshape(-1), partial, np.array([width, step]))
    statistics = (L if per_row else 1) * groups
    return partial, Sums(parts, width // period, statistics, C // groups, x.size // statistics, -(-statistics // FINISHERS))


def _width(period: int) -> int:
    """Columns to work on side by side: a multiple of the period with which they repeat, long enough for vector code."""
    return period * max(1, -(-256 // period))


@kernel
def _sums_tiles(tile0, tile1, scratch, x, partial, geometry):
    """Sums and sums of squares of each column of x read as rows of `width`."""
    width, step = numbers(geometry, 2)
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


@exact
def _add_up(partial, start, parts, pitch, repeats, period, out):
    """out[i] = the sum over parts and repeats of partial[start + part*pitch + repeat*period + i]."""
    clear(out)
    for repeat in range(repeats):
        for part in range(parts):
            row = view(partial, start + part * pitch + repeat * period, out.size)
            for i in range(row.size):
                out[i] += row[i]


@exact
def _moments(sums, squares, count):
    """Mean and biased variance; NaN stays NaN."""
    total = total2 = 0.0
    for i in range(sums.size):
        total += sums[i]
        total2 += squares[i]
    mean = total / count
    variance = total2 / count - mean * mean
    return mean, (0.0 if variance < 0.0 else variance)


def _room(sums: Sums) -> int:
    """Scratch of a kernel that finishes sums: both kinds for its block, float64."""
    return 4 * sums.block * sums.channels


def group_norm(
    x: np.ndarray,
    groups: int,
    weight: np.ndarray,
    bias: np.ndarray,
    out: np.ndarray,
    arena: Arena,
    *,
    activation: str = "none",
    crop: int = 0,
) -> None:
    """out[B, L_out, C or C/2] = activation(GroupNorm(x [B, L, C])) for the rows crop ... crop + L_out. `out` may be x if shapes agree."""
    C = x.shape[2]
    partial, sums = _sums(x, groups, arena)
    table = arena.take(2 * C)
    pool().run(_scale_shift_tiles, -(-groups // sums.block), _room(sums), partial, weight, bias, table, np.array(sums))
    rows = out.shape[0] * out.shape[1]
    geometry = np.array([rows, x.shape[1], out.shape[1], crop, C, ACTIVATIONS[activation]])
    pool().run(_affine_tiles, -(-rows // ROWS), C, x.reshape(-1), table, out.reshape(-1), geometry)
    arena.give(partial)
    arena.give(table)


@kernel
def _scale_shift_tiles(tile0, tile1, scratch, partial, weight, bias, table, geometry):
    """table[2, C]: GroupNorm as x * scale + shift."""
    parts, repeats, groups, G, count, block = numbers(geometry, 6)
    C = groups * G
    for tile in range(tile0, tile1):
        first, last = tile * block, min(groups, (tile + 1) * block)
        size = (last - first) * G
        sums, squares = view_as(scratch, 0, size, np.float64), view_as(scratch, 2 * size, size, np.float64)
        _add_up(partial, first * G, parts, 2 * repeats * C, repeats, C, sums)
        _add_up(partial, repeats * C + first * G, parts, 2 * repeats * C, repeats, C, squares)
        for g in range(first, last):
            mean, variance = _moments(view(sums, (g - first) * G, G), view(squares, (g - first) * G, G), count)
            for c in range(g * G, (g + 1) * G):
                scale = 1 / np.sqrt(variance + EPS) * weight[c]
                table[c], table[C + c] = np.float32(scale), np.float32(bias[c] - mean * scale)


@kernel
def _affine_tiles(tile0, tile1, scratch, x, table, out, geometry):
    rows, L, length, crop, C, act = numbers(geometry, 6)
    scale, shift = view(table, 0, C), view(table, C, C)
    for tile in range(tile0, tile1):
        z = view(scratch, 0, C)
        wide = C // 2 if act == GLU else C
        for row in range(tile * ROWS, min(rows, (tile + 1) * ROWS)):
            source = view(x, (row // length * L + row % length + crop) * C, C)
            for i in range(C):
                z[i] = source[i] * scale[i] + shift[i]
            epilogue.activate(scratch, 0, C, 1, C, act)
            store(scratch, 0, C, 1, C, act == GLU, row * wide, wide, out)


def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, out: np.ndarray) -> None:
    """out[..., C] = LayerNorm(x [..., C]). `out` may be x."""
    rows = x.size // x.shape[-1]
    pool().run(_layer_norm_tiles, -(-rows // 128), 0, x.reshape(-1), weight, bias, out.reshape(-1), np.array([rows]))


@kernel
def _layer_norm_tiles(tile0, tile1, scratch, x, weight, bias, out, geometry):
    rows = geometry[0]
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
    """In place x = GELU(x) or ReLU(x), or nothing for "none"."""
    if activation not in ("none", "gelu", "relu"):
        raise ValueError(f"activation {activation!r}")
    if activation != "none":
        pool().run(_activate_tiles, -(-x.size // 2**16), 0, x.reshape(-1), np.array([ACTIVATIONS[activation]]))


@kernel
def _activate_tiles(tile0, tile1, scratch, x, geometry):
    (act,) = numbers(geometry, 1)
    for tile in range(tile0, tile1):
        first = tile * 2**16
        size = min(2**16, x.size - first)
        epilogue.activate(x, first, size, 1, size, act)


def normalize(x: np.ndarray, out: np.ndarray, moments: np.ndarray, arena: Arena) -> None:
    """out = (x - mean) / (1e-5 + std), elementwise; moments[2], float64: mean and std, unbiased, over the whole of x [..., C]. `out` may be
    x."""
    partial, sums = _sums(x.reshape(1, -1, x.shape[-1]), 1, arena)
    pool().run(_mean_std_tiles, 1, _room(sums), partial, moments, np.array(sums))
    pool().run(_normalize_tiles, -(-x.size // 2**16), 0, x.reshape(-1), moments, out.reshape(-1))
    arena.give(partial)


@kernel
def _mean_std_tiles(tile0, tile1, scratch, partial, moments, geometry):
    parts, repeats, _, C, count, _ = numbers(geometry, 6)
    for _ in range(tile0, tile1):
        sums, squares = view_as(scratch, 0, C, np.float64), view_as(scratch, 2 * C, C, np.float64)
        _add_up(partial, 0, parts, 2 * repeats * C, repeats, C, sums)
        _add_up(partial, repeats * C, parts, 2 * repeats * C, repeats, C, squares)
        mean, variance = _moments(sums, squares, count)
        moments[0], moments[1] = mean, np.sqrt(variance * count / (count - 1))  # of one number NaN


@kernel
def _normalize_tiles(tile0, tile1, scratch, x, moments, out):
    scale, shift = np.float32(1 / (1e-5 + moments[1])), np.float32(moments[0])
    for tile in range(tile0, tile1):
        size = min(2**16, x.size - tile * 2**16)
        source, target = view(x, tile * 2**16, size), view(out, tile * 2**16, size)
        for i in range(source.size):
            target[i] = (source[i] - shift) * scale


def add_table(x: np.ndarray, table: np.ndarray) -> None:
    """x[B, ...] += table[...], in place."""
    parts = -(-table.size // 2**16)
    pool().run(_add_tiles, x.size // table.size * parts, 0, x.reshape(-1), table.reshape(-1), np.array([parts]))


@kernel
def _add_tiles(tile0, tile1, scratch, x, table, geometry):
    parts = geometry[0]
    for tile in range(tile0, tile1):
        start = tile % parts * 2**16
        added = view(table, start, min(2**16, table.size - start))
        target = view(x, tile // parts * table.size + start, added.size)
        for i in range(added.size):
            target[i] += added[i]


def norm_gelu(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, arena: Arena) -> None:
    """In place x[B, L, C] = GELU(GroupNorm(1)) of each row of L by itself: statistics over (B, C)."""
    L = x.shape[1]
    partial, sums = _sums(x, 1, arena, per_row=True)
    width = sums.repeats * L * sums.channels
    table = arena.take(3 * width)
    pool().run(_table_tiles, -(-L // sums.block), _room(sums), partial, weight, bias, table, np.array(sums))
    step = max(1, 2**15 // width) * width
    pool().run(_norm_gelu_tiles, -(-x.size // step), 0, x.reshape(-1), table, np.array([width, step]))
    arena.give(partial)
    arena.give(table)


@kernel
def _table_tiles(tile0, tile1, scratch, partial, weight, bias, table, geometry):
    """table[3, repeats, L, C]: mean, weight / std and bias of each number in a row of `_norm_gelu_tiles`."""
    parts, repeats, L, C, count, block = numbers(geometry, 6)
    width = repeats * L * C
    for tile in range(tile0, tile1):
        first, last = tile * block, min(L, (tile + 1) * block)
        size = (last - first) * C
        sums, squares = view_as(scratch, 0, size, np.float64), view_as(scratch, 2 * size, size, np.float64)
        _add_up(partial, first * C, parts, 2 * width, repeats, L * C, sums)
        _add_up(partial, width + first * C, parts, 2 * width, repeats, L * C, squares)
        for row in range(first, last):
            mean, variance = _moments(view(sums, (row - first) * C, C), view(squares, (row - first) * C, C), count)
            std = np.sqrt(variance + EPS)
            for repeat in range(repeats):
                for c in range(C):
                    at = (repeat * L + row) * C + c
                    table[at], table[width + at], table[2 * width + at] = np.float32(mean), np.float32(weight[c] / std), bias[c]


@kernel
def _norm_gelu_tiles(tile0, tile1, scratch, x, table, geometry):
    width, step = numbers(geometry, 2)
    for tile in range(tile0, tile1):
        stop = min(x.size, (tile + 1) * step)
        for start in range(tile * step, stop, width):
            _norm_gelu(x, start, table, 0, table, width, table, 2 * width, min(width, stop - start))


_norm_gelu = along_row(lambda mean, scale, bias, x: gelu((x - mean) * scale + bias))


def projected_stats(x: np.ndarray, projection: np.ndarray, columns: int, stats: np.ndarray, arena: Arena) -> None:
    """stats[L, 2] = mean and 1/std, over (B, columns), of the 1x1 convolution of x[B, L, C] that `projection` describes.

    Of all pairs of channels the sums of products over B are needed. products[d, l, i] is that of x[:, l, i] and the number d places
    further on, so that each loop is as long as all rows together, not as the C channels of one: that would take twice the time, with
    6 channels 3 times. (Where i + d >= C the other number is of the next row, and the sum is of no use.)
    """
    B, L, C = x.shape
    width = _width(L * C)
    rows = -(-x.size // width)
    parts = min(PARTS, -(-rows // 4))
    partial = arena.take_doubles(parts * (1 + C) * width)
    geometry = np.array([x.size, width, C, -(-rows // (4 * parts)) * 4])
    pool().run(_products_tiles, parts, 8 * width, x.reshape(-1), partial, geometry)
    block = -(-L // FINISHERS)
    geometry = np.array([parts, width // (L * C), L, C, B, columns, block])
    pool().run(_projected_tiles, -(-L // block), 2 * (1 + C) * block * C, partial, projection, stats.reshape(-1), geometry)
    arena.give(partial)


@kernel
def _products_tiles(tile0, tile1, scratch, x, partial, geometry):
    size, width, C, rows = numbers(geometry, 4)
    row = view_as(scratch, 0, 4 * width, np.float64)
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


@kernel
def _projected_tiles(tile0, tile1, scratch, partial, projection, stats, geometry):
    """Σz = Σy·w + n Σb and Σz² = ⟨WW', Σyy'⟩ + 2 Wb·Σy + n Σb²: see `layer.project`."""
    parts, repeats, L, C, count, columns, block = numbers(geometry, 7)
    width = repeats * L * C
    n = np.float64(count * columns)
    row_sums, cross, products = view(projection, 0, C), view(projection, C, C), view(projection, 2 * C, C * C)
    bias, bias_squares = projection[2 * C + C * C], projection[2 * C + C * C + 1]
    for tile in range(tile0, tile1):
        first, last = tile * block, min(L, (tile + 1) * block)
        size = (last - first) * C
        sums = view_as(scratch, 0, (1 + C) * size, np.float64)
        for d in range(1 + C):
            _add_up(partial, d * width + first * C, parts, (1 + C) * width, repeats, L * C, view(sums, d * size, size))
        for row in range(first, last):
            at = (row - first) * C
            y = view(sums, at, C)
            mean = (_dot(y, row_sums) + count * bias) / n
            squares = 2 * _dot(y, cross) + count * bias_squares
            for d in range(C):
                squares += _dot(view(sums, (1 + d) * size + at, C - d), view(products, d * C, C - d))
            variance = squares / n - mean * mean
            variance = 0.0 if variance < 0.0 else variance
            stats[2 * row], stats[2 * row + 1] = np.float32(mean), np.float32(1 / np.sqrt(variance + EPS))


@exact
def _dot(x, y):
    total = 0.0
    for i in range(x.size):
        total += x[i] * y[i]
    return total
