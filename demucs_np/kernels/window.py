"""The window of the short-time Fourier transforms."""

from __future__ import annotations

from functools import lru_cache

import numpy as np


@lru_cache(maxsize=8)
def hann(n: int) -> np.ndarray:
    """The periodic Hann window [n], computed in float64 and rounded once."""
    window: np.ndarray = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n) / n)).astype(np.float32)
    return window
