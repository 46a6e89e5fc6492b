"""The bidirectional LSTM: naive = twin = compiled; sequences that share inputs; the functions it is made of."""

import math

import numpy as np
import pytest

from demucs_np.kernels import activation
from demucs_np.kernels._jit import kernel
from demucs_np.operations import operations
from demucs_np.threads import use_threads

pytestmark = pytest.mark.kernel


def naive(gates, recurrent, first, step, steps):
    """One number at a time, in Python's floats."""
    H = gates.shape[1] // 8
    out = np.zeros((steps, len(first), 2 * H))
    for r, start in enumerate(first):
        for direction in (0, 1):
            h, c = [0.0] * H, [0.0] * H
            for t in range(steps) if direction == 0 else range(steps - 1, -1, -1):
                z = [float(v) for v in gates[start + t * step, direction * 4 * H : (direction + 1) * 4 * H]]
                for n in range(4 * H):
                    z[n] += sum(h[k] * float(recurrent[direction, k, n]) for k in range(H))
                i, f, g, o = z[:H], z[H : 2 * H], z[2 * H : 3 * H], z[3 * H :]
                c = [c[k] / (1 + math.exp(-f[k])) + math.tanh(g[k]) / (1 + math.exp(-i[k])) for k in range(H)]
                h = [math.tanh(c[k]) / (1 + math.exp(-o[k])) for k in range(H)]
                out[t, r, direction * H : (direction + 1) * H] = h
    return out


def inputs(P, H, seed=0):
    rng = np.random.default_rng(seed)
    gates = (1.5 * rng.standard_normal((P, 8 * H))).astype(np.float32)
    recurrent = (rng.standard_normal((2, H, 4 * H)) / math.sqrt(H)).astype(np.float32)
    return gates, recurrent


def run(backend, gates, recurrent, first, step, steps):
    ops = operations(backend)
    return ops.lstm(gates, ops.prepare_recurrent(recurrent), first, step, steps)


@pytest.mark.parametrize("backend", ["numba", "numpy"])
@pytest.mark.parametrize(
    ("steps", "sequences", "H"), [(5, 1, 8), (1, 1, 1), (7, 2, 3), (4, 13, 5), (3, 25, 16), (9, 6, 33), (2, 3, 300)], ids=str
)
def test_naive_is_twin_is_compiled(backend, steps, sequences, H):
    gates, recurrent = inputs(steps * sequences, H)
    first = np.arange(sequences)
    truth = naive(gates, recurrent, first, sequences, steps)
    ours = run(backend, gates, recurrent, first, sequences, steps)
    assert ours.dtype == np.float32
    assert ours.flags.c_contiguous
    # states are below 1; each step rounds a few times, and the recurrence carries it on
    np.testing.assert_allclose(ours, truth, atol=2e-6, rtol=0)


@pytest.mark.parametrize("backend", ["numba", "numpy"])
def test_windows_share_their_inputs(backend):
    gates, recurrent = inputs(31, 6)
    first = np.array([0, 7, 14, 21])
    truth = naive(gates, recurrent, first, 1, 10)
    before = gates.copy()
    np.testing.assert_allclose(run(backend, gates, recurrent, first, 1, 10), truth, atol=1e-6, rtol=0)
    assert np.array_equal(gates, before)


def test_same_bits_for_any_number_of_threads():
    gates, recurrent = inputs(20 * 30, 48)
    results = []
    for threads in (1, 2, 4):
        with use_threads(threads):
            results.append(run("numba", gates, recurrent, np.arange(30), 30, 20).copy())
    assert all(np.array_equal(results[0], other) for other in results[1:])


def test_sequences_do_not_depend_on_their_neighbours():
    gates, recurrent = inputs(8 * 17, 20)
    together = run("numba", gates, recurrent, np.arange(17), 17, 8).copy()
    alone = run("numba", gates, recurrent, np.array([11]), 17, 8)
    assert np.array_equal(together[:, 11:12], alone)


@kernel
def _tanh(x, out):
    for i in range(x.size):
        out[i] = activation.tanh(x[i])


def test_tanh_within_two_units_in_the_last_place():
    magnitudes = np.concatenate([np.geomspace(1e-30, 12, 200_001), np.linspace(0.6, 0.65, 10_001)])
    x = np.concatenate([-magnitudes, magnitudes]).astype(np.float32)
    ours = np.empty_like(x)
    _tanh(x, ours)
    truth = np.tanh(x.astype(np.float64))
    assert np.max(np.abs(ours - truth) / np.spacing(np.abs(truth).astype(np.float32))) <= 2


def test_tanh_at_the_ends():
    x = np.array([0, np.inf, -np.inf, 1e30, -1e30, np.nan], np.float32)
    ours = np.empty_like(x)
    with np.errstate(invalid="ignore", over="ignore"):  # where the kernel runs as Python, NumPy warns
        _tanh(x, ours)
    assert np.array_equal(ours, np.array([0, 1, -1, 1, -1, np.nan], np.float32), equal_nan=True)
