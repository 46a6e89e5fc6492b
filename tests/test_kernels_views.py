"""Parts of an array, its memory as another type, and its first numbers: in kernels what NumPy has."""

import numpy as np
import pytest
from kernel_checks import noise

from demucs_np.kernels._jit import kernel, numbers, view, view_as

pytestmark = pytest.mark.kernel


@kernel
def _copies(x, geometry, part, integers, doubles):
    start, size, at, more = numbers(geometry, 4)
    source = view(x, start, size)
    for i in range(source.size):
        part[i] = source[i]
    whole = view_as(x, at, more, np.int64)
    for i in range(whole.size):
        integers[i] = whole[i]
        whole[i] = -whole[i]
    same = view_as(x, at, more, np.float64)
    for i in range(same.size):
        doubles[i] = same[i]


@pytest.mark.parametrize(("start", "size", "at", "more"), [(0, 40, 0, 20), (3, 7, 2, 19), (39, 1, 38, 1), (5, 0, 4, 0)])
def test_parts(start, size, at, more):
    x = noise(40)
    memory, geometry = x.copy(), np.array([start, size, at, more, 99])
    part, integers, doubles = np.empty(size, np.float32), np.empty(more, np.int64), np.empty(more)
    _copies(memory, geometry, part, integers, doubles)
    there = x[at : at + 2 * more].view(np.int64).copy()
    assert np.array_equal(part, x[start : start + size])
    assert np.array_equal(integers, there)
    x[at : at + 2 * more].view(np.int64)[:] = -there
    assert np.array_equal(memory.view(np.int32), x.view(np.int32))
    assert np.array_equal(doubles.view(np.int64), -there)
