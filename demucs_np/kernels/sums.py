"""Sums in a fixed order: the same bits whatever vectors the processor has.

A loop `total += x[i]` runs as vector code only if LLVM may reorder it, and the result is then made of as many partial sums as that
processor's vectors hold. Here vectors of a fixed number of elements keep the partial sums, and are added up in halves.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ._jit import DISABLED, exact


def _vector_sums(wide: int, squares: bool) -> Any:
    """An intrinsic `(x, size)` on a flat float32 array: the sum of `size` elements, a multiple of `wide`.

    With `squares` the sums of the elements and of their squares, both in float64.
    """

    @intrinsic
    def sums(typingctx: Any, x: Any, size: Any) -> Any:
        signature = (types.UniTuple(types.float64, 2) if squares else types.float32)(x, types.intp)

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            data = context.make_array(sig.args[0])(context, builder, args[0]).data
            i64, i32, floats = ir.IntType(64), ir.IntType(32), ir.VectorType(ir.FloatType(), wide)
            vector = ir.VectorType(ir.DoubleType(), wide) if squares else floats
            before = builder.block
            head, body, end = (builder.function.append_basic_block(name) for name in ("head", "body", "end"))
            builder.branch(head)
            builder.position_at_end(head)
            i = builder.phi(i64)
            i.add_incoming(i64(0), before)
            totals = [builder.phi(vector) for _ in range(2 if squares else 1)]
            for total in totals:
                total.add_incoming(ir.Constant(vector, [0.0] * wide), before)
            builder.cbranch(builder.icmp_signed("<", i, args[1]), body, end)
            builder.position_at_end(body)
            value = builder.load(builder.bitcast(builder.gep(data, [i]), floats.as_pointer()))
            value.align = 4
            if squares:
                value = builder.fpext(value, vector)
                totals[1].add_incoming(builder.fadd(totals[1], builder.fmul(value, value)), body)  # the square of a float32 is exact
            totals[0].add_incoming(builder.fadd(totals[0], value), body)
            i.add_incoming(builder.add(i, i64(wide)), body)
            builder.branch(head)
            builder.position_at_end(end)
            results = []
            for total in totals:
                half = wide // 2
                while half:
                    lower, upper = (ir.Constant(ir.VectorType(i32, half), list(range(at, at + half))) for at in (0, half))
                    nothing = ir.Constant(total.type, ir.Undefined)
                    total = builder.fadd(builder.shuffle_vector(total, nothing, lower), builder.shuffle_vector(total, nothing, upper))
                    half //= 2
                results.append(builder.extract_element(total, i32(0)))
            return context.make_tuple(builder, sig.return_type, results) if squares else results[0]

        return signature, codegen

    return sums


def _plain_sums(wide: int, squares: bool) -> Any:
    """The same in Python, for NUMBA_DISABLE_JIT=1."""

    def sums(x: Any, size: int) -> Any:
        part = x[:size]
        return (part.sum(dtype=np.float64), (part.astype(np.float64) ** 2).sum()) if squares else part.sum()

    return sums


_make = _plain_sums if DISABLED else _vector_sums
_sum16, _squares16 = _make(16, False), _make(16, True)


@exact
def total_of(x):
    """The sum of x, float32."""
    whole = x.size // 16 * 16
    total = _sum16(x, whole)
    for i in range(whole, x.size):
        total += x[i]
    return total


@exact
def total_and_squares(x):
    """The sums of x, float32, and of its squares, in float64."""
    whole = x.size // 16 * 16
    total, squares = _squares16(x, whole)
    for i in range(whole, x.size):
        v = np.float64(x[i])
        total += v
        squares += v * v
    return total, squares


@exact
def clear(x):
    """x = 0, before sums are added to it."""
    for i in range(x.size):
        x[i] = 0
