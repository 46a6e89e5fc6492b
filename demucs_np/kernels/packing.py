"""Weights as PyTorch stores them, made into what the kernels read: once, when a model is opened.

Kernels too, so that a page opens the published file by the same code: each reads the tensors where they lie in the file, in any order of
axes, and writes a part of the packed image.
"""

from __future__ import annotations

import numpy as np

from ._jit import DISABLED, inline, kernel, numbers, view, view_as
from .arena import apart
from .gemm import LANES, PANEL, pack, padded, padded_columns, panel_width
from .layer import Conv, project
from .tiles import kept, pool

PART = 2**16  # numbers of a tile
NOTHING = np.empty(0, np.float32)
ABSENT = np.empty(0, np.float32)
ABSENT.flags.writeable = False  # as all weights are here: one signature


def flat(x: np.ndarray) -> tuple[np.ndarray, int]:
    """All that a view of float32 spans, as a flat array, and where in it the view's first number is."""
    if x.size == 0:
        return ABSENT, 0
    span = sum((n - 1) * abs(step) for n, step in zip(x.shape, x.strides, strict=True)) // 4 + 1
    lowest = tuple(slice(-1, None) if step < 0 else slice(1) for step in x.strides)
    memory = np.lib.stride_tricks.as_strided(x[lowest], (span,), (4,), writeable=False)
    return memory, sum((n - 1) * -step for n, step in zip(x.shape, x.strides, strict=True) if step < 0) // 4


def panels_of(columns: int) -> int:
    """Panels of a packed matrix with so many columns."""
    left = padded(columns)
    return left // PANEL + left % PANEL // LANES + (left % LANES > 0)


