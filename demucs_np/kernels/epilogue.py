"""What is done to the rows of a product on their way to where they belong: something added, an activation, a scale.

The functions work on M rows of `columns` results that lie in z, from `at` on and `ldc` apart. Their places in `out` are `pitch` apart from
`place` on; what would lie outside of `out` is dropped. A call is for many rows, because setting up a loop over the 48 numbers of a single
row would take longer than the loop.
"""

from __future__ import annotations

import numpy as np

from ._jit import inline, view
from .activation import gelu, sigmoid

NONE, GELU, GLU, RELU = 0, 1, 2, 3
ACTIVATIONS = {"none": NONE, "gelu": GELU, "glu": GLU, "relu": RELU}


@inline
def add(z, at, ldc, M, columns, other, place, pitch):
    """z += the rows of `other` that are at `place`, `pitch` apart."""
    for m in range(M):
        row, added = view(z, at + m * ldc, columns), view(other, place + m * pitch, columns)
        for i in range(row.size):
            row[i] += added[i]


@inline
def activate(z, at, ldc, M, columns, act):
    """GELU or ReLU in place; a GLU is left to `store`."""
    if act == GELU:
        for m in range(M):
            row = view(z, at + m * ldc, columns)
            for i in range(row.size):
                row[i] = gelu(row[i])
    elif act == RELU:
        for m in range(M):
            row = view(z, at + m * ldc, columns)
            for i in range(row.size):
                row[i] = max(row[i], np.float32(0))


@inline
def store(z, at, ldc, M, columns, gated, place, pitch, out):
    """out = the rows, or the GLU of them."""
    size = columns // 2 if gated else columns
    for m in range(M):
        first = place + m * pitch
        low, high = max(0, -first), min(size, out.size - first)
        if low < high:
            value, target = view(z, at + m * ldc + low, high - low), view(out, first + low, high - low)
            if gated:
                gate = view(z, at + m * ldc + size + low, high - low)
                for i in range(value.size):
                    target[i] = value[i] * sigmoid(gate[i])
            else:
                for i in range(value.size):
                    target[i] = value[i]


@inline
def store_scaled(z, at, ldc, M, gated, scale, place, pitch, out):
    """As `store`, but `out` += scale * that."""
    size = scale.size
    for m in range(M):
        first = place + m * pitch
        low, high = max(0, -first), min(size, out.size - first)
        if low < high:
            value, target = view(z, at + m * ldc + low, high - low), view(out, first + low, high - low)
            factor = view(scale, low, high - low)
            if gated:
                gate = view(z, at + m * ldc + size + low, high - low)
                # `out` alone stands for both terms of the sum: with the same array under two names the loop would not run as vector code
                for i in range(value.size):
                    target[i] += factor[i] * (value[i] * sigmoid(gate[i]))
            else:
                for i in range(value.size):
                    target[i] += factor[i] * value[i]
