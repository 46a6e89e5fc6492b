"""Every convolution, transposed convolution and linear layer of the models: one kernel on the matrix product.

Activations are (B, L, C): windows run along L, and `taps` of them, `dilation` apart, along B. A frequency layer is (T, F, C) as it stands,
a time layer (1, T, C); a dilated convolution over time is `taps` along B with windows of one: (T, F, C) or (T, 1, C).
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from ._jit import inline, kernel, numbers, view, view_as
from .epilogue import ACTIVATIONS, GLU, activate, add, store, store_scaled
from .gemm import gemm, padded, padded_columns
from .layer import Conv
from .packing import NOTHING, pack_layer, projection_of
from .tiles import evenly, pool

CHUNK = 512  # columns of the result in work at a time: with its rows they stay in L2


def prepare(conv: Conv) -> Conv:
    """The same layer with its matrix packed for the kernel, and with what its norm's statistics need of it."""
    projection = None
    if conv.norm is not None:
        assert conv.width == conv.taps == conv.upsample == 1
        projection = projection_of(conv)
    return replace(conv, weights=NOTHING, packed=pack_layer(conv, CHUNK), norm=None, projection=projection)


def tiling(B: int, rows: int, conv: Conv, gathered: bool) -> tuple[int, int]:
    """How many of B and of the rows are a tile: about as many rows as keep result and gathered input in L2."""
    target = max(48, min(2048, 2**16 // min(CHUNK, padded(conv.columns))))
    if B > 1:
        target = min(target, max(48, -(-B * rows // 16)))  # tiles for 16 threads
    longest = min(rows, 64 if gathered and conv.taps > 1 else target)
    length = evenly(rows, longest) if B == 1 else -(-rows // -(-rows // longest))
    batches = max(1, min(B, target // length))
    while gathered and batches > 1 and batches * ((length - 1) * conv.stride + conv.width) * conv.channels > 2**16:
        batches = (batches + 1) // 2
    return batches, length


class Geometry(NamedTuple):
    """The numbers that `_conv_tiles` takes, in their order."""

    B: int  # the input, [B, L, C]
    L: int
    C: int
    width: int  # of a window along L, and the other numbers of the layer, as in `Conv`
    stride: int
    pad: int
    taps: int
    dilation: int
    rows: int  # windows along L
    N: int  # columns of the product
    batches: int  # B and rows of a tile
    length: int
    gathered: bool  # whether the input is copied to scratch, with its halo
    slot: int  # floats of it for one of B
    area: int  # floats of it in scratch
    area_of_result: int  # floats of the product in scratch; 0 where it goes straight into `out`
    act: int  # of ACTIVATIONS
    limit: int  # floats of `out` for one of B
    crop: int  # floats of the result that are dropped at the left


def conv_(
    x: np.ndarray,
    conv: Conv,
    out: np.ndarray,
    rows: int,
    *,
    before: np.ndarray | None = None,
    stats: np.ndarray | None = None,
    scale: np.ndarray | None = None,
) -> None:
    """out[B, L_out, C_out] = activation(norm(conv(x) + bias) + before), or with `scale` out += scale * that.

    Arrays are float32, C-contiguous. x: [B, L, C]; before: as out; stats: [L, 2], mean and 1/std for each row of L, or [1, 2] for
    all, if the layer has a norm; scale: a number for each column of the product, of a GLU for each pair.
    `rows` is the number of windows along L. `out` may be x, for a 1x1 convolution to as many channels.
    """
    B, L, C = x.shape
    assert (stats is None) == (conv.projection is None)
    over = out is x and (conv.activation != "glu" or conv.columns > CHUNK)  # a row is read again after its first columns were written
    gathered = over or stats is not None or conv.pad > 0 or (rows - 1) * conv.stride + conv.width > L
    batches, length = tiling(B, rows, conv, gathered)
    reach = conv.taps // 2 * conv.dilation
    columns = padded(min(conv.columns, CHUNK))
    places = C + 2 if stats is not None else C
    slot = ((length - 1) * conv.stride + conv.width) * places if gathered else L * C
    area = (batches + 2 * reach) * slot if gathered else 0
    # Straight into `out`, without a copy of the result in scratch, where its rows follow each other as the tile's do.
    direct = conv.activation != "glu" and scale is None and conv.columns == padded(conv.columns)
    direct = direct and conv.crop == 0 and out[0].size == rows * conv.columns and (batches == 1 or length == rows)
    result = 0 if direct else batches * length * columns
    geometry = Geometry(
        B, L, C, conv.width, conv.stride, conv.pad, conv.taps, conv.dilation,
        rows=rows, N=conv.columns, batches=batches, length=length, gathered=gathered, slot=slot, area=area, area_of_result=result,
        act=ACTIVATIONS[conv.activation], limit=out[0].size, crop=conv.crop * conv.outputs,
    )  # fmt: skip
    arrays = [NOTHING if a is None else a.reshape(-1) for a in (before, stats, scale)]
    tiles = -(-B // batches) * -(-rows // length)
    scratch = 2 * batches * length + area + result
    pool().run(_conv_tiles, tiles, scratch, x.reshape(-1), conv.packed, *arrays, out.reshape(-1), np.array(geometry))


@kernel
def _conv_tiles(tile0, tile1, scratch, x, weights, before, stats, scale, out, geometry):
    """Tiles of `conv_`: gather the input with its halo, then for each chunk of columns product, activation, store."""
    B, L, C, width, stride, pad, taps, dilation, rows, N, batches, length, gathered, slot, area, area_of_result, act, limit, crop = numbers(
        geometry, 19
    )
    places = C + 2 if stats.size else C
    K = width * places
    halves = 2 if act == GLU else 1
    wide = N // halves
    direct = area_of_result == 0
    together = crop == 0 and length == rows and rows * wide == limit
    across = (rows + length - 1) // length
    table = view_as(scratch, 0, batches * length, np.int64)
    for tile in range(tile0, tile1):
        b0, l0 = tile // across * batches, tile % across * length
        b1, l1 = min(B, b0 + batches), min(rows, l0 + length)
        nl = l1 - l0
        source, shift = x, 0
        if gathered:
            source = scratch
            shift = 2 * batches * length
            first = max(0, b0 - taps // 2 * dilation)
            last = min(B, b1 + taps // 2 * dilation)
            span = (nl - 1) * stride + width
            for b in range(first, last):
                gathering = view(scratch, shift + (b - first) * slot, span * places)
                if stats.size:
                    _gather_scaled(x, b * L, C, l0, span, stats, gathering)
                else:
                    gather(x, b * L, L, C, l0 * stride - pad, span, gathering)
            start = b0 - first
        else:
            start, shift = b0, l0 * stride * C
        _windows(table, shift + start * slot, b1 - b0, slot, nl, stride * places)
        group = b1 - b0 if together else 1  # of b whose rows follow each other in `out`
        for n in range(0, N, CHUNK):
            columns = min(CHUNK, N - n)
            if direct:
                z, at, ldc = out, b0 * limit + l0 * N + n, N
            else:
                z, at, ldc = scratch, 2 * batches * length + area, padded_columns(columns)
            for i in range(taps):
                tap = (i + taps // 2) % taps  # the one in the middle first, which every row has, with the bias
                db = (tap - taps // 2) * dilation
                low, high = max(b0, -db), min(b1, B - db)
                if low < high:
                    m = (low - b0) * nl
                    at_tap = (tap * padded_columns(N) + n) * (1 + K)
                    gemm(source, db * slot, table, m, (high - low) * nl, weights, at_tap, K, 0, z, at + m * ldc, ldc, columns, K, i > 0)
            size, place = group * nl, l0 * wide - crop + n // halves
            for b in range(b0, b1, group):
                target = view(out, b * limit, group * limit)
                if before.size:
                    add(z, at, ldc, size, columns, before, b * limit + place, wide)
                activate(z, at, ldc, size, columns, act)
                if scale.size:
                    store_scaled(z, at, ldc, size, act == GLU, view(scale, n // halves, columns // halves), place, wide, target)
                elif not direct:
                    store(z, at, ldc, size, columns, act == GLU, place, wide, target)
                at += size * ldc


@inline
def _windows(table, first, groups, slot, rows, leap):
    """The offset of each window: `rows` in each of `groups` rows of the input."""
    for b in range(groups):
        for i in range(rows):
            table[b * rows + i] = first + b * slot + i * leap


@inline
def gather(x, row, L, C, position, span, out):
    """Positions position ... + span of row `row` of x, zero outside 0 ... L."""
    low, high = min(span, max(0, -position)), max(0, min(span, L - position))
    high = max(low, high)
    for i in range(low * C):
        out[i] = np.float32(0)
    begin = (row + position + low) * C
    size = (high - low) * C
    inside, source = view(out, low * C, size), view(x, begin, size)
    for i in range(size):
        inside[i] = source[i]
    for i in range(high * C, span * C):
        out[i] = np.float32(0)


@inline
def _gather_scaled(x, row, C, position, span, stats, out):
    """[x/std, 1/std, -mean/std] of each position."""
    for i in range(span):
        at = 2 * (position + i) if stats.size > 2 else 0
        mean, inverse = stats[at], stats[at + 1]
        source, target = view(x, (row + position + i) * C, C), view(out, i * (C + 2), C)
        for c in range(C):
            target[c] = source[c] * inverse
        out[i * (C + 2) + C] = inverse
        out[i * (C + 2) + C + 1] = -mean * inverse
