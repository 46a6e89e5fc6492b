"""Convolutions with fewer multiplications: Winograd's minimal filtering F(2, 3) along one axis or two, and F(3, 2) for strided ones.

Two neighbouring outputs of a filter with 3 weights, or three of one with 2, take 6 multiplications, or 4 of sums of inputs with sums of
weights. Along both axes a patch of 2x2 outputs takes 16 instead of 36. Each of these is a matrix product over channels of one matrix
of transformed weights. A convolution of width 8 and stride 4 is a filter with 2 weights over blocks of 4 positions, which in a
channels-last layout are contiguous; so is a transposed one, from pairs of inputs to blocks of 4 outputs.

What it gains: the decoder's 3x3 convolutions, 57 of a segment's 335 GFLOP, become 25; the time branch's, 9.5, become 6.3; the strided
and transposed ones, 31, become 21. These only add and halve: along one axis they are as exact as the direct sums, along two they lose
4 dB. Larger patches, F(4, 3), would save more, but lose 4 dB along one axis and 9 along two. Source: Winograd 1980, "Arithmetic
Complexity of Computations"; Lavin and Gray 2015, section 4.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ._jit import DISABLED, inline, kernel, numbers, view, view_as
from .conv import gather
from .epilogue import ACTIVATIONS, GLU, activate, add, store, store_scaled
from .gemm import DEPTH, LANES, PANEL, gemm
from .layer import Conv
from .packing import NOTHING, pack_winograd
from .tiles import pool

COLUMNS = 96  # of the result in work at a time
# Transformed inputs, as signed sums; by the number of weights along an axis, transformed weights, as a matrix, and outputs, as sums.
INPUTS = [[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, -1, 0, 1]]
WEIGHTS = {2: [[1, 0], [0.5, 0.5], [0.5, -0.5], [0, 1]], 3: [[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]]}
OUTPUTS = {2: [[1, 1, 1, 0], [0, 1, -1, 0], [0, 1, 1, 1]], 3: [[1, 1, 1, 0], [0, 1, -1, 1]]}
assert COLUMNS % PANEL == 0
# Of layers with two weights along an axis and so many in all, only products 0 and 3 are kept, which are the weights themselves. The others,
# half their sums and differences, are made on the way, while there are half as many weights to wait for. Smaller layers would lose by it.
PAIR, LARGE = [[1, 0], [0, 1]], 2**22


def suits(conv: Conv) -> bool:
    """Whether a layer can be computed this way and gains by it: channels in whole vectors, and enough of them to pay for the sums."""
    weights, rest = divmod(conv.width, conv.stride)
    if rest or conv.dilation > 1 or conv.norm is not None or (weights, conv.taps) not in ((2, 1), (3, 1), (3, 3)):
        return False
    depth = conv.stride * conv.channels
    return depth % 16 == 0 and depth >= 32 and conv.columns % 32 == 0


def paired(conv: Conv) -> bool:
    """Whether of a layer's four matrices two are kept."""
    return conv.width == 2 * conv.stride and conv.channels * conv.width * conv.columns >= LARGE


