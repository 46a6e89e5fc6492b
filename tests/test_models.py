"""What the models do with lengths, and the spectrograms that only HDemucs has."""

import math
import re

import numpy as np
import pytest

from demucs_np.errors import AudioError, ModelError, UsageError
from demucs_np.models import spectral
from demucs_np.models.config import DemucsConfig, HDemucsConfig
from demucs_np.models.demucs import Demucs
from demucs_np.models.hdemucs import HDemucs
from demucs_np.models.layout import expected_tensors
from demucs_np.operations import operations
from demucs_np.parity.recipe import draw_tensors
from demucs_np.threads import use_threads


def demucs(backend="numpy", **arguments):
    config = DemucsConfig(("vocals", "rest"), **({"channels": 4, "depth": 2, "dconv_comp": 1} | arguments))
    return Demucs(config, draw_tensors(1, expected_tensors(config)), backend)


def hdemucs(backend="numpy", **arguments):
    config = HDemucsConfig(("vocals", "rest"), **({"channels": 4, "depth": 3, "nfft": 256, "dconv_comp": 1} | arguments))
    return HDemucs(config, draw_tensors(1, expected_tensors(config)), backend)


def noise(length, channels=2, seed=0):
    return np.random.default_rng(seed).standard_normal((1, channels, length)).astype(np.float32)


@pytest.mark.parametrize(
    "arguments", [{}, {"resample": False}, {"kernel_size": 5, "stride": 3, "resample": False}, {"depth": 3}, {"stride": 8}]
)
def test_demucs_valid_length_leaves_no_sample_over(arguments):
    model = demucs(**arguments)
    config = model.config
    for length in (*range(1, 60), 1000, 12345):
        valid = model.valid_length(length)
        assert valid >= length
        assert model.valid_length(valid) == valid
        steps = valid * 2 if config.resample else valid
        for _ in range(config.depth):
            assert steps >= config.kernel_size
            assert (steps - config.kernel_size) % config.stride == 0
            steps = (steps - config.kernel_size) // config.stride + 1


def test_demucs_valid_length_of_the_reference():
    assert [demucs(depth=6, channels=2).valid_length(n) for n in (1, 44100, 343980)] == [4778, 45738, 344746]
    odd = demucs(depth=1, kernel_size=5, stride=3)
    assert [odd.valid_length(n) for n in range(1, 12)] == [3, 3, 4, 4, 6, 7, 7, 9, 10, 10, 12]


@pytest.mark.parametrize("length", [2, 3, 5, 50, 51, 333])
@pytest.mark.parametrize("arguments", [{}, {"resample": False, "kernel_size": 5, "stride": 3}, {"normalize": False}])
def test_demucs_takes_any_length(length, arguments):
    stems = demucs(**arguments)(noise(length))
    assert stems.shape == (1, 2, 2, length)
    assert stems.dtype == np.float32
    assert np.isfinite(stems).all()


def test_one_sample_has_no_standard_deviation():
    assert np.isnan(demucs()(noise(1))).all()
    assert np.isfinite(demucs(normalize=False)(noise(1))).all()


def test_odd_length_of_upsampled_audio():
    # the layers take 5, 11, 17 samples of twice as many: the last one is left over
    model = demucs(kernel_size=5, stride=3, depth=1)
    assert [model(noise(n)).shape[-1] for n in (1, 2, 5, 8)] == [1, 2, 5, 8]


@pytest.mark.parametrize("length", [1025, 1100, 5000])
def test_frequency_only(length):
    model = hdemucs(hybrid=False, nfft=2048, depth=2)
    assert not model.tencoder
    assert model(noise(length)).shape == (1, 2, 2, length)


def test_frequency_only_needs_half_a_window():
    with pytest.raises(UsageError, match=r"1024 samples, but this model .* more than 1024"):
        hdemucs(hybrid=False, nfft=2048, depth=2)(noise(1024))


@pytest.mark.parametrize("model", [demucs, hdemucs])
def test_what_models_refuse(model):
    for shape in [(1, 1, 50), (2, 50), (1, 2, 0), (0, 2, 50)]:  # as `apply_model` says it
        with pytest.raises(AudioError, match=re.escape(f"the mix has shape {shape}, but this model takes (batch, 2, samples)")):
            model()(np.zeros(shape, np.float32))
    with pytest.raises(AudioError, match="NaN"):
        model()(noise(50) * np.float32(math.nan))


@pytest.mark.parametrize("model", [demucs, hdemucs])
def test_same_bits_for_any_number_of_threads(model):
    network = model("numba", dconv_lstm=1, dconv_attn=1, dconv_mode=3)
    mix = noise(9000)
    stems = []
    for threads in (1, 2, 4, 1):
        with use_threads(threads):
            stems.append(network(mix))
    assert all(np.array_equal(stems[0], other) for other in stems[1:])


@pytest.mark.parametrize("backend", ["numba", "numpy"])
@pytest.mark.parametrize("length", [65, 127, 128, 700])
def test_centered_spectrogram_inverts(backend, length):
    ops, x = operations(backend), noise(length)[0]
    z = spectral.spectrogram_centered(ops, x, 128)
    assert z.shape == (1 + length // 32, 64, 4)
    # but for the last bin, which the models drop: half the sampling rate
    smooth = np.stack([np.convolve(channel, [0.25, 0.5, 0.25], "same") for channel in noise(length + 2)[0]])[:, 1:-1].astype(np.float32)
    z = spectral.spectrogram_centered(ops, smooth, 128)
    error = spectral.waveform_centered(ops, z, 128, length) - smooth
    assert np.sqrt(np.mean(error**2)) < 0.01


@pytest.mark.parametrize("backend", ["numba", "numpy"])
def test_late_waveform_is_three_half_hops_late(backend):
    ops, n = operations(backend), 640
    z = np.random.default_rng(0).standard_normal((n // 32, 64, 4)).astype(np.float32)
    exact, late = spectral.waveform(ops, z, 128, n).copy(), spectral.waveform_late(ops, z, 128, n)
    np.testing.assert_allclose(late[:, 48:], exact[:, : n - 48], atol=1e-5)


def test_late_envelope_lacks_a_frame_at_the_start():
    envelope = 1 / spectral.inverse_envelope_of(128, 640, -64, 24)
    assert envelope[0] == pytest.approx(1.25)  # 1 + 1/4, where 1/4 more is missing
    np.testing.assert_allclose(envelope[32:], 1.5, rtol=1e-6)


@pytest.mark.parametrize("backend", ["numba", "numpy"])
@pytest.mark.parametrize("channels", [4, 8])
def test_a_time_branch_that_does_not_fit_where_it_joins_is_refused(channels: int, backend: str) -> None:
    """Compiled kernels would read beyond its end; upstream refuses it as well."""
    model = hdemucs(backend, channels=channels, nfft=128)
    with pytest.raises(ModelError, match=r"the time branch has 141 steps where it joins 282 frames: nfft does not fit the strides"):
        model(noise(9000))


@pytest.mark.parametrize("backend", ["numba", "numpy"])
@pytest.mark.parametrize("nfft", [96, 256])
def test_bands_with_no_row_are_refused(nfft: int, backend: str) -> None:
    with pytest.raises(ModelError, match=r"too short|does not fit"):
        hdemucs(backend, nfft=nfft, cac=False, multi_freqs=(0.1,), multi_freqs_depth=2)(noise(3000))
