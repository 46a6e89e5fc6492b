"""Vector code for the elementwise functions of `activation`, emitted as it is to run.

A loop over a row of 48 numbers costs more to set up than to run when LLVM turns it into vector code: checks that the arrays do not
overlap, and a second, scalar loop for what is left over, whose constants then hold the registers that the vectors' would need. Here the
same Python functions are called with `Lanes`, which stand for a vector and note down what is done to them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ._jit import DISABLED, EXACT, exact, inline, view
from .gemm import LANES

FLAGS = tuple(sorted(EXACT))
_i32, _i64 = ir.IntType(32), ir.IntType(64)


class Lanes:
    """A vector of float32, or of truth values, in code that is being emitted. Constants among the operands are float32."""

    __array_ufunc__ = None  # NumPy's numbers leave operations with these to them

    def __init__(self, builder: Any, value: Any) -> None:
        self.builder, self.value = builder, value

    def _with(self, other: Any) -> Any:
        """The value of the other operand."""
        if isinstance(other, Lanes):
            return other.value
        return self.value.type([float(other)] * self.value.type.count)

    def _float(self, operation: str, left: Any, right: Any) -> Lanes:
        return Lanes(self.builder, getattr(self.builder, operation)(left, right, flags=FLAGS))

    def __add__(self, other: Any) -> Lanes:
        return self._float("fadd", self.value, self._with(other))

    __radd__ = __add__

    def __mul__(self, other: Any) -> Lanes:
        return self._float("fmul", self.value, self._with(other))

    __rmul__ = __mul__

    def __sub__(self, other: Any) -> Lanes:
        return self._float("fsub", self.value, self._with(other))

    def __rsub__(self, other: Any) -> Lanes:
        return self._float("fsub", self._with(other), self.value)

    def __rtruediv__(self, other: Any) -> Lanes:
        return self._float("fdiv", self._with(other), self.value)

    def __neg__(self) -> Lanes:
        return Lanes(self.builder, self.builder.fneg(self.value))

    def __abs__(self) -> Lanes:
        function = ir.FunctionType(self.value.type, [self.value.type])
        name = f"llvm.fabs.v{self.value.type.count}f32"
        return Lanes(self.builder, self.builder.call(_declared(self.builder, name, function), [self.value]))

    def _compare(self, relation: str, other: Any) -> Lanes:
        return Lanes(self.builder, self.builder.fcmp_ordered(relation, self.value, self._with(other)))

    def __lt__(self, other: Any) -> Lanes:
        return self._compare("<", other)

    def __gt__(self, other: Any) -> Lanes:
        return self._compare(">", other)

    def __ge__(self, other: Any) -> Lanes:
        return self._compare(">=", other)


def _declared(builder: Any, name: str, function: Any) -> Any:
    return cgutils.get_or_insert_function(builder.module, function, name)


def _with_lanes(emit: Callable[..., Lanes]) -> Callable[..., Any]:
    """For functions of numbers: with `Lanes` among the arguments, `emit` stands for it."""

    def decorate(function: Callable[..., Any]) -> Any:
        compiled: Any = exact(function)
        if not DISABLED:
            compiled.function = lambda *args: emit(*args) if any(isinstance(arg, Lanes) for arg in args) else function(*args)
        return compiled

    return decorate


def _choose(condition: Lanes, yes: Any, no: Any) -> Lanes:
    some = yes if isinstance(yes, Lanes) else no
    return Lanes(some.builder, some.builder.select(condition.value, some._with(yes), some._with(no)))


@_with_lanes(_choose)
def where(condition, yes, no):
    """`yes` where the condition holds, else `no`. Of vectors one of the two at least is one."""
    return yes if condition else no


def _emit_power(shifted: Lanes) -> Lanes:
    builder, vector = shifted.builder, shifted.value.type
    integers = ir.VectorType(_i32, vector.count)
    n = builder.shl(builder.bitcast(shifted.value, integers), integers([23] * vector.count))
    return Lanes(builder, builder.bitcast(builder.add(n, integers([0x3F800000] * vector.count)), vector))


@_with_lanes(_emit_power)
def power_of_two(shifted):
    """2^n for n = shifted - 1.5 * 2^23, whose low bits, moved into the exponent, it is; int32 sums promote, hence the casts."""
    n = np.float32(shifted).view(np.int32)
    return np.int32(np.int32(n << np.int32(23)) + np.int32(0x3F800000)).view(np.float32)


def along_row(function: Callable[..., Any]) -> Any:
    """A function of kernels, `(out, at, x, at_x, y, at_y, z, at_z, size)` with flat float32 arrays: out[at + i] = function(x[at_x + i],
    y[at_y + i], z[at_z + i], out[at + i]) for i < size. `function` takes as many of them as it needs, from the first on. An array may be
    `out` if it is read where it is written.

    Vectors of four are left to LLVM: there is no mask for what is left over, and in V8 convolutions would take a fifth longer.
    """
    count = function.__code__.co_argcount
    return _loop(function, count) if DISABLED or LANES == 4 else _row(function, count)


def _loop(function: Callable[..., Any], count: int) -> Any:
    number = exact(function)
    forms = (
        lambda x, y, z, out: number(x),
        lambda x, y, z, out: number(x, y),
        lambda x, y, z, out: number(x, y, z),
        lambda x, y, z, out: number(x, y, z, out),
    )
    of_all = exact(forms[count - 1])

    @inline
    def row(out, at, x, at_x, y, at_y, z, at_z, size):
        target, first, second, third = view(out, at, size), view(x, at_x, size), view(y, at_y, size), view(z, at_z, size)
        for i in range(size):
            target[i] = of_all(first[i], second[i], third[i], target[i])

    return row


def _row(function: Callable[..., Any], count: int) -> Any:
    @intrinsic
    def row(typingctx: Any, out: Any, at: Any, x: Any, at_x: Any, y: Any, at_y: Any, z: Any, at_z: Any, size: Any) -> Any:
        n = types.intp
        signature = types.void(out, n, x, n, y, n, z, n, n)

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            def step(offset: Any, part: Part) -> None:
                def pointer(array: int) -> Any:
                    data = context.make_array(sig.args[array])(context, builder, args[array]).data
                    return builder.bitcast(builder.gep(data, [builder.add(args[array + 1], offset)]), part.type.as_pointer())

                inputs = [Lanes(builder, part.load(pointer(array))) for array in (2, 4, 6, 0)[:count]]
                part.store(function(*inputs).value, pointer(0))

            for_all(builder, args[8], step)
            return context.get_dummy_value()

        return signature, codegen

    return row


class Part:
    """A vector's worth of a row, or the first few lanes of one."""

    type = ir.VectorType(ir.FloatType(), LANES)

    def __init__(self, builder: Any, few: Any = None) -> None:
        self.builder, self.mask = builder, None
        if few is not None:
            count = ir.VectorType(_i32, LANES)
            single = builder.insert_element(count(ir.Undefined), builder.trunc(few, _i32), _i32(0))
            everywhere = builder.shuffle_vector(single, count(ir.Undefined), count([0] * LANES))
            self.mask = builder.icmp_unsigned("<", count(list(range(LANES))), everywhere)

    def load(self, address: Any) -> Any:
        """The vector at an address; lanes that are not of the part are zero."""
        if self.mask is None:
            value = self.builder.load(address)
            value.align = 4
            return value
        function = ir.FunctionType(self.type, [address.type, _i32, self.mask.type, self.type])
        masked = _declared(self.builder, f"llvm.masked.load.v{LANES}f32.p0", function)
        return self.builder.call(masked, [address, _i32(4), self.mask, self.type([0.0] * LANES)])

    def store(self, value: Any, address: Any) -> None:
        """Write the lanes of the part."""
        if self.mask is None:
            self.builder.store(value, address).align = 4
            return
        function = ir.FunctionType(ir.VoidType(), [self.type, address.type, _i32, self.mask.type])
        masked = _declared(self.builder, f"llvm.masked.store.v{LANES}f32.p0", function)
        self.builder.call(masked, [value, address, _i32(4), self.mask])


def for_all(builder: Any, size: Any, step: Callable[[Any, Part], None]) -> None:
    """Emit `step` for each vector of a row, and for what is left over."""
    whole = builder.and_(size, _i64(-LANES))
    with cgutils.for_range_slice(builder, _i64(0), whole, _i64(LANES)) as (offset, _):
        step(offset, Part(builder))
    with builder.if_then(builder.icmp_signed("<", whole, size)):
        step(whole, Part(builder, builder.sub(size, whole)))
