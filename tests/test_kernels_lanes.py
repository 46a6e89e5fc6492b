"""Vector code along a row: the same numbers as those of the function, nothing but the row is touched. Widths: test_kernels_widths.py."""

import numpy as np
import pytest
from kernel_checks import noise

from demucs_np.kernels._jit import exact, kernel
from demucs_np.kernels.activation import exp, exp2, gelu, sigmoid, tanh
from demucs_np.kernels.lanes import along_row, where

pytestmark = pytest.mark.kernel
FUNCTIONS = {
    "copy": (lambda x: x, exact(lambda x, y, z, out: x)),
    "of two": (lambda x, y: x * y - x, exact(lambda x, y, z, out: x * y - x)),
    "of three": (lambda x, y, z: x - y * z, exact(lambda x, y, z, out: x - y * z)),
    "of four": (lambda x, y, z, out: out + x * (y - z), exact(lambda x, y, z, out: out + x * (y - z))),
    "choice": (lambda x, y: where(x > y, -y, np.float32(2)), exact(lambda x, y, z, out: -y if x > y else np.float32(2))),
    "sigmoid": (lambda x: sigmoid(x), exact(lambda x, y, z, out: sigmoid(x))),
    "gelu": (lambda x: gelu(x), exact(lambda x, y, z, out: gelu(x))),
    "tanh": (lambda x: tanh(x), exact(lambda x, y, z, out: tanh(x))),
    "exp": (lambda x: exp(x), exact(lambda x, y, z, out: exp(x))),
    "exp2": (lambda x: exp2(x), exact(lambda x, y, z, out: exp2(x))),
}


def _kernels(name):
    """The function along a row in vectors, and number by number."""
    row, number = along_row(FUNCTIONS[name][0]), FUNCTIONS[name][1]

    @kernel
    def in_vectors(out, x, y, z, at, size):
        row(out, at, x, at + 1, y, 0, z, 3, size)

    @kernel
    def one_by_one(out, x, y, z, at, size):
        for i in range(size):
            out[at + i] = number(x[at + 1 + i], y[i], z[3 + i], out[at + i])

    return in_vectors, one_by_one


@pytest.mark.parametrize("name", FUNCTIONS)
@np.errstate(all="ignore")
def test_is_the_function_of_each_number(name):
    in_vectors, one_by_one = _kernels(name)
    for size in (0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 48, 70):
        for at in (0, 1, 5):
            x, y, z, before = 5 * noise(100), 5 * noise(100, seed=1), noise(100, seed=2), noise(100, seed=3)
            x[::7], x[3::7] = np.nan, np.inf
            ours, truth = before.copy(), before.copy()
            in_vectors(ours, x, y, z, at, size)
            one_by_one(truth, x, y, z, at, size)
            np.testing.assert_array_max_ulp(np.nan_to_num(ours), np.nan_to_num(truth), 1)  # fused where the other is not, at most
            np.testing.assert_array_equal(np.isnan(ours), np.isnan(truth))
            np.testing.assert_array_equal(np.delete(ours, np.s_[at : at + size]), np.delete(before, np.s_[at : at + size]))


def test_in_place():
    row = along_row(lambda x: x + x)

    @kernel
    def doubled(x):
        row(x, 2, x, 2, x, 2, x, 2, x.size - 4)

    x = noise(60)
    expected = x.copy()
    expected[2:-2] *= 2
    doubled(x)
    np.testing.assert_array_equal(x, expected)
