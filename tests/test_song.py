"""The synthesiser of the demo song: the same bits every time, a mixture that is the exact sum, and stems that sound like what they are."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
import soundfile

from demucs_np.demo import song, synth
from demucs_np.demo.song import DEMO_FILE, DEMO_SECONDS, DEMO_SEED, STEMS, make_song, mixture
from demucs_np.demo.synth import SAMPLE_RATE

SEEDS = (0, 1, 2, 3)
SECONDS = 10.0


@cache
def stems_of(seed: int, seconds: float = SECONDS) -> dict[str, np.ndarray]:
    return make_song(seed, seconds)


def digest(stems: dict[str, np.ndarray]) -> str:
    return hashlib.sha256(b"".join(stems[stem].tobytes() for stem in STEMS)).hexdigest()


def in_another_process(code: str, **environment: str) -> str:
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, **environment})
    return run.stdout.strip()


DIGEST = (
    "import hashlib; from demucs_np.demo.song import make_song, STEMS; s = make_song(3, 10.0);"
    "print(hashlib.sha256(b''.join(s[k].tobytes() for k in STEMS)).hexdigest())"
)


def test_same_bits_in_two_processes() -> None:
    assert in_another_process(DIGEST) == digest(stems_of(3))


@pytest.mark.filterwarnings("ignore")
def test_same_bits_with_simpler_instructions() -> None:
    """Another processor's sine may differ in the last digit of a double; on the 16-bit grid that is gone."""
    code = (
        "from numpy._core import _multiarray_umath as m;"
        "print(' '.join(x for x in m.__cpu_dispatch__ if m.__cpu_features__[x]))"
    )  # fmt: skip
    features = in_another_process(code)
    if not features:
        pytest.skip("NumPy has no optional instructions to do without on this processor")
    assert in_another_process(DIGEST, NPY_DISABLE_CPU_FEATURES=features) == digest(stems_of(3))


def test_the_bundled_file_is_the_sum_of_the_stems() -> None:
    mix, rate = soundfile.read(DEMO_FILE, dtype="float32")
    assert rate == SAMPLE_RATE
    np.testing.assert_array_equal(mix.T, mixture(stems_of(DEMO_SEED, DEMO_SECONDS)))
    assert 20 <= len(mix) / rate <= 30
    assert DEMO_FILE.stat().st_size < 3_000_000


@pytest.mark.parametrize("seed", SEEDS)
def test_form(seed: int) -> None:
    stems = stems_of(seed)
    assert tuple(stems) == STEMS
    for wav in stems.values():
        assert wav.dtype == np.float32
        assert wav.shape == (2, int(SECONDS * SAMPLE_RATE))
        assert np.isfinite(wav).all()
        np.testing.assert_array_equal(wav * 32768, np.rint(wav * 32768))


@pytest.mark.parametrize("seed", SEEDS)
def test_mixture_is_exact_in_any_order(seed: int) -> None:
    stems = stems_of(seed)
    mix = mixture(stems)
    assert mix.dtype == np.float32
    np.testing.assert_array_equal(mix, sum(wav.astype(np.float64) for wav in stems.values()))
    np.testing.assert_array_equal(mix, stems["vocals"] + (stems["other"] + (stems["bass"] + stems["drums"])))


def level(wav: np.ndarray) -> float:
    """RMS in dB."""
    return float(10 * np.log10(np.mean(wav.astype(np.float64) ** 2) + 1e-20))


@pytest.mark.parametrize("seed", SEEDS)
def test_levels(seed: int) -> None:
    stems = stems_of(seed, DEMO_SECONDS)
    mix = mixture(stems)
    assert 0.5 < np.abs(mix).max() <= 1.0
    assert -24 < level(mix) < -9
    for stem in STEMS:
        assert -18 < level(stems[stem]) - level(mix) < 0, stem
        assert np.abs(stems[stem].mean()) < 0.003, "no offset"
    crest = {stem: 20 * np.log10(np.abs(stems[stem]).max()) - level(stems[stem]) for stem in STEMS}
    assert crest["drums"] > 10, "drums are struck"
    assert all(value < 25 for value in crest.values())


