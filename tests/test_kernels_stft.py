"""STFT and its inverse: naive = twin = compiled, with an FFT of our own and with NumPy's; frames beyond both ends."""

import math

import naive
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_checks import BACKENDS, UNIT, assert_same_bits, assert_within, noise, sized, varied

from demucs_np.kernels.stft import FRAMES, HOPS, hann, own_size
from demucs_np.operations import operations

pytestmark = pytest.mark.kernel

OWN = [8, 16, sized(64, 32), sized(512, 8)]  # powers of two
OTHER = [6, 20, sized(96, 12), sized(250, 10)]


def accuracy(n_fft):
    """Of a transform whose result has the size of its input: each of log2(n) stages rounds a few times, window and scale once."""
    return 4 * UNIT * (math.log2(n_fft) + 4)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("n_fft", OWN + OTHER)
@pytest.mark.parametrize(("channels", "frames"), [(1, 1), (2, FRAMES + 3), (3, 2 * FRAMES)])
def test_stft(backend, n_fft, channels, frames):
    hop = n_fft // 4 if n_fft >= 8 else 2
    x = noise(channels, (frames - 1) * hop + n_fft)  # the last frame ends with the signal
    before = x.copy()
    truth = naive.stft(x, n_fft, hop, frames)
    ours = operations(backend).stft(x, n_fft, hop, frames)
    assert_within(ours, truth, accuracy(n_fft) * np.abs(x).max())
    assert np.array_equal(x, before)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("n_fft", [16, 20])
def test_stft_of_part_of_a_signal(backend, n_fft):
    """Fewer frames than fit; channels that are not contiguous."""
    wide = noise(4, 200)
    x = wide[::2, 3:150]
    assert_within(operations(backend).stft(x, n_fft, 5, 7), naive.stft(x, n_fft, 5, 7), accuracy(n_fft) * 4)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("n_fft", [32, 24])
