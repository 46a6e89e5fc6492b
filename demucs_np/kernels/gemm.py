"""The matrix product under everything: a micro-kernel that holds a block of the result in vector registers.

    C[m, n] = bias[n] + sum over k of  A[rows[m] + k] * B[k, n],    or C[m, n] += the sum

A is read in place: `rows` holds the offset of each row's first element, so rows may overlap, skip or come in any order. In a
channels-last layout the window of a convolution along one axis is contiguous, and so a strided convolution is this product, with no
im2col. B and the bias are packed once, at load, into panels of `PANEL` columns, each contiguous along k.

Every element of C is one chain of fused multiply-adds over k, in blocks of `DEPTH` that are added up in order. Neither the number of
rows and columns held in registers nor the vector width changes that order: the bits are the same on every machine with FMA.
"""

from __future__ import annotations

import os
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ._jit import DISABLED, inline, view
from .sums import clear

DEPTH = 192  # k block: long enough to hide the store and reload of C, short enough for float32 sums to stay accurate and panels in L1/L2

# Fetched into L2 before they are needed: the panel, so many rows ahead (where panels are short, the next one), and the rows of A, so many
# register blocks of them, as if they lay one after the other. Where they come from memory, small products gain a sixth to a third.
# DEMUCS_NP_FETCH=0 leaves it out: WebAssembly has no such hint, only the sums of its address.
AHEAD, BLOCKS_AHEAD = 64, 4
FETCH = os.environ.get("DEMUCS_NP_FETCH") != "0"


def _host() -> tuple[int, bool]:
    """Vector lanes (float32) and whether the host has fused multiply-add; DEMUCS_NP_LANES=4|8|16 and DEMUCS_NP_FMA=0|1 force them."""
    features: dict[str, bool] = llvm.get_host_cpu_features()
    arm = llvm.get_default_triple().startswith(("aarch64", "arm64"))
    lanes = 16 if features.get("avx512f") else 8 if features.get("avx") else 4
    fma = bool(features.get("fma")) or arm
    return int(os.environ.get("DEMUCS_NP_LANES") or lanes), os.environ.get("DEMUCS_NP_FMA", "1" if fma else "0") == "1"


LANES, FMA = _host()
HALF, PANEL = LANES // 2, 2 * LANES
# Rows per register block, largest first. 32 registers hold 12x2 accumulators, 16 registers 6x2.
# DEMUCS_NP_ROWS=4,2 forces others: engines of WebAssembly hold about 15 vectors.
ROWS = tuple(int(rows) for rows in os.environ.get("DEMUCS_NP_ROWS", "12,4" if LANES == 16 else "6,2").split(","))


