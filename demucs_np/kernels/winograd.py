"""Convolutions of width 3 with fewer multiplications: Winograd's minimal filtering F(2, 3), along one axis or two.

Two neighbouring outputs of a 3-wide filter take 6 multiplications, or 4 of sums of inputs with sums of weights. Along both axes a patch
of 2x2 outputs takes 16 instead of 36, each one a matrix product over channels of one of 16 matrices of transformed weights.
What it gains: 57 of a segment's 335 GFLOP, in the decoder's 3x3 convolutions, become 25. Larger patches, F(4, 3), would save more,
but their weights lose 9 dB of precision; F(2, 3) only adds and halves. Source: Lavin and Gray 2015, section 4.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .._jit import DISABLED, kernel, view
from .conv import _copy, _gather, _glu, glu_order
from .gemm import LANES, PANEL, gemm, pack
from .layer import Conv
from .tiles import pool

COLUMNS = 96  # of the result in work at a time
WEIGHTS = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
INPUTS = ((0, 2, -1), (1, 2, 1), (2, 1, -1), (1, 3, -1))  # transformed input i is d[a] + sign * d[b]
assert COLUMNS % PANEL == 0


def suits(conv: Conv) -> bool:
    """Whether a layer can be computed this way and gains by it: channels in whole vectors, and enough of them to pay for the sums."""
    three = conv.width == 3 and conv.stride == 1 and conv.pad == 1 and conv.dilation == 1 and conv.taps in (1, 3)
    whole = conv.channels % 16 == 0 and conv.columns % 32 == 0 and conv.channels >= 32
    return three and whole and conv.norm is None and conv.activation in ("none", "glu")


def prepare(conv: Conv) -> Conv:
    """The same layer with transformed weights, packed: 4 matrices [C, N], or for 3 taps 16."""
    weights = conv.matrix.astype(np.float64).reshape(conv.taps, 3, conv.channels, conv.columns)
    weights = np.einsum("jk,tkcn->tjcn", WEIGHTS, weights)
    if conv.taps == 3:
        weights = np.einsum("it,tjcn->ijcn", WEIGHTS, weights)
    matrices = weights.reshape(-1, conv.channels, conv.columns).astype(np.float32)
    order = glu_order(conv, COLUMNS)
    panels = np.concatenate([pack(matrix[:, order]) for matrix in matrices])
    return replace(conv, matrix=panels, bias=conv.bias[order], winograd=True)


def patches(B: int, L: int, C: int, taps: int) -> tuple[int, int]:
    """Patches of a tile along B and L: whole blocks of rows of the product, and few enough to stay in L2 when transformed."""
    number = 48 if C < 192 else 24
    along = -(-L // 2)
    if taps == 1:
        return 1, min(2 * number, along)
    length = min(number // 3, along)
    return max(1, min(-(-B // 2), number // length)), length


_NOTHING = np.empty(0, np.float32)


def conv3(x: np.ndarray, conv: Conv, out: np.ndarray, *, skip: np.ndarray | None = None) -> None:
    """out[B, L, C_out] = activation(conv(x + skip) + bias) for a layer that `suits`, prepared. Arrays as in `conv.conv_`."""
    B, L, C = x.shape
    count, length = patches(B, L, C, conv.taps)
    step = 2 if conv.taps == 3 else 1  # rows of B that a patch gives
    tiles = -(-B // (step * count)) * -(-L // (2 * length))
    number = count * length
    gathered = (step * count + conv.taps - 1) * (2 * length + 2) * C
    scratch = 2 * number + gathered + 4 * step**2 * number * (C + COLUMNS)
    geometry = np.array([B, L, C, conv.taps, conv.columns, count, length, conv.activation == "glu"])
    skipped = _NOTHING if skip is None else skip.reshape(-1)
    pool().run(_winograd_tiles, tiles, scratch, x.reshape(-1), conv.matrix, conv.bias, skipped, out.reshape(-1), geometry)


def _load(builder: Any, base: Any, offset: Any) -> Any:
    value = builder.load(_pointer(builder, base, offset))
    value.align = 4
    return value


def _pointer(builder: Any, base: Any, offset: Any) -> Any:
    return builder.bitcast(builder.gep(base, [offset]), ir.VectorType(ir.FloatType(), LANES).as_pointer())


def _transform(rows: int, weave: Any) -> Any:
    """An intrinsic `(x, at, row, column, bias, out, to, step, size)` on flat arrays, over `size` channels in vectors: `weave` of the
    rows x 4 inputs at + i*row + j*column, stored at to + k*step. In registers, without the checks for overlap that a loop
    over so many arrays would need."""

    @intrinsic
    def transform(typingctx: Any, x: Any, at: Any, row: Any, column: Any, bias: Any, out: Any, to: Any, step: Any, size: Any) -> Any:
        n = types.intp
        signature = types.void(x, n, n, n, bias, out, n, n, n)

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            _, at, row, column, _, _, to, step, size = args
            i64 = ir.IntType(64)
            data, added, result = (context.make_array(sig.args[i])(context, builder, args[i]).data for i in (0, 4, 5))
            before = builder.block
            head, body, end = (builder.function.append_basic_block(name) for name in ("head", "body", "end"))
            builder.branch(head)
            builder.position_at_end(head)
            c = builder.phi(i64)
            c.add_incoming(i64(0), before)
            builder.cbranch(builder.icmp_signed("<", c, size), body, end)
            builder.position_at_end(body)
            start = builder.add(at, c)
            d = [
                [
                    _load(builder, data, builder.add(start, builder.add(builder.mul(row, i64(i)), builder.mul(column, i64(j)))))
                    for j in range(4)
                ]
                for i in range(rows)
            ]
            start = builder.add(to, c)
            for k, value in enumerate(weave(builder, d, lambda: _load(builder, added, c))):
                builder.store(value, _pointer(builder, result, builder.add(start, builder.mul(step, i64(k))))).align = 4
            c.add_incoming(builder.add(c, i64(LANES)), body)
            builder.branch(head)
            builder.position_at_end(end)
            return context.get_dummy_value()

        return signature, codegen

    return transform


def _inputs(builder: Any, d: Any, bias: Any) -> Any:
    """B'dB of 4x4 inputs, or dB of one row of 4."""

    def of(line: Any) -> Any:
        return [(builder.fadd if sign > 0 else builder.fsub)(line[a], line[b]) for a, b, sign in INPUTS]

    lines = [of(line) for line in d]
    if len(lines) == 4:
        columns = [of([line[j] for line in lines]) for j in range(4)]
        lines = [[columns[j][i] for j in range(4)] for i in range(4)]
    return [value for line in lines for value in line]


