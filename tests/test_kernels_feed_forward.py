"""The two linear layers of the transformer in one: naive = twin = compiled."""

import math

import naive
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_checks import BACKENDS, UNIT, assert_same_bits, assert_within, noise, sized, varied

from demucs_np.kernels.conv import CHUNK
from demucs_np.kernels.feed_forward import TOKENS
from demucs_np.kernels.layer import linear
from demucs_np.operations import operations

pytestmark = pytest.mark.kernel


def weights(C, hidden):
    return {
        "W1": noise(hidden, C) / np.float32(math.sqrt(C)),
        "b1": noise(hidden, seed=1),
        "W2": noise(C, hidden, seed=2) / np.float32(math.sqrt(hidden)),
        "b2": noise(C, seed=3),
    }


def run(backend, x, y, w, activation, scale):
    ops = operations(backend)
    widen, narrow = ops.prepare(linear(w["W1"], w["b1"], activation)), ops.prepare(linear(w["W2"], w["b2"]))
    return ops.feed_forward(x, y, widen, narrow, scale)


def check(backend, N, C, hidden, activation, scaled):
    w, x, y = weights(C, hidden), noise(1, N, C, seed=4), noise(1, N, C, seed=5)
    scale = noise(C, seed=6) if scaled else None
    W1, b1, W2, b2 = (a.astype(np.float64) for a in w.values())
    factor = 1 if scale is None else np.abs(scale)
    # errors of two sums, one carried through the other
    h = naive.activate(y @ W1.T + b1, activation)
    error_h = 3 * UNIT * math.sqrt(C + 4) * (np.abs(y) @ np.abs(W1).T + np.abs(b1))
    truth = x + (h @ W2.T + b2) * (1 if scale is None else scale)
    error = 2 * UNIT * math.sqrt(hidden + 4) * (np.abs(h) @ np.abs(W2).T + np.abs(b2))
    error = factor * (error + np.sqrt(error_h**2 @ (W2**2).T)) + 2 * UNIT * (np.abs(x) + np.abs(truth - x))
    given_, before = x.copy(), y.copy()
    ours = run(backend, given_, y, w, activation, scale)
    assert_within(ours, truth, error)
    assert np.array_equal(y, before)
    assert ours is given_ if backend == "numba" else np.array_equal(given_, x)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("N", "C", "hidden", "activation", "scaled"),
    [
        (1, 1, 1, "gelu", False),
        (5, 24, 96, "gelu", True),
        (TOKENS - 1, 7, 9, "relu", True),
        (TOKENS + 1, 6, 11, "gelu", False),
        (3, 5, CHUNK - 1, "gelu", True),
        (3, 16, CHUNK, "relu", False),
        (2, 9, CHUNK + 1, "gelu", True),
        (2, 20, 2 * CHUNK + 40, "gelu", True),
        (4, CHUNK + 30, 33, "gelu", True),
        (sized(2 * TOKENS + 50, 3), 48, sized(3 * CHUNK, 20), "gelu", True),
    ],
)
def test_naive_is_twin_is_compiled(backend, N, C, hidden, activation, scaled):
    check(backend, N, C, hidden, activation, scaled)


@varied(40)
@given(st.integers(1, 12), st.integers(1, 40), st.integers(1, 70), st.sampled_from(["gelu", "relu"]), st.booleans())
def test_any_shape(N, C, hidden, activation, scaled):
    for backend in BACKENDS:
        check(backend, N, C, hidden, activation, scaled)


def test_same_bits_for_any_number_of_threads():
    N, C, hidden = sized((5 * TOKENS + 3, 40, CHUNK + 60), (5, 6, 9))
    w, x, y, scale = weights(C, hidden), noise(1, N, C, seed=4), noise(1, N, C, seed=5), noise(C, seed=6)
    assert_same_bits(lambda: run("numba", x.copy(), y, w, "gelu", scale))


def test_a_token_does_not_depend_on_its_neighbours():
    N, C = sized(TOKENS + 20, 4), 20
    w, x, y, scale = weights(C, 50), noise(1, N, C, seed=4), noise(1, N, C, seed=5), noise(C, seed=6)
    together = run("numba", x.copy(), y, w, "gelu", scale)
    for n in (0, 1, N - 1):
        alone = run("numba", x[:, n : n + 1].copy(), np.ascontiguousarray(y[:, n : n + 1]), w, "gelu", scale)
        assert np.array_equal(alone[0, 0], together[0, n])
