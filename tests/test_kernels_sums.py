"""Sums in a fixed order. That other machines find the same bits is the subject of test_kernels_widths.py."""

import math

import numpy as np
import pytest
from kernel_checks import UNIT, noise

from demucs_np.kernels._jit import kernel
from demucs_np.kernels.sums import total_and_squares, total_of

pytestmark = pytest.mark.kernel


@kernel
def _sums(x, out):
    out[0] = total_of(x)
    out[1], out[2] = total_and_squares(x)


def sums(x):
    out = np.empty(3)
    _sums(x, out)
    return out


@pytest.mark.parametrize("size", [1, 2, 15, 16, 17, 31, 32, 48, 100, 384, 1000])
def test_sums(size):
    x = 1 + noise(size)
    total, squares = math.fsum(x), math.fsum(float(v) ** 2 for v in x)
    ours = sums(x)
    assert ours[0] == np.float32(ours[0])
    assert abs(ours[0] - total) <= UNIT * math.sqrt(size) * np.abs(x).sum()  # size roundings, of either sign
    np.testing.assert_allclose(ours[1:], [total, squares], rtol=1e-14, atol=1e-14)


def test_every_element_counts_once():
    for size in range(1, 70):
        x = np.zeros(size, np.float32)
        for i in range(size):
            x[:] = 0
            x[i] = 3
            assert list(sums(x)) == [3, 3, 9]


def test_what_is_not_finite_is_seen():
    for size in (3, 16, 40):
        for place in (0, size - 1):
            x = noise(size)
            x[place] = np.nan
            assert np.isnan(sums(x)).all()
            x[place] = -np.inf
            assert list(sums(x)) == [-np.inf, -np.inf, np.inf]