def share(wav: np.ndarray, low: float, high: float) -> float:
    """Part of the energy between two frequencies in Hz."""
    power = np.abs(np.fft.rfft(wav.astype(np.float64).mean(axis=0))) ** 2
    hz = np.fft.rfftfreq(wav.shape[1], 1 / SAMPLE_RATE)
    return float(power[(hz >= low) & (hz < high)].sum() / power.sum())


@pytest.mark.parametrize("seed", SEEDS)
def test_spectra(seed: int) -> None:
    stems = stems_of(seed, DEMO_SECONDS)
    assert share(stems["bass"], 30, 400) > 0.85
    assert share(stems["vocals"], 100, 5000) > 0.85
    assert share(stems["vocals"], 0, 90) < 0.02
    assert share(stems["other"], 80, 8000) > 0.9
    assert share(stems["drums"], 30, 250) > 0.1, "a kick"
    assert share(stems["drums"], 5000, 20000) > max(0.003, 3 * share(stems["bass"], 5000, 20000)), "hats"


def test_songs_differ() -> None:
    assert len({digest(stems_of(seed)) for seed in SEEDS}) == len(SEEDS)


@pytest.mark.parametrize("seconds", [0.7, 1.0, 4.321])
def test_any_length(seconds: float) -> None:
    stems = make_song(5, seconds)
    assert all(wav.shape == (2, int(seconds * SAMPLE_RATE)) and np.isfinite(wav).all() for wav in stems.values())


def test_harmonics_are_sines() -> None:
    """The recursion over multiples of the phase against sines of their own, with a gliding pitch."""
    frames = 100
    hz = np.linspace(110, 220, frames + 1)
    levels = np.linspace(0, 1, (frames + 1) * 20).reshape(frames + 1, 20)
    phase = 2 * np.pi * np.cumsum(synth.upsample(hz)) / SAMPLE_RATE
    expected = sum(synth.upsample(levels[:, k - 1]) * np.sin(k * phase) for k in range(1, 21))
    np.testing.assert_allclose(synth.harmonics(hz, levels), expected, atol=1e-9)


def test_a_string_has_its_pitch() -> None:
    n = 1 << 16
    for hz in (55.0, 196.0, 440.0, 987.77):
        spectrum = np.abs(np.fft.rfft(synth.pluck(synth.Rng(1), hz, n, 0.5, 4.0) * np.hanning(n)))
        near = np.arange(int(hz * 0.9 * n / SAMPLE_RATE), int(hz * 1.1 * n / SAMPLE_RATE))
        assert near[spectrum[near].argmax()] * SAMPLE_RATE / n == pytest.approx(hz, abs=0.8)


def test_convolution_in_blocks() -> None:
    rng = synth.Rng(2)
    x, ir = rng.noise(5000), rng.noise(2, 300)
    expected = [np.convolve(x, channel)[:5000] for channel in ir]
    np.testing.assert_allclose(synth.convolve(x, ir), expected, atol=1e-9)


def test_compression_evens_out() -> None:
    t = np.arange(SAMPLE_RATE // synth.HOP * synth.HOP)
    x = np.sin(t * 0.05) * np.where(t > len(t) // 2, 1.0, 0.1) * np.ones((2, 1))
    y = synth.compress(x, -10.0, 4.0)
    assert level(x[:, -9000:]) - level(x[:, 9000:18000]) == pytest.approx(20, abs=0.1)
    assert level(y[:, -9000:]) - level(y[:, 9000:18000]) < 16


def test_the_script_writes_the_mixture(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(song, "DEMO_FILE", tmp_path / "song.flac")
    monkeypatch.setattr(song, "DEMO_SECONDS", 2.0)
    song.main()
    mix, rate = soundfile.read(tmp_path / "song.flac", dtype="float32")
    assert rate == SAMPLE_RATE
    np.testing.assert_array_equal(mix.T, mixture(make_song(DEMO_SEED, 2.0)))
