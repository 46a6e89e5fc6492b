"""What is done to the rows of a product on their way to where they belong: something added, an activation, a scale.

The functions work on M rows of `columns` results that lie in z, from `at` on and `ldc` apart. Their places in `out` are `pitch` apart from
`place` on; what would lie outside of `out` is dropped. A call is for many rows, because setting up a loop over the 48 numbers of a single
row would take longer than the loop.
"""

from __future__ import annotations

import numpy as np

from ._jit import inline, view
from .activation import gelu, sigmoid
from .lanes import along_row

NONE, GELU, GLU, RELU = 0, 1, 2, 3
ACTIVATIONS = {"none": NONE, "gelu": GELU, "glu": GLU, "relu": RELU}

_gelu = along_row(lambda x: gelu(x))
_copied = along_row(lambda value: value)
_scaled = along_row(lambda value, factor, _, target: target + factor * value)
_gated = along_row(lambda value, gate: value * sigmoid(gate))
_gated_scaled = along_row(lambda value, gate, factor, target: target + (factor * value) * sigmoid(gate))


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
            row = at + m * ldc
            _gelu(z, row, z, row, z, row, z, row, columns)
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
            value = at + m * ldc + low
            if gated:
                _gated(out, first + low, z, value, z, value + size, z, value, high - low)
            else:
                _copied(out, first + low, z, value, z, value, z, value, high - low)


@inline
def store_scaled(z, at, ldc, M, gated, scale, place, pitch, out):
    """As `store`, but `out` += scale * that."""
    size = scale.size
    for m in range(M):
        first = place + m * pitch
        low, high = max(0, -first), min(size, out.size - first)
        if low < high:
            value = at + m * ldc + low
            if gated:
                _gated_scaled(out, first + low, z, value, z, value + size, scale, low, high - low)
            else:
                _scaled(out, first + low, z, value, scale, low, scale, low, high - low)