def prepare(conv: Conv) -> Conv:
    """The same layer with transformed weights, packed: 4 matrices [stride*C, N], or for 3 taps 16, or 2 and the bias."""
    along = np.array(PAIR if paired(conv) else WEIGHTS[conv.width // conv.stride], np.float64)
    across = np.array(WEIGHTS[3]) if conv.taps == 3 else np.ones((1, 1))
    return replace(conv, weights=NOTHING, packed=pack_winograd(conv, COLUMNS, along, across), winograd=True)


def outputs_along(conv: Conv) -> int:
    """Outputs along L of a patch."""
    return len(OUTPUTS[conv.width // conv.stride])


def patches(B: int, rows: int, conv: Conv) -> tuple[int, int]:
    """Patches of a tile along B and L: whole blocks of rows of the product, and few enough to stay in L2 when transformed."""
    number = 48 if conv.stride * conv.channels < 192 else 24
    along = -(-rows // outputs_along(conv))
    if conv.taps == 1:
        length = min(2 * number, along)
        return max(1, min(B, 2 * number // length)), length
    length = min(number // 3, along)
    return max(1, min(-(-B // 2), number // length)), length


def winograd(
    x: np.ndarray,
    conv: Conv,
    out: np.ndarray,
    rows: int,
    *,
    before: np.ndarray | None = None,
    scale: np.ndarray | None = None,
) -> None:
    """out[B, L_out, C_out] = activation(conv(x) + bias + before) for a layer that `suits`, prepared, or with `scale` out += scale *
    that. Arrays as for `conv_`."""
    B, L, C = x.shape
    batches, length = patches(B, rows, conv)
    m, step = outputs_along(conv), 2 if conv.taps == 3 else 1  # rows of L and of B that a patch gives
    tiles = -(-B // (step * batches)) * -(-rows // (m * length))
    number, depth = batches * length, conv.stride * C
    gathered = (step * batches + conv.taps - 1) * (m * length + 4 - m) * depth
    scratch = 2 * number + gathered + (16 if conv.taps == 3 else 4) * number * (depth + COLUMNS)
    scratch += 2 * (1 + DEPTH) * COLUMNS if paired(conv) else 0
    geometry = Geometry(
        B, L, C, m, conv.taps, conv.stride, conv.pad,
        rows=rows, N=conv.columns, batches=batches, length=length,
        act=ACTIVATIONS[conv.activation], limit=out[0].size, crop=conv.crop * conv.outputs,
    )  # fmt: skip
    arrays = [NOTHING if a is None else a.reshape(-1) for a in (before, scale)]
    pool().run(_winograd_tiles, tiles, scratch, x.reshape(-1), conv.packed, *arrays, out.reshape(-1), np.array(geometry))


class Geometry(NamedTuple):
    """The numbers that `_winograd_tiles` takes, in their order."""

    B: int  # the input, [B, L, C]
    L: int
    C: int
    m: int  # outputs along L of a patch
    taps: int  # of the layer, as in `Conv`
    stride: int
    pad: int
    rows: int  # windows along L
    N: int  # columns of the product
    batches: int  # patches of a tile along B and L
    length: int
    act: int  # of ACTIVATIONS
    limit: int  # floats of `out` for one of B
    crop: int  # floats of the result that are dropped at the left


@kernel
def _winograd_tiles(tile0, tile1, scratch, x, weights, before, scale, out, geometry):
    """Tiles of `winograd`: gather and transform the input; for each chunk of columns the products, outputs, activation, store."""
    B, L, C, m, taps, stride, pad, rows, N, batches, length, act, limit, crop = numbers(geometry, 14)
    step, products = (2, 16) if taps == 3 else (1, 4)
    halves = 2 if act == GLU else 1
    reach = taps // 2
    depth = stride * C
    across = (rows + m * length - 1) // (m * length)
    at_gathered = 2 * batches * length
    at_inputs = at_gathered + (step * batches + 2 * reach) * (m * length + 4 - m) * depth
    at_products = at_inputs + products * batches * length * depth
    at_sums = at_products + products * batches * length * COLUMNS
    for tile in range(tile0, tile1):
        b0, l0 = tile // across * step * batches, tile % across * m * length
        nb = min(batches, (B - b0 + step - 1) // step)
        nl = min(length, (rows - l0 + m - 1) // m)
        P = nb * nl
        table = view_as(scratch, 0, P, np.int64)
        span = (m * nl + 4 - m) * stride
        for i in range(step * nb + 2 * reach):
            b = b0 + i - reach
            positions = L if 0 <= b < B else 0
            gather(x, b * positions, positions, C, l0 * stride - pad, span, view(scratch, at_gathered + i * span * C, span * C))
        for p in range(P):
            table[p] = at_inputs + p * depth
            at = at_gathered + (step * (p // nl) * span + m * (p % nl) * stride) * C
            if taps == 3:
                _inputs33(scratch, at, span * C, depth, scratch, at_inputs + p * depth, P * depth, depth)
            else:
                _inputs(scratch, at, 0, depth, scratch, at_inputs + p * depth, P * depth, depth)
        for n in range(0, N, COLUMNS):
            columns = min(COLUMNS, N - n)
            size = P * columns
            _products(scratch, table, P, weights, n, N, depth, products, columns, at_products, at_sums)
            for p in range(P):
                at = at_products + p * columns
                if taps == 3:
                    _outputs33(scratch, at, 4 * size, size, scratch, at, size, columns)
                elif m == 2:
                    _outputs3(scratch, at, 0, size, scratch, at, size, columns)
                else:
                    _outputs2(scratch, at, 0, size, scratch, at, size, columns)
            for k in range(m * step):  # the results lie where the first products were
                position = l0 + k % m
                inside = min(nl, (rows - position + m - 1) // m)
                place = (position * N + n) // halves - crop
                for i in range(nb):
                    b = b0 + step * i + k // m
                    if b < B:
                        at = at_products + k * size + i * nl * columns
                        if before.size:
                            add(scratch, at, columns, inside, columns, before, b * limit + place, m * N)
                        activate(scratch, at, columns, inside, columns, act)
                        target, pitch = view(out, b * limit, limit), m * N // halves
                        if scale.size:
                            factor = view(scale, n // halves, columns // halves)
                            store_scaled(scratch, at, columns, inside, act == GLU, factor, place, pitch, target)
                        else:
                            store(scratch, at, columns, inside, columns, act == GLU, place, pitch, target)


@inline
def _products(scratch, table, P, weights, n, N, depth, products, columns, at_products, at_sums):
    """The matrix products of P transformed inputs for columns n ... n + columns. Of four matrices there may be the first and the last, and
    the bias behind them: then a k block of the others is made before it is needed."""
    pair = weights.size == (2 * (1 + depth) + 1) * N
    block = DEPTH if pair else depth
    for d in range(0, depth, block):
        rows = min(block, depth - d)
        if pair:
            _half_sums(weights, n, N, depth, d, rows, columns, scratch, at_sums)
        for k in range(products):
            matrix, panel, height, top = weights, (k * N + n) * (1 + depth), depth, d
            if pair and k == 3:
                panel = (N + n) * (1 + depth)
            elif pair and k > 0:
                matrix, panel, height, top = scratch, at_sums + (k - 1) * columns * (1 + rows), rows, 0
            a, at = k * P * depth + d, at_products + k * P * columns
            gemm(scratch, a, table, 0, P, matrix, panel, height, top, scratch, at, columns, columns, rows, d > 0)


@inline
def _half_sums(weights, n, N, depth, top, rows, columns, out, at):
    """Of columns n ... n + columns and `rows` rows from `top` on, (w0 + w1) / 2 with the bias and (w0 - w1) / 2, packed, at out[at]."""
    for j in range(0, columns, PANEL):
        plus, minus = at + j * (1 + rows), at + (columns + j) * (1 + rows)
        bias = view(weights, 2 * N * (1 + depth) + n + j, PANEL)
        for i in range(PANEL):
            out[plus + i] = bias[i]
            out[minus + i] = np.float32(0)
        panel, size = (n + j) * (1 + depth) + (1 + top) * PANEL, rows * PANEL
        w0, w1 = view(weights, panel, size), view(weights, panel + N * (1 + depth), size)
        sums, differences = view(out, plus + PANEL, size), view(out, minus + PANEL, size)
        for i in range(size):
            sums[i] = (w0[i] + w1[i]) * np.float32(0.5)
            differences[i] = (w0[i] - w1[i]) * np.float32(0.5)


def _transform(matrix: list[list[int]], both: bool) -> Any:
    """An intrinsic `(x, at, row, column, out, to, step, size)` on flat arrays, over `size` channels in vectors: the signed sums
    that `matrix` says of the inputs at + j*column, or of those at + i*row + j*column along `both` axes, stored at to + k*step.
    All in registers, without the checks for overlap that a loop over so many arrays would need."""

    @intrinsic
    def transform(typingctx: Any, x: Any, at: Any, row: Any, column: Any, out: Any, to: Any, step: Any, size: Any) -> Any:
        n = types.intp
        signature = types.void(x, n, n, n, out, n, n, n)

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            _, at, row, column, _, to, step, size = args
            i64, vector = ir.IntType(64), ir.VectorType(ir.FloatType(), LANES)
            data, result = (context.make_array(sig.args[i])(context, builder, args[i]).data for i in (0, 4))

            def pointer(base: Any, *terms: Any) -> Any:
                offset = terms[0]
                for term in terms[1:]:
                    offset = builder.add(offset, term)
                return builder.bitcast(builder.gep(base, [offset]), vector.as_pointer())

            def load(base: Any, *terms: Any) -> Any:
                value = builder.load(pointer(base, *terms))
                value.align = 4
                return value

            def sums(line: list[Any]) -> list[Any]:
                results = []
                for signs in matrix:
                    plus = [value for value, sign in zip(line, signs, strict=True) if sign > 0]
                    minus = [value for value, sign in zip(line, signs, strict=True) if sign < 0]
                    total = plus[0]
                    for value in plus[1:]:
                        total = builder.fadd(total, value)
                    for value in minus:
                        total = builder.fsub(total, value)
                    results.append(total)
                return results

            indices = range(len(matrix[0]))
            with cgutils.for_range_slice(builder, i64(0), size, i64(LANES)) as (c, _):
                lines = [
                    sums([load(data, at, c, builder.mul(row, i64(i)), builder.mul(column, i64(j))) for j in indices])
                    for i in (indices if both else (0,))
                ]
                if both:
                    columns = [sums([line[j] for line in lines]) for j in range(len(matrix))]
                    lines = [[column[i] for column in columns] for i in range(len(matrix))]
                for k, value in enumerate(value for line in lines for value in line):
                    builder.store(value, pointer(result, to, c, builder.mul(step, i64(k)))).align = 4
            return context.get_dummy_value()

        return signature, codegen

    return transform


def _plain_transform(matrix: list[list[int]], both: bool) -> Any:
    """The same in Python, for NUMBA_DISABLE_JIT=1."""
    signs = np.array(matrix, np.float32)

    def transform(x: Any, at: int, row: int, column: int, out: Any, to: int, step: int, size: int) -> None:
        indices = range(signs.shape[1])
        d = np.array([[x[at + i * row + j * column :][:size] for j in indices] for i in (indices if both else (0,))])
        y = np.einsum("kj,ijc->ikc", signs, d)
        y = (np.einsum("ki,ijc->kjc", signs, y) if both else y).reshape(-1, size)
        for k, line in enumerate(y):
            out[to + k * step :][:size] = line

    return transform


_make = _plain_transform if DISABLED else _transform
_inputs, _inputs33 = _make(INPUTS, False), _make(INPUTS, True)
_outputs2, _outputs3, _outputs33 = _make(OUTPUTS[2], False), _make(OUTPUTS[3], False), _make(OUTPUTS[3], True)