def _outputs(builder: Any, m: Any, bias: Any) -> Any:
    """A'mA of 4x4 products, or mA of one row of 4, plus bias."""

    def of(line: Any) -> Any:
        return [
            builder.fadd(builder.fadd(line[0], line[1]), line[2]),
            builder.fsub(builder.fsub(line[1], line[2]), line[3]),
        ]

    lines = [of(line) for line in m]
    if len(lines) == 4:
        columns = [of([line[j] for line in lines]) for j in range(2)]
        lines = [[columns[j][i] for j in range(2)] for i in range(2)]
    added = bias()
    return [builder.fadd(value, added) for line in lines for value in line]


def _plain(rows: int, inputs: bool) -> Any:
    """The same in Python, for NUMBA_DISABLE_JIT=1."""
    matrix = np.zeros((4, 4), np.float32) if inputs else np.array([[1, 1, 1, 0], [0, 1, -1, -1]], np.float32)
    if inputs:
        for i, (a, b, sign) in enumerate(INPUTS):
            matrix[i, a], matrix[i, b] = 1, sign

    def transform(x: Any, at: int, row: int, column: int, bias: Any, out: Any, to: int, step: int, size: int) -> None:
        d = np.array([[x[at + i * row + j * column :][:size] for j in range(4)] for i in range(rows)])
        y = np.einsum("kj,ijc->ikc", matrix, d)
        y = (np.einsum("ki,ijc->kjc", matrix, y) if rows == 4 else y).reshape(-1, size)
        for k, line in enumerate(y):
            out[to + k * step :][:size] = line if inputs else line + bias[:size]

    return transform


if DISABLED:
    _inputs1, _inputs4, _outputs1, _outputs4 = (_plain(rows, inputs) for inputs in (True, False) for rows in (1, 4))
else:
    _inputs1, _inputs4, _outputs1, _outputs4 = (_transform(rows, weave) for weave in (_inputs, _outputs) for rows in (1, 4))


@kernel
def _winograd_tiles(tile0, tile1, scratch, x, weights, bias, skip, out, geometry):  # type: ignore[no-untyped-def]
    """One tile of `conv3`: gather and transform the input; for each chunk of columns 4 or 16 products, outputs, activation, store."""
    B, L, C, taps, N, count, length, glu = geometry
    step, products = (2, 16) if taps == 3 else (1, 4)
    outputs = N // 2 if glu else N
    reach = taps // 2
    across = (L + 2 * length - 1) // (2 * length)
    at_gathered = 2 * count * length
    at_inputs = at_gathered + (step * count + 2 * reach) * (2 * length + 2) * C
    at_products = at_inputs + products * count * length * C
    for tile in range(tile0, tile1):
        b0, l0 = tile // across * step * count, tile % across * 2 * length
        nb = min(count, (B - b0 + step - 1) // step)
        nl = min(length, (L - l0 + 1) // 2)
        P = nb * nl
        table = scratch[: 2 * P].view(np.int64)
        row = (2 * nl + 2) * C
        for i in range(step * nb + 2 * reach):
            b = b0 + i - reach
            positions = L if 0 <= b < B else 0
            _gather(x, skip, b * positions, positions, C, l0 - 1, 2 * nl + 2, view(scratch, at_gathered + i * row, row))
        for p in range(P):
            table[p] = at_inputs + p * C
            at = at_gathered + step * (p // nl) * row + 2 * (p % nl) * C
            if taps == 3:
                _inputs4(scratch, at, row, C, bias, scratch, at_inputs + p * C, P * C, C)
            else:
                _inputs1(scratch, at, row, C, bias, scratch, at_inputs + p * C, P * C, C)
        for n in range(0, N, COLUMNS):
            columns = min(COLUMNS, N - n)
            size = P * columns
            for k in range(products):
                at = at_products + k * size
                gemm(scratch, k * P * C, table, 0, P, weights, (k * N + n) * C, C, 0, scratch, at, columns, columns, C, False)
            for p in range(P):
                at = at_products + p * columns
                if taps == 3:
                    _outputs4(scratch, at, 4 * size, size, view(bias, n, columns), scratch, at, size, columns)
                else:
                    _outputs1(scratch, at, 4 * size, size, view(bias, n, columns), scratch, at, size, columns)
                for k in range(2 * step):  # the results lie where the first products were
                    b, position = b0 + step * (p // nl) + k // 2, l0 + 2 * (p % nl) + k % 2
                    if b < B and position < L:
                        place, z = (b * L + position) * outputs, at + k * size
                        if glu:
                            half = columns // 2
                            _glu(view(scratch, z, half), view(scratch, z + half, half), view(out, place + n // 2, half))
                        else:
                            _copy(view(scratch, z, columns), view(out, place + n, columns))
