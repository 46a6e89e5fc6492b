"""What is done to samples around the network: naive = twin = compiled, to the bit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_checks import BACKENDS, assert_same_bits, noise, sized, varied

from demucs_np.kernels.signal import PART
from demucs_np.operations import operations

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize(("n", "left", "right"), [(9, 0, 0), (9, 3, 2), (9, 8, 8), (sized(PART - 1, 30), 5, 7), (1, 0, 4)])
def test_pad_with_zeros(backend, channels, n, left, right):
    x = noise(channels, n)
    assert np.array_equal(operations(backend).pad(x, left, right), [[0.0] * left + row + [0.0] * right for row in x.tolist()])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(("n", "left", "right"), [(9, 0, 0), (9, 3, 2), (9, 8, 8), (sized(PART + 70, 40), 35, 17)])
def test_pad_with_reflections(backend, channels, n, left, right):
    x = noise(channels, n)
    assert np.array_equal(operations(backend).pad(x, left, right, reflect=True), np.pad(x, ((0, 0), (left, right)), mode="reflect"))


@varied(60)
@given(st.integers(1, 12), st.integers(0, 15), st.integers(0, 15))
def test_what_is_too_short_to_be_reflected_is_lengthened_with_zeros(n, left, right):
    """As upstream's `pad1d` does: zeros behind, as many as there is padding, then in front; then it is reflected."""
    x = noise(2, n)
    extra = max(0, max(left, right) - n + 1)
    behind = min(right, extra)
    longer = np.pad(x, ((0, 0), (extra - behind, behind)))
    truth = np.pad(longer, ((0, 0), (left - extra + behind, right - behind)), mode="reflect")
    for backend in BACKENDS:
        assert np.array_equal(operations(backend).pad(x, left, right, reflect=True), truth)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("channels", "n"), [(1, 1), (2, 7), (3, sized(PART + 5, 20))])
def test_transpose_and_copy(backend, channels, n):
    x = noise(channels, n)
    ops = operations(backend)
    assert np.array_equal(ops.transpose(x), x.T[None])
    copied = ops.copy(x)
    assert np.array_equal(copied, x)
    assert not np.shares_memory(copied, x)


@pytest.mark.filterwarnings("ignore:invalid value encountered in scalar:RuntimeWarning")  # kernels as plain Python say so
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_finite(backend, value):
    x = noise(2, sized(PART, 40))
    x[0, 3] = np.float32(3e38)
    x[1, 5] = np.float32(-1e-45)
    ops = operations(backend)
    assert ops.finite(x).all()
    for at in (0, x.size // 2, x.size - 1):
        other = x.copy()
        other.reshape(-1)[at] = value
        assert not ops.finite(other).all()


@pytest.mark.parametrize("name", ["pad", "transpose", "copy", "finite"])
def test_same_bits_for_any_number_of_threads(name):
    x, ops = noise(2, sized(3 * PART + 5, 30)), operations("numba")
    run = {"pad": lambda: ops.pad(x, 20, 11, reflect=True)}.get(name, lambda: getattr(ops, name)(x))
    assert_same_bits(run)
