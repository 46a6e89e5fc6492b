"""The only place that names Numba flags."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numba

DISABLED = bool(numba.config.DISABLE_JIT)  # NUMBA_DISABLE_JIT=1: kernels run as Python, for debuggers and coverage
# Code for a forced vector width must not be found later by a process that does not force it.
CACHE = not (os.environ.get("DEMUCS_NP_LANES") or os.environ.get("DEMUCS_NP_FMA"))

SUMS = {"reassoc", "nsz", "contract"}  # sums may be split into vector lanes; NaN and infinity keep their meaning (no nnan, ninf)
EXACT = {"nsz", "contract"}  # for functions whose rounding tricks rely on the order of operations
MAXIMUM = {"nnan", "nsz"}  # LLVM vectorises a maximum only if it may ignore NaN

Function = Callable[..., Any]


def _jit(fastmath: set[str], cache: bool) -> Callable[[Function], Function]:
    # error_model="numpy": a division is no branch, and its loop vectorises
    compile_: Callable[[Function], Function] = numba.njit(nogil=True, cache=cache and CACHE, error_model="numpy", fastmath=fastmath)
    return compile_


def kernel(function: Function) -> Function:
    """Compile at the first call, without the GIL, and keep the result on disk. Sums may be reordered into vector lanes."""
    return _jit(SUMS, cache=True)(function)


def inline(function: Function) -> Function:
    """As `kernel`, for functions that only kernels call."""
    return _jit(SUMS, cache=False)(function)


def exact(function: Function) -> Function:
    """As `inline`, and nothing is reordered."""
    return _jit(EXACT, cache=False)(function)


def maximum(function: Function) -> Function:
    """As `inline`, for a search of the largest value: NaN may be passed over."""
    return _jit(MAXIMUM, cache=False)(function)
