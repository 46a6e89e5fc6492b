"""Separation as such: the bundled model on songs it was not trained on, through the kernels, and the command's own run."""

from __future__ import annotations

import importlib.util
from functools import cache

import numpy as np
import pytest
import soundfile

from demucs_np import AudioError, Separator
from demucs_np.demo import run
from demucs_np.demo.run import DEMO_MODEL, Result, report, run_demo
from demucs_np.demo.sdr import sdr
from demucs_np.demo.song import DEMO_SEED, STEMS, make_song, mixture
from demucs_np.demo.synth import SAMPLE_RATE

HELD_OUT = (0, 1, 2)  # training took seeds from 1,000,000 up, validation from 500,000
SECONDS = 12.0
LEAST = {"drums": 9.8, "bass": 10.4, "other": 6.3, "vocals": 7.6}  # dB that the median song must gain; it gains a third of a dB more


@cache
def gains() -> dict[str, list[float]]:
    """SDR improvement over the mixture of each stem of each song, and under "sum" the SNR of the stems' sum."""
    separator = Separator(DEMO_MODEL, shifts=0)
    out: dict[str, list[float]] = {stem: [] for stem in (*STEMS, "sum")}
    for seed in HELD_OUT:
        true = make_song(seed, SECONDS)
        mix = mixture(true)
        _, estimates = separator.separate_array(mix, SAMPLE_RATE)
        for stem in STEMS:
            out[stem].append(sdr(true[stem], estimates[stem]) - sdr(true[stem], mix))
        out["sum"].append(sdr(mix, np.sum([estimates[stem] for stem in STEMS], axis=0)))
    return out


@pytest.mark.parametrize("stem", STEMS)
def test_every_stem_gains(stem: str) -> None:
    assert np.median(gains()[stem]) > LEAST[stem]


def test_stems_sum_to_the_mixture() -> None:
    assert min(gains()["sum"]) > 35


def test_the_model_is_small() -> None:
    assert DEMO_MODEL.stat().st_size < 6_000_000


@pytest.fixture
def short_demo(monkeypatch: pytest.MonkeyPatch, tmp_path):
    """The demo on six seconds, so that a test of the files does not take its time."""
    true = make_song(DEMO_SEED, 6.0)
    soundfile.write(tmp_path / "song.flac", (mixture(true).T * 32768).astype(np.int16), SAMPLE_RATE, subtype="PCM_16")
    monkeypatch.setattr(run, "DEMO_FILE", tmp_path / "song.flac")
    monkeypatch.setattr(run, "DEMO_SECONDS", 6.0)
    return tmp_path


def test_run_writes_and_tells(short_demo) -> None:
    said: list[str] = []
    result = run_demo(short_demo / "out", threads=1, echo=said.append)
    folder = short_demo / "out" / "demo" / "song"
    assert [path.relative_to(folder).as_posix() for path in result.files[:4]] == [f"{stem}.wav" for stem in STEMS]
    for path in result.files[:4]:
        wav, rate = soundfile.read(path)
        assert rate == SAMPLE_RATE
        assert wav.shape == (6 * SAMPLE_RATE, 2)
    if importlib.util.find_spec("matplotlib"):
        assert result.files[4].read_bytes().startswith(b"\x89PNG")
    else:
        assert said[0] == "No picture: matplotlib is not installed (pip install 'demucs-np[plots]')."
    assert said[-1] == report(result)
    assert result.audio_seconds == 6.0
    assert result.seconds > 0


def test_run_without_matplotlib(short_demo, monkeypatch) -> None:
    def missing(*_: object) -> None:
        raise ImportError("No module named 'matplotlib'")

    monkeypatch.setattr(run, "draw", missing)
    said: list[str] = []
    result = run_demo(short_demo / "out", echo=said.append)
    assert "pip install 'demucs-np[plots]'" in said[0]
    assert len(result.files) == 4


def test_a_folder_that_cannot_be(short_demo) -> None:
    (short_demo / "file").touch()
    with pytest.raises(AudioError, match=r"file/demo/song: cannot be written to \(.*\); choose another folder"):
        run_demo(short_demo / "file", echo=lambda _: None)


def test_report(tmp_path) -> None:
    before = {"drums": -4.0, "bass": -7.5, "other": -3.0, "vocals": -2.0}
    after = {"drums": 8.0, "bass": 6.25, "other": 3.0, "vocals": -2.5}
    text = report(Result(before, after, 31.04, 24.0, 3.0, [tmp_path / "drums.wav"]))
    assert text.splitlines() == [
        "SDR in dB     mixture   separated   gained",
        "drums           -4.00        8.00   +12.00",
        "bass            -7.50        6.25   +13.75",
        "other           -3.00        3.00    +6.00",
        "vocals          -2.00       -2.50    -0.50",
        "The stems sum to the mixture at 31.0 dB SNR.",
        "24.0 s of music in 3.00 s: 8.0 times as fast as it plays.",
        f"Written to {tmp_path}",
    ]


def test_spectrogram_shows_a_sine_where_it_is() -> None:
    wav = np.sin(2 * np.pi * 3000 / SAMPLE_RATE * np.arange(SAMPLE_RATE)) * np.ones((2, 1))
    picture = run.spectrogram(wav)
    peaks = picture.argmax(axis=0) * SAMPLE_RATE / 2048
    assert np.abs(peaks - 3000).max() < 22
    assert picture.max() == pytest.approx(-6, abs=1.5)
