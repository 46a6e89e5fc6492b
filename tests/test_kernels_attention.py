"""Attention: naive = twin = compiled around its blocks of queries and keys, and for scores beyond the range of e^x."""

import math

import naive
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_checks import BACKENDS, UNIT, assert_same_bits, assert_within, noise, sized, varied

from demucs_np.kernels.attention import KEYS, QUERIES
from demucs_np.operations import operations
from demucs_np.threads import use_threads

pytestmark = pytest.mark.kernel


def check(q, k, v, heads, backend):
    before = q.copy(), k.copy(), v.copy()
    ours = operations(backend).attention(q, k, v, heads)
    # A score is a sum of D products; its error, at either end of the difference to the largest, is a relative error of its weight.
    # The output is a mean of values, whose weights and their sum are each sums of S numbers.
    D = q.shape[1] // heads
    largest = np.abs(q).max() * np.abs(k).max() * math.sqrt(D)
    error = 4 * UNIT * largest * math.sqrt(D) + 2 * UNIT * math.sqrt(len(k)) + 4 * UNIT
    assert_within(ours, naive.attention(q, k, v, heads), error * np.abs(v).max())
    assert all(np.array_equal(a, b) for a, b in zip((q, k, v), before, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("N", "S", "D", "heads"),
    [
        (1, 1, 1, 1),
        (3, 1, 5, 2),
        (1, 7, 48, 1),
        (QUERIES - 1, 4, 3, 2),
        (QUERIES, 5, 8, 1),
        (QUERIES + 1, 3, 2, 3),
        (2, KEYS - 1, 4, 2),
        (2, KEYS, 6, 1),
        (3, KEYS + 1, 2, 1),
        (5, sized(2 * KEYS + 17, 40), 48, 2),
        (sized(2 * QUERIES + 9, 4), sized(KEYS + 33, 20), 64, 1),
        (4, 33, 300, 1),
    ],
)
def test_naive_is_twin_is_compiled(backend, N, S, D, heads):
    check(noise(N, heads * D), noise(S, heads * D, seed=1), noise(S, heads * D, seed=2), heads, backend)


@varied(60)
@given(st.integers(1, 12), st.integers(1, 40), st.integers(1, 20), st.integers(1, 4), st.sampled_from([0.1, 1, 8]))
def test_any_shape(N, S, D, heads, level):
    for backend in BACKENDS:
        q = (level * noise(N, heads * D)).astype(np.float32)
        check(q, noise(S, heads * D, seed=1), noise(S, heads * D, seed=2), heads, backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_queries_keys_and_values_may_lie_side_by_side(backend):
    """Columns of one projection: rows are contiguous, but further apart than they are long."""
    x = noise(sized(130, 9), 3 * 24)
    q, k, v = x[:, :24], x[:, 24:48], x[:, 48:]
    check(q, k, v, 4, backend)
    check(q[3:7], k, v[:, ::1], 2, backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_key_gives_its_value(backend):
    v = noise(1, 12)
    ours = operations(backend).attention(100 * noise(5, 12), noise(1, 12, seed=1), v, 3)
    assert np.array_equal(ours, np.broadcast_to(v, (5, 12)))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("level", [1e3, 1e15])
def test_a_key_far_above_the_others_gives_its_value(backend, level):
    """Scores of up to 1e31: e^x of them is far out of range, that of their differences is 1 or 0."""
    S = KEYS + 10
    winner = np.array([0, 5, KEYS - 1, KEYS, S - 1])
    k, v = -np.ones((S, 8), np.float32) * np.float32(level), noise(S, 8)
    q = np.zeros((5, 8), np.float32)
    for n, s in enumerate(winner):  # each query has a channel in which its key alone is positive
        q[n, n], k[s, n] = level, level
    ours = operations(backend).attention(q, k, v, 1)
    assert np.array_equal(ours, v[winner])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("level", [30.0, 1e4])
def test_scores_that_grow_and_fall_over_the_blocks(backend, level):
    """The largest score so far changes in every block, or never again."""
    S = sized(3 * KEYS + 5, KEYS + 5)
    k = np.linspace(-1, 1, S, dtype=np.float32)[:, None] * np.ones(4, np.float32)
    q = np.array([[1], [-1], [0.01], [0]], np.float32) * np.full(4, level, np.float32)
    check(q, k, noise(S, 4), 1, backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_equal_scores_give_the_mean(backend):
    v = noise(sized(KEYS + 100, 30), 6)
    k = np.full_like(v, -20)
    ours = operations(backend).attention(np.full((3, 6), 20, np.float32), k, v, 2)
    truth = np.broadcast_to(v.astype(np.float64).mean(axis=0), (3, 6))
    assert_within(ours, truth, 2 * UNIT * math.sqrt(len(v)))


def nan_of(backend, q, k, v):
    """Where attention of two heads is NaN. As Python, kernels warn of what NaN does; errstate holds for this thread alone."""
    with use_threads(1), np.errstate(over="ignore", invalid="ignore"):
        return np.isnan(operations(backend).attention(q, k, v, 2))


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_stays_in_its_query_and_head(backend):
    q, k, v = noise(6, 8), noise(9, 8, seed=1), noise(9, 8, seed=2)
    q[2, 5] = np.nan
    ours = nan_of(backend, q, k, v)
    assert ours[2, 4:].all()
    assert ours.sum() == 4


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("poisoned", ["k", "v"])
def test_nan_of_a_key_or_value_reaches_its_head(backend, poisoned):
    arrays = {"q": noise(6, 8), "k": noise(9, 8, seed=1), "v": noise(9, 8, seed=2)}
    arrays[poisoned][0, 5] = np.nan
    ours = nan_of(backend, *arrays.values())
    assert ours[:, 4:].all() if poisoned == "k" else ours[:, 5].all()
    assert not ours[:, :4].any()


def test_same_bits_for_any_number_of_threads():
    N, S = sized((3 * QUERIES + 7, 2 * KEYS + 19), (5, 9))
    q, k, v = noise(N, 96), noise(S, 96, seed=1), noise(S, 96, seed=2)
    ops = operations("numba")
    assert_same_bits(lambda: ops.attention(q, k, v, 4))
