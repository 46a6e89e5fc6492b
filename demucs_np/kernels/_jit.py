"""The only place that names Numba flags."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numba
from numba import types
from numba.extending import intrinsic
from numba.np import arrayobj

from .cache import cache_of

# NUMBA_DISABLE_JIT=1: kernels run as Python, for debuggers and coverage
DISABLED = bool(numba.config.DISABLE_JIT)  # type: ignore[attr-defined]

SUMS = {"reassoc", "nsz", "contract"}  # sums may be split into vector lanes; NaN and infinity keep their meaning (no nnan, ninf)
EXACT = {"nsz", "contract"}  # for functions whose rounding tricks rely on the order of operations
if os.environ.get("DEMUCS_NP_FMA") == "0":  # else LLVM would fuse again what the matrix product does not
    SUMS, EXACT = SUMS - {"contract"}, EXACT - {"contract"}
if os.environ.get("DEMUCS_NP_REASSOC") == "0":
    SUMS = SUMS - {"reassoc"}

Function = Callable[..., Any]


def _jit(fastmath: set[str]) -> Callable[[Function], Any]:
    # error_model="numpy": a division is no branch, and its loop vectorises
    compile_: Callable[[Function], Any] = numba.njit(nogil=True, error_model="numpy", fastmath=fastmath)
    return compile_


def kernel(function: Function) -> Function:
    """Compile at the first call, without the GIL, and keep the result on disk. Sums may be reordered into vector lanes."""
    dispatcher: Any = _jit(SUMS)(function)
    if not DISABLED:
        dispatcher._cache = cache_of(function)  # as `cache=True` does with Numba's own
    compiled: Function = dispatcher
    return compiled


def inline(function: Function) -> Function:
    """As `kernel`, for functions that only kernels call."""
    return _once(_jit(SUMS)(function))


def exact(function: Function) -> Function:
    """As `inline`, and nothing is reordered."""
    return _once(_jit(EXACT)(function))


def _once(dispatcher: Any) -> Function:
    """Compile once for each type of argument. Numba would compile again for each literal (0, False) in an argument's place: a third of the
    time that the first run takes."""
    if not DISABLED:
        resolve = dispatcher.get_call_template

        def without_constants(args: Any, keywords: Any) -> Any:
            return resolve([types.unliteral(arg) for arg in args], {name: types.unliteral(arg) for name, arg in keywords.items()})

        dispatcher.get_call_template = without_constants
    function: Function = dispatcher
    return function


if DISABLED:

    def view(array: Any, start: int, size: int) -> Any:
        """`size` elements from `start`."""
        return array[start : start + size]
else:

    @intrinsic
    def view(typingctx: Any, array: Any, start: Any, size: Any) -> Any:
        """`array[start : start + size]` of a flat array, unchecked and uncounted.

        A slice normalises its bounds and counts a reference: tens of nanoseconds, which rows of 48 floats feel, and threads that
        count references to the same array wait for each other.
        """
        signature = types.Array(array.dtype, 1, "C")(array, types.intp, types.intp)

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            source = context.make_array(sig.args[0])(context, builder, args[0])
            out = context.make_array(sig.return_type)(context, builder)
            size = context.get_abi_sizeof(context.get_data_type(sig.return_type.dtype))
            itemsize = context.get_constant(types.intp, size)
            data = builder.gep(source.data, [args[1]])
            arrayobj.populate_array(out, data=data, shape=[args[2]], strides=[itemsize], itemsize=itemsize, meminfo=None)
            return out._getvalue()

        return signature, codegen
