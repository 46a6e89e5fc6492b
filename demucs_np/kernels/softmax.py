"""The softmax of scores that pass by in blocks: weights relative to the highest score so far, their running sum, and the sum of weighted
values, which shrink when a higher score comes.

Source: Dao et al. 2022 (FlashAttention), section 3.1.
"""

from __future__ import annotations

import numpy as np

from ._jit import inline, view
from .activation import exp, exp2
from .gemm import packed_size
from .sums import total_of

QUERIES = 96  # rows of a tile
KEYS = 384  # keys in work at a time: scores, keys and values of a block stay in L2


def block_sizes(D: int) -> tuple[int, int]:
    """Floats that a block of keys, packed, and one of values take."""
    return packed_size(D, KEYS), packed_size(KEYS, D)


@inline
def largest_of(x):
    """The largest element, found as an integer: a maximum of floats does not become vector code (0.49 instead of 0.07 ns an element).

    The bits of a float, all but the sign inverted where it is negative, order as the floats do; a NaN comes out as the largest.
    """
    largest = np.int32(-(2**31))
    for i in range(x.size):
        key = _ordered(np.float32(x[i]).view(np.int32))
        largest = key if key > largest else largest
    return np.int32(_ordered(largest)).view(np.float32)


@inline
def _ordered(bits):
    return np.int32(bits ^ np.int32(np.int32(bits >> np.int32(31)) & np.int32(0x7FFFFFFF)))


@inline
def raise_to(highest, factor, m, top, total, values):
    """Row m has met a score `highest`: what it has summed up so far counts `factor` times, e^(top - highest)."""
    for i in range(values.size):
        values[i] *= factor
    total[m] *= factor
    top[m] = highest


@inline
def weigh(scores, highest):
    """scores = e^(scores - highest), and their sum."""
    for i in range(scores.size):
        scores[i] = exp(scores[i] - highest)
    return total_of(scores)


@inline
def weigh2(scores, highest, scale):
    """scores = 2^((scores - highest) * scale), and their sum."""
    for i in range(scores.size):
        scores[i] = exp2((scores[i] - highest) * scale)
    return total_of(scores)


@inline
def divide(x, at, ldx, M, D, total, place, pitch, out):
    """out = M rows of D weighted values, `ldx` apart from x[at] on, divided by the sums of their weights; `pitch` apart from `place` on."""
    for m in range(M):
        source, target = view(x, at + m * ldx, D), view(out, place + m * pitch, D)
        one = np.float32(1) / total[m]
        for i in range(D):
            target[i] = source[i] * one
