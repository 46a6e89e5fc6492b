"""Wiener filtering: naive = twin = compiled, and the corners of its definition."""

import cmath

import numpy as np
import pytest

from demucs_np.operations import operations
from demucs_np.threads import use_threads

pytestmark = pytest.mark.kernel

WINDOW = 300


def naive(z, m, iterations, residual):
    """z [T, F, C] complex, m [T, F, S, C] -> [T, F, S, C], one number at a time."""
    T, F, S, C = m.shape
    out = np.empty((T, F, S, C), complex)
    for start in range(0, T, WINDOW):
        frames = range(start, min(T, start + WINDOW))
        x = {(t, f, c): complex(z[t, f, c]) or 1 + 0j for t in frames for f in range(F) for c in range(C)}
        y = {(t, f, j, c): float(m[t, f, j, c]) * cmath.rect(1, cmath.phase(x[t, f, c])) for t, f, c in x for j in range(S)}
        sources = list(range(S))
        if residual:
            sources.append(S)
            y |= {(t, f, S, c): x[t, f, c] - sum(y[t, f, j, c] for j in range(S)) for t, f, c in x}
        scale = max(1, max(map(abs, x.values())) / 10) if iterations else 1
        x, y = {key: value / scale for key, value in x.items()}, {key: value / scale for key, value in y.items()}
        for _ in range(iterations):
            v, R = {}, {}
            for f in range(F):
                for j in sources:
                    for t in frames:
                        v[t, f, j] = sum(abs(y[t, f, j, c]) ** 2 for c in range(C)) / C
                    weight = 1e-10 + sum(v[t, f, j] for t in frames)
                    columns = [np.array([y[t, f, j, c] for c in range(C)]) for t in frames]
                    R[f, j] = sum(np.outer(column, column.conj()) for column in columns) / weight
                for t in frames:
                    inverse = np.linalg.inv(1e-5 * np.eye(C) + sum(v[t, f, j] * R[f, j] for j in sources))
                    for j in sources:
                        column = v[t, f, j] * R[f, j] @ inverse @ np.array([x[t, f, c] for c in range(C)])
                        for c in range(C):
                            y[t, f, j, c] = column[c]
        for (t, f, j, c), value in y.items():
            if j < S:
                out[t, f, j, c] = value * scale
    return out


def inputs(T, F, S, C, level=1.0, seed=0):
    rng = np.random.default_rng(seed)
    z = (level * rng.standard_normal((T, F, 2 * C))).astype(np.float32)
    m = (0.3 * np.abs(rng.standard_normal((T, F, S * C))) * level).astype(np.float32)
    return z, m


def as_complex(pairs, *shape):
    return pairs.astype(np.float64).view(np.complex128).reshape(shape)


def snr(truth, ours):
    return 20 * np.log10(np.linalg.norm(truth) / np.linalg.norm(ours - truth))


@pytest.mark.parametrize("backend", ["numba", "numpy"])
@pytest.mark.parametrize(
    ("T", "F", "S", "C", "iterations", "residual", "level"),
    [
        (4, 3, 2, 2, 1, False, 1),
        (5, 17, 3, 2, 3, True, 40),
        (3, 2, 4, 1, 2, False, 0.1),
        (7, 9, 1, 1, 1, True, 30),
        (301, 2, 2, 2, 2, True, 9),
        (6, 4, 2, 4, 0, True, 1),
        (2, 5, 3, 2, 0, False, 100),
    ],
)
def test_naive_is_twin_is_compiled(backend, T, F, S, C, iterations, residual, level):
    z, m = inputs(T, F, S, C, level)
    truth = naive(as_complex(z, T, F, C), m.reshape(T, F, S, C), iterations, residual)
    ours = operations(backend).wiener(z, m, iterations, residual)
    assert ours.dtype == np.float32
    assert ours.shape == (T, F, 2 * S * C)
    assert ours.flags.c_contiguous
    assert snr(truth, as_complex(ours, T, F, S, C)) > 140  # float64 inside, rounded once to float32


@pytest.mark.parametrize("iterations", [0, 2])
def test_exact_silence_is_one_of_phase_zero(iterations):
    z, m = inputs(3, 4, 2, 2)
    z[1], z[2, 2, :2] = 0, -0.0
    truth = naive(as_complex(z, 3, 4, 2), m.reshape(3, 4, 2, 2), iterations, False)
    for backend in ("numba", "numpy"):
        ours = operations(backend).wiener(z, m, iterations, False)
        assert snr(truth, as_complex(ours, 3, 4, 2, 2)) > 140
        if iterations == 0:
            assert np.array_equal(ours[1, :, 0::2], m[1])
            assert not ours[1, :, 1::2].any()


def test_negative_magnitudes_turn_the_phase():
    z, m = inputs(3, 4, 2, 2)
    for backend in ("numba", "numpy"):
        ops = operations(backend)
        assert np.array_equal(ops.wiener(z, -m, 0, False), -ops.wiener(z, m, 0, False))


def test_same_bits_for_any_number_of_threads():
    z, m = inputs(350, 41, 3, 2)
    before = z.copy(), m.copy()
    results = []
    for threads in (1, 2, 4):
        with use_threads(threads):
            results.append(operations("numba").wiener(z, m, 2, True).copy())
    assert all(np.array_equal(results[0], other) for other in results[1:])
    assert np.array_equal(z, before[0])
    assert np.array_equal(m, before[1])