def test_stft_of_known_signals(backend, n_fft):
    ops = operations(backend)
    time = np.arange(n_fft)
    for k in (2, n_fft // 4, n_fft // 2 - 2):
        x = np.cos(2 * np.pi * k * time / n_fft).astype(np.float32)[None]
        z = ops.stft(x, n_fft, n_fft, 1)[0].astype(np.float64)
        power = z[:, 0] ** 2 + z[:, 1] ** 2
        assert np.argmax(power) == k
        assert np.abs(z[np.abs(np.arange(n_fft // 2) - k) > 1]).max(initial=0) < 1e-5  # a Hann window leaks to the neighbours alone
    ones = ops.stft(np.ones((1, n_fft), np.float32), n_fft, n_fft, 1)
    assert ones[0, 0, 0] == pytest.approx(n_fft / 2 / math.sqrt(n_fft), rel=1e-6)  # the window's sum
    assert ones[0, 0, 1] == pytest.approx(0, abs=1e-6)


def spectra(frames, n_fft, signals):
    return noise(frames, n_fft // 2, 2 * signals)


def check_istft(backend, frames, n_fft, hop, offset, samples, signals, affine=True):
    z = spectra(frames, n_fft, signals)
    envelope = 0.5 + np.abs(noise(samples, seed=1))
    before = z.copy()
    truth = naive.istft(z, n_fft, hop, offset, envelope)
    overlap = -(-n_fft // hop)
    limit = accuracy(n_fft) * overlap * np.abs(z).max() * envelope.max()
    ops = operations(backend)
    assert_within(ops.istft(z, n_fft, hop, offset, envelope), truth, limit)
    if affine:
        time = noise(samples, signals, seed=2)
        scaled = naive.istft(z.astype(np.float64) * 1.75 + 0.25, n_fft, hop, offset, envelope) + (time * 0.5 - 0.125).T
        options = {"moments": np.array([0.25, 1.75]), "time": time, "time_moments": np.array([-0.125, 0.5])}
        assert_within(ops.istft(z, n_fft, hop, offset, envelope, **options), scaled, 2 * limit)
    assert np.array_equal(z, before)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("n_fft", OWN + OTHER)
@pytest.mark.parametrize("signals", [1, 3])
def test_istft_of_frames_beyond_both_ends(backend, n_fft, signals):
    hop = n_fft // 4 if n_fft >= 8 else 2
    frames = 7
    samples = (frames - 1) * hop + 1  # the last frames end far behind the result, the first begin before it
    check_istft(backend, frames, n_fft, hop, -(n_fft // 2), samples, signals)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("n_fft", [16, 12])
@pytest.mark.parametrize("offset", [-40, -17, -1, 0, 3, 25])
@pytest.mark.parametrize("samples", [1, 9, 40, 100])
def test_istft_wherever_frames_fall(backend, n_fft, offset, samples):
    """Also where some, or all, miss the result, and where it goes on behind the last."""
    check_istft(backend, 6, n_fft, 4, offset, samples, 2)


@pytest.mark.parametrize("backend", BACKENDS)
def test_istft_over_many_tiles(backend):
    frames, n_fft, hop = sized((3 * HOPS + 5, 64, 16), (HOPS + 3, 8, 2))
    check_istft(backend, frames, n_fft, hop, -(hop // 2 * 3), frames * hop - 3, 2)


@varied(40)
@given(st.integers(1, 9), st.sampled_from([8, 16, 6, 10]), st.integers(1, 3), st.integers(-30, 20), st.integers(1, 60), st.integers(1, 3))
def test_istft_of_any_geometry(frames, n_fft, overlap, offset, samples, signals):
    for backend in BACKENDS:
        check_istft(backend, frames, n_fft, -(-n_fft // (overlap + 1)), offset, samples, signals, affine=False)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("n_fft", [16, 12])
def test_imaginary_part_of_the_mean_is_ignored(backend, n_fft):
    z = spectra(5, n_fft, 2)
    other = z.copy()
    other[:, 0, 1::2] = 1000
    envelope = np.ones(30, np.float32)
    ops = operations(backend)
    for options in ({}, {"moments": np.array([3.0, 2.0])}):
        once = ops.istft(z, n_fft, 4, -8, envelope, **options).copy()
        assert np.array_equal(once, ops.istft(other, n_fft, 4, -8, envelope, **options))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("n_fft", [sized(256, 16), sized(100, 12)])
def test_inverse_gives_the_signal_back(backend, n_fft):
    hop, frames = n_fft // 4, 9
    low = np.sin(2 * np.pi * 0.01 * np.arange((frames - 1) * hop + n_fft))  # nothing in the bin that is dropped
    x = np.stack([low, low[::-1]]).astype(np.float32)
    envelope = np.zeros(x.shape[1])
    for t in range(frames):
        envelope[t * hop : t * hop + n_fft] += naive.hann(n_fft) ** 2
    inside = slice(n_fft, -n_fft)
    ops = operations(backend)
    back = ops.istft(ops.stft(x, n_fft, hop, frames), n_fft, hop, 0, (1 / np.maximum(envelope, 1e-3)).astype(np.float32))
    # the window alone lets the lowest tones reach the last bin: 1e-5 of their size
    np.testing.assert_allclose(back[:, inside], x[:, inside], atol=sized(2e-6, 2e-3), rtol=0)


@pytest.mark.parametrize("n", [8, 12, 4096])
def test_window(n):
    assert hann(n).dtype == np.float32
    np.testing.assert_allclose(hann(n), naive.hann(n), atol=UNIT, rtol=0)


def test_own_sizes_are_powers_of_two():
    assert [n for n in range(1, 70) if own_size(n)] == [8, 16, 32, 64]
    assert own_size(4096)


@pytest.mark.parametrize("name", ["stft", "istft"])
def test_same_bits_for_any_number_of_threads(name):
    frames, n_fft = sized((3 * HOPS + 7, 64), (5, 8))
    hop = n_fft // 4
    x, z = noise(2, frames * hop + n_fft), spectra(frames, n_fft, 3)
    envelope, time = np.abs(noise(frames * hop)), noise(frames * hop, 3)
    ops = operations("numba")
    runs = {
        "stft": lambda: ops.stft(x, n_fft, hop, frames),
        "istft": lambda: ops.istft(z, n_fft, hop, -hop, envelope, time=time, time_moments=np.array([0.0, 2.0])),
    }
    assert_same_bits(runs[name])
