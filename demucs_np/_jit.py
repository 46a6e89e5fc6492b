"""The only place that names Numba flags."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba

DISABLED = bool(numba.config.DISABLE_JIT)  # NUMBA_DISABLE_JIT=1: kernels run as Python, for debuggers and coverage

# Sums may be reordered into vector lanes and products contracted; NaN and infinity keep their meaning (no nnan, ninf).
FASTMATH = {"reassoc", "nsz", "arcp", "contract", "afn"}


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile at the first call, without the GIL, and keep the result on disk. `numpy` error model: a division is no branch."""
    compiled: Callable[..., Any] = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath=FASTMATH)(function)
    return compiled


def inline(function: Callable[..., Any]) -> Callable[..., Any]:
    """As `kernel`, for small functions that only kernels call: LLVM sees and inlines their body."""
    compiled: Callable[..., Any] = numba.njit(nogil=True, error_model="numpy", fastmath=FASTMATH)(function)
    return compiled