def _micro_kernel(mr: int, lanes: int, vectors: int) -> Any:
    """An intrinsic `(A, a, rows, r, B, b, bias, C, c, ldc, K, accumulate)` on flat arrays and element offsets, for `mr` rows of C and
    `vectors * lanes` columns: all accumulators in registers, one broadcast load of A and `vectors` loads of B per step of k. The sums
    are added to C, or to the row of B at `bias`."""

    @intrinsic
    def micro(
        typingctx: Any, A: Any, a: Any, rows: Any, r: Any, B: Any, b: Any, bias: Any, C: Any, c: Any, ldc: Any, K: Any, accumulate: Any
    ) -> Any:
        n = types.intp
        signature = types.void(A, n, rows, n, B, n, n, C, n, n, n, types.boolean)

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            A, a, rows, r, B, b, bias, C, c, ldc, K, accumulate = args
            i64, i32, vector = ir.IntType(64), ir.IntType(32), ir.VectorType(ir.FloatType(), lanes)
            undefined, splat = ir.Constant(vector, ir.Undefined), ir.Constant(ir.VectorType(i32, lanes), [0] * lanes)

            def data(position: int, value: Any, offset: Any) -> Any:
                return builder.gep(context.make_array(sig.args[position])(context, builder, value).data, [offset])

            def vectors_at(pointer: Any, offset: Any) -> Any:
                return builder.bitcast(builder.gep(pointer, [offset]), vector.as_pointer())

            def load(pointer: Any) -> Any:
                value = builder.load(pointer)
                value.align = 4
                return value

            def multiply_add(x: Any, y: Any, z: Any) -> Any:
                if not FMA:
                    return builder.fadd(builder.fmul(x, y), z)
                fma = cgutils.get_or_insert_function(builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fma.v{lanes}f32")
                return builder.call(fma, [x, y, z])

            def fetch(pointer: Any) -> None:
                byte = ir.IntType(8).as_pointer()
                hint = ir.FunctionType(ir.VoidType(), [byte, i32, i32, i32])
                prefetch = cgutils.get_or_insert_function(builder.module, hint, "llvm.prefetch.p0i8")
                builder.call(prefetch, [builder.bitcast(pointer, byte), i32(0), i32(2), i32(1)])  # to read, into L2, data

            def in_panel(k: Any, v: int) -> Any:
                return vectors_at(pb, builder.add(builder.mul(k, i64(vectors * lanes)), i64(v * lanes)))

            pa, pr, pb, pc = data(0, A, a), data(2, rows, r), data(4, B, b), data(7, C, c)
            row = [builder.gep(pa, [builder.load(builder.gep(pr, [i64(m)]))]) for m in range(mr)]
            out = [vectors_at(pc, builder.add(builder.mul(ldc, i64(m)), i64(v * lanes))) for m in range(mr) for v in range(vectors)]
            before, function = builder.block, builder.function
            head, body, done = (function.append_basic_block(name) for name in ("head", "body", "done"))
            zero = ir.Constant(vector, [0.0] * lanes)
            builder.branch(head)
            builder.position_at_end(head)
            k = builder.phi(i64)
            k.add_incoming(i64(0), before)
            totals = [builder.phi(vector) for _ in out]
            for total in totals:
                total.add_incoming(zero, before)
            builder.cbranch(builder.icmp_signed("<", k, K), body, done)
            builder.position_at_end(body)
            panel = [load(in_panel(k, v)) for v in range(vectors)]
            if FETCH and lanes == LANES:  # the narrowest panels are in L1
                for v in range(0, vectors, max(1, 16 // lanes)):  # once for each cache line
                    fetch(in_panel(builder.add(k, i64(AHEAD)), v))
            if FETCH and mr > 1:
                fetch(builder.gep(row[0], [builder.mul(builder.add(k, builder.mul(K, i64(BLOCKS_AHEAD))), i64(mr))]))
            new = []
            for m in range(mr):
                scalar = builder.load(builder.gep(row[m], [k]))
                broadcast = builder.shuffle_vector(builder.insert_element(undefined, scalar, i32(0)), undefined, splat)
                new += [multiply_add(broadcast, panel[v], totals[m * vectors + v]) for v in range(vectors)]
            k.add_incoming(builder.add(k, i64(1)), body)
            for total, value in zip(totals, new, strict=True):
                total.add_incoming(value, body)
            builder.branch(head)

            builder.position_at_end(done)
            with builder.if_else(accumulate) as (to_result, to_bias):
                with to_result:
                    for total, pointer in zip(totals, out, strict=True):
                        builder.store(builder.fadd(total, load(pointer)), pointer).align = 4
                with to_bias:
                    first = [load(vectors_at(data(4, B, bias), i64(v * lanes))) for v in range(vectors)]
                    for i, (total, pointer) in enumerate(zip(totals, out, strict=True)):
                        builder.store(builder.fadd(total, first[i % vectors]), pointer).align = 4
            return context.get_dummy_value()

        return signature, codegen

    return micro


def _plain_kernel(mr: int, lanes: int, vectors: int) -> Any:
    """The same in Python, for NUMBA_DISABLE_JIT=1."""

    def micro(A: Any, a: int, rows: Any, r: int, B: Any, b: int, bias: int, C: Any, c: int, ldc: int, K: int, accumulate: bool) -> None:
        width = vectors * lanes
        panel = B[b : b + K * width].reshape(K, width)
        for m in range(mr):
            start = a + rows[r + m]
            out = C[c + m * ldc : c + m * ldc + width]
            out[:] = A[start : start + K] @ panel + (out if accumulate else B[bias : bias + width])

    return micro


_make = _plain_kernel if DISABLED else _micro_kernel
LARGE, MEDIUM = ROWS


def _over_rows(lanes: int, vectors: int) -> Any:
    """The product with one panel: rows in blocks, the largest first. `MEDIUM` ones only for wide panels: each takes time to compile."""
    large, single = _make(LARGE, lanes, vectors), _make(1, lanes, vectors)
    medium = _make(MEDIUM, lanes, vectors) if vectors > 1 else single
    step = MEDIUM if vectors > 1 else 1

    @inline
    def panel(A, a, rows, r, M, B, b, bias, C, c, ldc, K, accumulate):
        m = 0
        while m + LARGE <= M:
            large(A, a, rows, r + m, B, b, bias, C, c + m * ldc, ldc, K, accumulate)
            m += LARGE
        while m + step <= M:
            medium(A, a, rows, r + m, B, b, bias, C, c + m * ldc, ldc, K, accumulate)
            m += step
        if step > 1:
            while m < M:
                single(A, a, rows, r + m, B, b, bias, C, c + m * ldc, ldc, K, accumulate)
                m += 1

    return panel


_double, _single, _half = _over_rows(LANES, 2), _over_rows(LANES, 1), _over_rows(HALF, 1)


@inline
def gemm(A, a, rows, r, M, B, b, height, top, C, c, ldc, N, K, accumulate):
    """C[m, :N] = bias + A[a + rows[r + m] : + K] · B for m < M, into C[c + m*ldc :], ldc >= padded_columns(N); or added to C.

    In this order, as in every function that kernels call: each array with where to begin in it and how it lies there, then the sizes.

        A, a               the left side, and what is added to the offsets of its rows
        rows, r, M         the offsets of M rows, from rows[r] on
        B, b, height, top  the right side, at offset b: rows top ... top + K of a matrix of `height` rows, packed with its bias by `pack`
        C, c, ldc          the result, from C[c] on, its rows `ldc` apart
        N, K               its columns, and the length of the sums
        accumulate         whether to add to C, and leave the bias out

    A k block of the rows stays in L2 while the panels pass, a k block of the panel in L1 or L2 while the rows pass.
    """
    columns = padded_columns(N)
    for k in range(0, K, DEPTH):
        depth = min(DEPTH, K - k)
        add = accumulate or k > 0
        j = 0
        while j < columns:
            width = panel_width(columns - j)
            bias = b + j * (height + 1)
            panel = bias + (1 + top + k) * width
            if width == PANEL:
                _double(A, a + k, rows, r, M, B, panel, bias, C, c + j, ldc, depth, add)
            elif width == LANES:
                _single(A, a + k, rows, r, M, B, panel, bias, C, c + j, ldc, depth, add)
            else:
                _half(A, a + k, rows, r, M, B, panel, bias, C, c + j, ldc, depth, add)
            j += width


def padded(N: int) -> int:
    """N rounded up to whole half vectors."""
    return (N + HALF - 1) // HALF * HALF


def next_panel(columns: int) -> int:
    """Columns of the next panel where `columns`, padded, are left."""
    return PANEL if columns >= PANEL else LANES if columns >= LANES else HALF


padded_columns, panel_width = inline(padded), inline(next_panel)  # for kernels; calling these from Python would compile them


def pack(matrix: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
    """(K, N) float32 -> flat panels of PANEL columns, then one of LANES and one of HALF where they are needed; missing columns are zero.

    Each panel begins with its part of the bias (N), or zeros, and is [1 + K, width].
    """
    K, N = matrix.shape
    columns = padded(N)
    panels = np.zeros((1 + K) * columns, np.float32)
    j = 0
    while j < columns:
        width = next_panel(columns - j)
        inside = min(width, N - j)
        panel = panels[j * (1 + K) : (j + width) * (1 + K)].reshape(1 + K, width)
        if bias is not None:
            panel[0, :inside] = bias[j : j + inside]
        panel[1:, :inside] = matrix[:, j : j + inside]
        j += width
    return panels


@inline
def pack_columns(x, start, pitch, size, K, out):
    """Rows of K floats, `pitch` apart in x from `start` on, as the `size` columns of a packed matrix of K rows."""
    j = 0
    while j < padded_columns(size):
        width = panel_width(padded_columns(size) - j)
        panel = view(out, j * (1 + K), (1 + K) * width)
        for i in range(width):
            panel[i] = np.float32(0)
            if j + i < size:
                column = view(x, start + (j + i) * pitch, K)
                for k in range(K):
                    panel[(1 + k) * width + i] = column[k]
            else:
                for k in range(K):
                    panel[(1 + k) * width + i] = np.float32(0)
        j += width


@inline
def pack_rows(x, start, pitch, size, N, out):
    """Rows of N floats, `pitch` apart in x from `start` on, as the `size` rows of a packed matrix."""
    j = 0
    while j < padded_columns(N):
        width = panel_width(padded_columns(N) - j)
        inside = min(width, N - j)
        clear(view(out, j * (1 + size), width))
        for i in range(size):
            row, source = view(out, j * (1 + size) + (1 + i) * width, width), view(x, start + i * pitch + j, inside)
            for n in range(inside):
                row[n] = source[n]
            for n in range(inside, width):
                row[n] = np.float32(0)
        j += width


def packed_size(K: int, N: int) -> int:
    """Floats of a packed matrix (K, N)."""
    return (1 + K) * padded(N)
