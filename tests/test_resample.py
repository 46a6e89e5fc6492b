"""Resampling: a naive transcription of the formula, the NumPy twin and the compiled kernel agree, whole and in blocks."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from demucs_np.kernels._jit import DISABLED
from demucs_np.kernels.resample import Resampler, resample, resample_numpy, taps
from demucs_np.threads import use_threads

pytestmark = pytest.mark.kernel

RATES = [(1, 2), (2, 1), (48000, 44100), (44100, 48000), (3, 7), (11025, 44100), (96000, 44100)]


def naive(x: np.ndarray, old: int, new: int) -> np.ndarray:
    """Sample by sample in Python floats, over the full filter."""
    divisor = math.gcd(old, new)
    old, new = old // divisor, new // divisor
    rate = 0.945 * min(old, new)
    width = math.ceil(24 * old / rate)
    length = new * x.shape[1] // old
    out = np.zeros((x.shape[0], length))
    filters = []
    for phase in range(min(new, length)):
        values = []
        for index in range(-width, width + old):
            t = max(-24.0, min(24.0, (index / old - phase / new) * rate)) * math.pi
            values.append((1.0 if t == 0 else math.sin(t) / t) * math.cos(t / 48) ** 2)
        filters.append([value / math.fsum(values) for value in values])
    for n in range(length):
        for k, tap in enumerate(filters[n % new]):
            position = min(max(n // new * old + k - width, 0), x.shape[1] - 1)
            out[:, n] += tap * x[:, position].astype(float)
    return out


def noise(samples: int, channels: int = 2) -> np.ndarray:
    return np.random.default_rng(samples).standard_normal((channels, samples)).astype(np.float32)


@pytest.mark.parametrize(("old", "new"), RATES)
@pytest.mark.parametrize("samples", [1, 2, 350])
def test_naive_is_twin_is_kernel(old: int, new: int, samples: int) -> None:
    x = noise(samples)
    expected = naive(x, old, new)
    for result in (resample(x, old, new), resample_numpy(x, old, new)):
        assert result.dtype == np.float32
        assert result.shape == expected.shape == (2, new * samples // old)
        np.testing.assert_allclose(result, expected, rtol=0, atol=5e-7)  # taps and result are each rounded once to float32


@pytest.mark.parametrize(("old", "new"), [*RATES[2:4], (44100, 96000)])
def test_fine_twin_is_kernel_and_blocks_are_the_whole(old: int, new: int) -> None:
    x = noise(3000)
    whole = resample(x, old, new, fine=True)
    np.testing.assert_allclose(resample(x, old, new, "numpy", fine=True), whole, rtol=0, atol=5e-7)
    resampler = Resampler(old, new, fine=True)
    parts = [resampler.push(x[:, start : start + 701]) for start in range(0, 3000, 701)]
    assert np.array_equal(np.concatenate([*parts, resampler.finish()], axis=1), whole)


@pytest.mark.parametrize("other", [48000, 96000])
def test_fine_there_and_back_keeps_what_is_in_band(other: int) -> None:
    """Up to 20 kHz, every tone by itself; upstream's filter keeps 91 dB at 1 kHz, and 52 dB at 18 kHz."""
    time = np.arange(44100) / 44100
    for hertz in (20, 440, 1000, 5000, 10000, 15000, 18000, 19000, 20000):
        x = (0.5 * np.sin(2 * np.pi * hertz * time))[None].astype(np.float32)
        back = resample(resample(x, 44100, other, fine=True), other, 44100, fine=True)
        inner = slice(2000, 42000)
        error = back[0, inner].astype(float) - x[0, inner]
        assert 10 * np.log10(0.125 / np.mean(error**2)) > 110, hertz


@settings(deadline=None, max_examples=10 if DISABLED else 40)
@given(
    old=st.integers(1, 400),
    new=st.integers(1, 400),
    cuts=st.lists(st.integers(0, 300), max_size=6),
    channels=st.integers(1, 3),
    backend=st.sampled_from(["numba", "numpy"]),
)
def test_blocks_give_the_samples_of_the_whole(old: int, new: int, cuts: list[int], channels: int, backend: str) -> None:
    x = noise(1 + sum(cuts), channels)
    resampler = Resampler(old, new, backend)
    bounds = np.cumsum([0, *cuts, 1])
    parts = [resampler.push(x[:, start:stop]) for start, stop in itertools.pairwise(bounds)]
    parts.append(resampler.finish())
    whole = resample(x, old, new, backend)
    assert np.concatenate(parts, axis=1).shape == whole.shape == (channels, new * x.shape[1] // old)
    if backend == "numba":
        assert np.array_equal(np.concatenate(parts, axis=1), whole)
    else:
        np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, rtol=0, atol=1e-6)


def test_same_bits_for_any_number_of_threads() -> None:
    x = noise(200 if DISABLED else 60_000)
    results = []
    for threads in (1, 2, 4):
        with use_threads(threads):
            results.append(resample(x, 48000, 44100))
    assert all(np.array_equal(results[0], other) for other in results[1:])


@pytest.mark.parametrize("backend", ["numba", "numpy"])
def test_edge_cases(backend: str) -> None:
    x = noise(10)
    assert resample(x, 44100, 44100, backend) is x
    assert resample(x[:, :0], 48000, 44100, backend).shape == (2, 0)
    assert resample(x[:, :1], 48000, 44100, backend).shape == (2, 0)
    constant = np.full((1, 1000), 0.25, np.float32)
    np.testing.assert_allclose(resample(constant, 3, 2, backend), 0.25, rtol=2e-7)
    strided = noise(20)[:, ::2]
    assert np.array_equal(resample(strided, 2, 3, backend), resample(strided.copy(), 2, 3, backend))
    assert np.isnan(resample(np.full((1, 50), np.nan, np.float32), 2, 3, backend)).all()


def test_rates_without_a_common_divisor_need_a_small_table() -> None:
    assert taps(44101, 44100).nbytes < 12e6
    assert resample(noise(500), 44101, 44100).shape == (2, 499)
