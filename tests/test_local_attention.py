"""Attention that fades with distance: naive = twin = compiled."""

import math

import numpy as np
import pytest
from kernel_checks import sized

from demucs_np.operations import operations
from demucs_np.threads import use_threads

pytestmark = pytest.mark.kernel


def naive(x, heads, decays):
    """One number at a time, in Python's floats."""
    T, F, width = x.shape
    C = (width - heads * decays) // 3
    D = C // heads
    x = x.astype(np.float64).tolist()
    out = np.zeros((T, F, C))
    for f in range(F):
        for head in range(heads):
            for s in range(T):
                rates = [n / (1 + math.exp(-x[s][f][3 * C + head * decays + n - 1])) / 2 for n in range(1, decays + 1)]
                scores = []
                for t in range(T):
                    dot = sum(x[s][f][head * D + c] * x[t][f][C + head * D + c] for c in range(D)) / math.sqrt(D)
                    scores.append(dot - sum(rates) * abs(s - t) / math.sqrt(decays) if s != t else -100.0)
                top = max(scores)
                weights = [math.exp(score - top) for score in scores]
                for c in range(D):
                    out[s, f, head * D + c] = sum(w * x[t][f][2 * C + head * D + c] for t, w in enumerate(weights)) / sum(weights)
    return out


def inputs(T, F, C, heads=4, decays=4, level=1.0, seed=0):
    rng = np.random.default_rng(seed)
    x = level * rng.standard_normal((T, F, 3 * C + heads * decays))
    x[:, :, 3 * C :] -= 2  # as the models begin: slow decays
    return x.astype(np.float32)


@pytest.mark.parametrize("backend", ["numba", "numpy"])
@pytest.mark.parametrize(
    ("T", "F", "C", "heads", "decays", "level"),
    [(1, 1, 8, 4, 4, 1), (2, 3, 8, 4, 4, 1), (17, 2, 12, 4, 4, 1), (97, 1, 4, 4, 4, 3), (5, 4, 40, 4, 4, 2), (400, 1, 18, 2, 3, 1)],
    ids=str,
)
def test_naive_is_twin_is_compiled(backend, T, F, C, heads, decays, level):
    x = inputs(T, F, C, heads, decays, level)
    truth = naive(x, heads, decays)
    ours = operations(backend).local_attention(x, heads, decays)
    assert ours.dtype == np.float32
    assert ours.shape == truth.shape
    assert ours.flags.c_contiguous
    # weighted means of values of size `level`; scores of some tens are rounded at 2e-6
    np.testing.assert_allclose(ours, truth, atol=5e-6 * level, rtol=0)


@pytest.mark.parametrize("backend", ["numba", "numpy"])
def test_a_lone_step_attends_to_itself(backend):
    x = inputs(1, 2, 8)
    assert np.array_equal(operations(backend).local_attention(x, 4, 4), x[:, :, 16:24])


@pytest.mark.parametrize("backend", ["numba", "numpy"])
def test_itself_counts_where_all_others_score_less(backend):
    x = inputs(3, 1, 8)
    x[:, :, :8], x[:, :, 8:16] = 100, -100  # scores of -14142 but for itself
    np.testing.assert_allclose(operations(backend).local_attention(x, 4, 4), x[:, :, 16:24], rtol=1e-6)


def test_same_bits_for_any_number_of_threads():
    x = inputs(sized(500, 40), 2, 48)
    before = x.copy()
    results = []
    for threads in (1, 2, 4):
        with use_threads(threads):
            results.append(operations("numba").local_attention(x, 4, 4).copy())
    assert all(np.array_equal(results[0], other) for other in results[1:])
    assert np.array_equal(x, before)
