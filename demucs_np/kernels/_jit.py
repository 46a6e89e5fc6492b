"""The only place that names Numba flags."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Callable, Iterator
from typing import Any

import numba
from numba import types
from numba.extending import intrinsic, typeof_impl
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


def _jit(function: Function, fastmath: set[str], **options: bool) -> Any:
    """error_model="numpy": a division is no branch, and its loop vectorises. What Numba would make besides, an entry for C and the counting
    of references to arrays, which kernels neither make nor keep, would take a fifth of the time to compile."""
    njit: Any = numba.njit
    return njit(error_model="numpy", fastmath=fastmath, no_cfunc_wrapper=True, _nrt=False, **options)(function)


def kernel(function: Function) -> Function:
    """Compile at the first call, without the GIL, and keep the result on disk. Sums may be reordered into vector lanes."""
    dispatcher = _jit(function, SUMS, nogil=True)
    if not DISABLED:
        dispatcher._cache = cache_of(function)  # as `cache=True` does with Numba's own
        dispatcher.compile = _collecting_nothing()(dispatcher.compile)
    compiled: Function = dispatcher
    return compiled


@contextlib.contextmanager
def _collecting_nothing() -> Iterator[None]:
    """Within the block there is no search for cycles in the many objects that a compiler makes: a fifth of its time."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def inline(function: Function) -> Function:
    """As `kernel`, for functions that only kernels call; from Python it is the plain function."""
    return _for_kernels(function, SUMS)


def exact(function: Function) -> Function:
    """As `inline`, and nothing is reordered."""
    return _for_kernels(function, EXACT)


class _ForKernels:
    """A function as kernels call it, without what Numba makes for calls from Python."""

    def __init__(self, function: Function, fastmath: set[str]) -> None:
        self.function = function
        self.dispatcher = _jit(function, fastmath, no_cpython_wrapper=True)
        self._resolve = self.dispatcher.get_call_template
        self.dispatcher.get_call_template = self._once

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)

    def _once(self, args: Any, keywords: Any) -> Any:
        """Compile once for each type of argument. Numba would compile again for each literal (0, False) in an argument's place."""
        return self._resolve([types.unliteral(arg) for arg in args], {name: types.unliteral(arg) for name, arg in keywords.items()})


@typeof_impl.register(_ForKernels)
def _type_of(value: _ForKernels, context: Any) -> Any:
    return types.Dispatcher(value.dispatcher)


def _for_kernels(function: Function, fastmath: set[str]) -> Function:
    return function if DISABLED else _ForKernels(function, fastmath)


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
