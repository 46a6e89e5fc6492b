"""The elementary functions over the whole range of float32, against float64.

Limits are in units in the last place (the distance of neighbouring float32 numbers) where a relative error is meant.
"""

import naive
import numpy as np
import pytest
from kernel_checks import UNIT, noise, sized

from demucs_np.kernels import activation
from demucs_np.kernels._jit import kernel
from demucs_np.operations import numpy_ops as reference

pytestmark = pytest.mark.kernel


@kernel
def _apply(which, x, out):
    for i in range(x.size):
        if which == 0:
            out[i] = activation.exp(x[i])
        elif which == 1:
            out[i] = activation.exp2(x[i])
        elif which == 2:
            out[i] = activation.sigmoid(x[i])
        else:
            out[i] = activation.gelu(x[i])


def compiled(name, x):
    out = np.empty_like(x)
    _apply(["exp", "exp2", "sigmoid", "gelu"].index(name), x, out)
    return out


def every(step):
    """Every `step`th float32 there is, both signs, subnormal ones included."""
    positive = np.arange(0, 0x7F800000, step, dtype=np.uint32).view(np.float32)
    return np.concatenate([positive, -positive])


ALL = every(sized(20_011, 8_000_009))
USUAL = sized(np.linspace(-100, 100, 100_003), np.linspace(-100, 100, 803)).astype(np.float32)  # where the functions bend
RANGE = np.concatenate([ALL, USUAL])
IMPLEMENTATIONS = {"compiled": compiled, "twin": lambda name, x: getattr(reference, name)(x)}


def ulp(ours, truth):
    """The error in units in the last place of the truth."""
    return np.abs(ours - truth) / np.spacing(np.abs(truth).astype(np.float32)).astype(np.float64)


def test_exp():
    low, high = np.array([-87.3, 88.3], np.float32)  # beyond these it is held, where e^x and 1/e^x are still normal numbers
    x = RANGE
    inside = x[(x >= low) & (x <= high)]
    assert ulp(compiled("exp", inside), naive.exp(inside)).max() <= 1.5
    held = compiled("exp", np.array([low, high]))
    assert np.all(compiled("exp", x[x < low]) == held[0])
    assert np.all(compiled("exp", x[x > high]) == held[1])


def test_exp_at_the_ends():
    x = np.array([-np.inf, -0.0, 0, np.inf, np.nan], np.float32)
    ours = compiled("exp", x)
    assert 0 < ours[0] < 1.3e-38
    assert ours[1] == ours[2] == 1
    assert 2e38 < ours[3] < np.inf
    assert np.isnan(ours[4])


def test_exp2():
    inside = RANGE[(RANGE >= -126) & (RANGE <= 127)]
    assert ulp(compiled("exp2", inside), np.exp2(inside.astype(np.float64))).max() <= 1
    whole = np.arange(-126, 128, dtype=np.float32)
    assert np.array_equal(compiled("exp2", whole), 2.0**whole)
    assert np.all(compiled("exp2", np.array([-127, -1e30, -np.inf], np.float32)) == np.float32(2.0**-126))
    assert np.isnan(compiled("exp2", np.array([np.nan], np.float32)))[0]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_sigmoid(implementation):
    ours = IMPLEMENTATIONS[implementation]("sigmoid", RANGE)
    truth = naive.sigmoid(RANGE)
    assert ours.dtype == np.float32
    normal = RANGE > -87
    assert ulp(ours[normal], truth[normal]).max() <= 3  # of e^-x up to 2 (NumPy's), of the sum and the quotient half a unit each
    assert np.abs(ours[~normal] - truth[~normal]).max() <= 1.2e-38  # the smallest normal number
    assert ours.min() >= 0
    assert ours.max() <= 1
    ends = IMPLEMENTATIONS[implementation]("sigmoid", np.array([-np.inf, 0, np.inf, np.nan], np.float32))
    assert 0 <= ends[0] <= 1.2e-38
    assert np.array_equal(ends[1:], np.array([0.5, 1, np.nan], np.float32), equal_nan=True)


@pytest.mark.parametrize(("implementation", "roundings", "units"), [("compiled", 2, 3), ("twin", 1, 0.5)])
def test_gelu(implementation, roundings, units):
    """x/2 (1 + erf) in float32 rounds erf, the sum and the product: up to two roundings of x. The twin is in float64 and rounds once."""
    ours = IMPLEMENTATIONS[implementation]("gelu", RANGE)
    truth = naive.gelu(RANGE)
    assert ours.dtype == np.float32
    assert np.all(np.abs(ours - truth) <= roundings * UNIT * np.abs(RANGE) + 1e-45)  # and half of the smallest subnormal
    above = RANGE > 1e-37
    assert ulp(ours[above], truth[above]).max() <= units
    assert np.all(ours[RANGE >= 9] == RANGE[RANGE >= 9])
    assert np.all(ours[RANGE <= -9] == 0)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_gelu_at_the_ends(implementation):
    with np.errstate(invalid="ignore"):  # infinity times zero
        ours = IMPLEMENTATIONS[implementation]("gelu", np.array([-np.inf, -0.0, 0, np.inf, np.nan], np.float32))
    assert np.array_equal(ours, np.array([np.nan, 0, 0, np.inf, np.nan], np.float32), equal_nan=True)  # as PyTorch's, -inf included


def test_compiled_gelu_keeps_digits_in_the_lower_tail():
    """The form x Q(-x) has no cancellation: a relative error where x/2 (1 + erf) has only an absolute one.

    Q = 2^p, so that the roundings of p, which is -22 at x = -5, become relative errors of the result.
    """
    x = sized(np.linspace(-5, -1e-3, 50_001), np.linspace(-5, -1e-3, 301)).astype(np.float32)
    truth = naive.gelu(x)
    assert np.max(np.abs(compiled("gelu", x) - truth) / np.abs(truth)) <= 8 * 22 * UNIT


@pytest.mark.parametrize("name", ["none", "gelu", "relu", "glu"])
def test_twin_activations_keep_float32_and_their_input(name):
    x = noise(3, 4, 10)
    before = x.copy()
    ours = reference.activate(x, name)
    assert ours.dtype == np.float32
    assert np.array_equal(x, before)
    np.testing.assert_allclose(ours, naive.activate(x.astype(np.float64), name), rtol=0, atol=4e-7)