def pack_layer(conv: Conv, chunk: int) -> np.ndarray:
    """The layer's matrix, packed tap by tap, columns of a GLU in chunks of [values | gates]; its norm's weights are in it.

    ((y·W + b) - mean) / std gamma + beta = [y/std, 1/std, -mean/std]·[W; b; 1] gamma + beta.
    """
    gamma, beta = (ABSENT, ABSENT) if conv.norm is None else conv.norm
    K = conv.width * conv.channels + (0 if conv.norm is None else 2)
    out = kept(conv.taps * (1 + K) * padded(conv.columns))
    if DISABLED:
        out[:] = np.concatenate(packed_numpy(conv, chunk))
        return out
    memory, first = flat(conv.weights)
    steps = [step // 4 for step in conv.weights.strides]
    geometry = np.array([*conv.weights.shape, *steps, first, K, chunk if conv.activation == "glu" else 0])
    pool().run(
        _pack_weights_tiles,
        conv.taps * panels_of(conv.columns),
        2 * PANEL,
        memory,
        flat(conv.bias)[0],
        flat(gamma)[0],
        flat(beta)[0],
        out,
        geometry,
    )
    return out


def packed_numpy(conv: Conv, chunk: int) -> list[np.ndarray]:
    """The twin of `pack_layer`: each tap's panels."""
    order, matrix, bias = glu_order(conv, chunk), conv.matrix, np.tile(conv.bias, conv.upsample)
    if conv.norm is not None:
        gamma, beta = conv.norm
        matrix, bias = np.concatenate([matrix[0] * gamma, [bias * gamma], [gamma]])[None], beta
    return [pack(tap[:, order], bias[order] if t == conv.taps // 2 else None) for t, tap in enumerate(matrix)]


def glu_order(conv: Conv, chunk: int) -> np.ndarray:
    """An index of the columns: those of a GLU, stored as all values, then all gates, in chunks of [values | gates]; others as they are."""
    if conv.activation != "glu":
        return np.arange(conv.columns)
    half, step = conv.columns // 2, chunk // 2
    return np.concatenate([np.arange(c, min(c + step, half)) + h for c in range(0, half, step) for h in (0, half)])


@inline
def _column(j, columns, chunk):
    """`glu_order` of one column; chunk 0: no GLU."""
    if chunk == 0:
        return j
    half, step = columns // 2, chunk // 2
    first = j // chunk * step
    size = min(step, half - first)
    at = j % chunk
    return first + at if at < size else half + first + at - size


@inline
def _panel_at(number, columns):
    """The first column of a panel."""
    j = 0
    for _ in range(number):
        j += panel_width(columns - j)
    return j


@kernel
def _pack_weights_tiles(tile0, tile1, scratch, weights, bias, gamma, beta, out, geometry):
    """A panel of one tap: the bias, or the norm's; the weights; and where there is a norm, the rows for bias and mean."""
    taps, width, C, upsample, N, by_tap, by_width, by_channel, by_phase, by_column, first, K, chunk = numbers(geometry, 13)
    columns = upsample * N
    wide = padded_columns(columns)
    table = view_as(scratch, 0, PANEL, np.int64)

    panels = wide // PANEL + wide % PANEL // LANES + (1 if wide % LANES > 0 else 0)
    for tile in range(tile0, tile1):
        tap, j = tile // panels, _panel_at(tile % panels, wide)
        size = panel_width(wide - j)
        inside = min(size, columns - j)
        panel = view(out, tap * (1 + K) * wide + j * (1 + K), (1 + K) * size)
        for i in range(panel.size):
            panel[i] = np.float32(0)
        for i in range(inside):
            column = _column(j + i, columns, chunk)
            table[i] = first + tap * by_tap + column // N * by_phase + column % N * by_column
            if gamma.size:
                panel[i] = beta[column]
                panel[(K - 1) * size + i] = bias[column] * gamma[column]
                panel[K * size + i] = gamma[column]
            elif tap == taps // 2:
                panel[i] = bias[column % N]
        for position in range(width):
            for c in range(C):
                row, at = view(panel, (1 + position * C + c) * size, size), position * by_width + c * by_channel
                for i in range(inside):
                    row[i] = weights[table[i] + at]
        if gamma.size:
            for i in range(inside):
                factor = gamma[_column(j + i, columns, chunk)]
                for c in range(C):
                    panel[(1 + c) * size + i] *= factor


def pack_winograd(conv: Conv, chunk: int, along: np.ndarray, across: np.ndarray) -> np.ndarray:
    """The transformed weights of `winograd.prepare`, packed: matrices [1 + stride*C, N], one for each row of `along`, float64 [4 or 2, r],
    and of `across`, [4, 3], or [1, 1] for one tap. The bias goes with product 1 along each axis: it is in all outputs, with a plus. Where
    product 1 is not among the matrices, it stands behind them."""
    depth = conv.stride * conv.channels
    out = kept((len(along) * len(across) * (1 + depth) + (len(along) == 2)) * conv.columns)
    if DISABLED:
        out[:] = winograd_numpy(conv, chunk, along, across)
        return out
    memory, first = flat(conv.weights)
    steps = [step // 4 for step in conv.weights.strides]
    how = conv.stride, len(along), len(across), chunk if conv.activation == "glu" else 0
    geometry = np.array([*conv.weights.shape, *steps, first, *how])
    scratch = 2 * PANEL + 2 * (conv.taps * (conv.width // conv.stride + 4) + 1) * PANEL
    transforms = np.concatenate([along.reshape(-1), across.reshape(-1)])
    pool().run(_winograd_weights_tiles, panels_of(conv.columns), scratch, memory, flat(conv.bias)[0], transforms, out, geometry)
    return out


def winograd_numpy(conv: Conv, chunk: int, along: np.ndarray, across: np.ndarray) -> np.ndarray:
    """The twin of `pack_winograd`."""
    r, depth, order = conv.width // conv.stride, conv.stride * conv.channels, glu_order(conv, chunk)
    weights = conv.matrix.reshape(conv.taps, r, depth, conv.columns)[..., order].astype(np.float64)
    products = np.einsum("at,br,trdn->abdn", across, along, weights).reshape(-1, depth, conv.columns).astype(np.float32)
    bias = np.tile(conv.bias, conv.upsample)[order]
    if len(along) == 2:
        return np.concatenate([*map(pack, products), bias])
    return np.concatenate([pack(product, bias if k == (5 if conv.taps == 3 else 1) else None) for k, product in enumerate(products)])


@kernel
def _winograd_weights_tiles(tile0, tile1, scratch, weights, bias, transforms, out, geometry):
    """A panel of all matrices."""
    taps, width, C, upsample, N, by_tap, by_width, by_channel, by_phase, by_column, first, stride, along, across, chunk = numbers(
        geometry, 15
    )
    columns, r, depth = upsample * N, width // stride, stride * C
    table = view_as(scratch, 0, PANEL, np.int64)
    doubles = view_as(scratch, 2 * PANEL, (taps * (r + 4) + 1) * PANEL, np.float64)
    for tile in range(tile0, tile1):
        j = _panel_at(tile, columns)
        size = panel_width(columns - j)
        for i in range(size):
            column = _column(j + i, columns, chunk)
            table[i] = first + column // N * by_phase + column % N * by_column
            for k in range(along * across):
                out[k * (1 + depth) * columns + j * (1 + depth) + i] = np.float32(0)
            if along == 2:
                out[2 * (1 + depth) * columns + j + i] = bias[column % N]
            else:
                k = 5 if taps == 3 else 1
                out[k * (1 + depth) * columns + j * (1 + depth) + i] = bias[column % N]
        for d in range(depth):
            for t in range(taps):
                for q in range(r):
                    row, at = view(doubles, (t * r + q) * PANEL, size), t * by_tap + (q * stride + d // C) * by_width + d % C * by_channel
                    for i in range(size):
                        row[i] = np.float64(weights[table[i] + at])
                for b in range(along):
                    _combined(doubles, t * r * PANEL, PANEL, r, transforms, b * r, view(doubles, (taps * r + t * 4 + b) * PANEL, size))
            for a in range(across):
                for b in range(along):
                    total = view(doubles, taps * (r + 4) * PANEL, size)
                    _combined(doubles, (taps * r + b) * PANEL, 4 * PANEL, taps, transforms, along * r + a * taps, total)
                    row = view(out, (a * along + b) * (1 + depth) * columns + j * (1 + depth) + (1 + d) * size, size)
                    for i in range(size):
                        row[i] = np.float32(total[i])


@inline
def _combined(x, at, step, count, factors, place, out):
    """out = the sum of `count` rows, `step` apart, each times its factor."""
    for i in range(out.size):
        out[i] = 0.0
    for q in range(count):
        row, factor = view(x, at + q * step, out.size), factors[place + q]
        for i in range(out.size):
            out[i] += row[i] * factor


def projection_of(conv: Conv) -> np.ndarray:
    """`layer.project` of a 1x1 convolution."""
    C = conv.channels
    out = kept(2 * C + C * C + 2, np.float64)
    if DISABLED:
        out[:] = project(conv.matrix[0], conv.bias)
        return out
    memory, first = flat(conv.weights)
    geometry = np.array([C, conv.columns, conv.weights.strides[2] // 4, conv.weights.strides[4] // 4, first])
    pool().run(_project_weights_tiles, C + 1, 0, memory, flat(conv.bias)[0], out, geometry)
    return out


@kernel
def _project_weights_tiles(tile0, tile1, scratch, weights, bias, out, geometry):
    """Tile i: what channel i has part in; tile C: the sums of the bias."""
    C, N, by_channel, by_column, first = numbers(geometry, 5)
    for i in range(tile0, tile1):
        if i == C:
            total = squares = 0.0
            for n in range(N):
                b = np.float64(bias[n])
                total += b
                squares += b * b
            out[2 * C + C * C], out[2 * C + C * C + 1] = total, squares
        else:
            for d in range(C):
                out[2 * C + d * C + i] = 0.0
            total = cross = 0.0
            at = first + i * by_channel
            for n in range(N):
                w = np.float64(weights[at + n * by_column])
                total += w
                cross += w * np.float64(bias[n])
            out[i], out[C + i] = total, cross
            for d in range(C - i):
                product, other = 0.0, at + d * by_channel
                for n in range(N):
                    product += np.float64(weights[at + n * by_column]) * np.float64(weights[other + n * by_column])
                out[2 * C + d * C + i] = product if d == 0 else 2 * product


def scaled(x: np.ndarray, *factors: float) -> np.ndarray:
    """x times the factors one after the other in float64, rounded once: float32, C-contiguous."""
    out = kept(x.size)
    if DISABLED:
        out[:] = scaled_numpy(x, *factors).reshape(-1)
    else:
        pool().run(_scale_weights_tiles, -(-x.size // PART), 0, flat(x)[0], np.array(factors, np.float64), out)
    return out.reshape(x.shape)


def scaled_numpy(x: np.ndarray, *factors: float) -> np.ndarray:
    """The twin of `scaled`."""
    y = x.astype(np.float64)
    for factor in factors:
        y = y * factor
    return y.astype(np.float32)


@kernel
def _scale_weights_tiles(tile0, tile1, scratch, x, factors, out):
    for i in range(tile0 * PART, min(out.size, tile1 * PART)):
        value = np.float64(x[i])
        for factor in factors:
            value *= factor
        out[i] = np.float32(value)


def widened(x: np.ndarray) -> np.ndarray:
    """float16 as float32, of the same shape."""
    out = apart(x.size)
    if DISABLED:
        out[:] = x.reshape(-1)
    else:
        pool().run(_widen_weights_tiles, -(-x.size // PART), 0, np.ascontiguousarray(x, np.float16).view(np.uint16).reshape(-1), out)
    return out.reshape(x.shape)


@kernel
def _widen_weights_tiles(tile0, tile1, scratch, x, out):
    """Bit by bit: there is no type of 16 bits here."""
    bits = view_as(out, 0, out.size, np.int32)
    small = np.float32(2.0**-24)
    for i in range(tile0 * PART, min(out.size, tile1 * PART)):
        half = np.int32(x[i])
        sign, rest = np.int32((half & 0x8000) << 16), np.int32(half & 0x7FFF)
        if rest < 0x400:
            out[i] = np.float32(rest) * small
            bits[i] = np.int32(bits[i] | sign)
        else:
            more = np.int32(0x38000000) if rest < 0x7C00 else np.int32(0x70000000)  # infinite and NaN stay so
            bits[i] = np.int32(np.int32(rest << 13) + more | sign)
