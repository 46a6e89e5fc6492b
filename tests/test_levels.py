"""Stems that fit back together: at their own levels, at the track's rate and length, and a part of it as in the whole."""

from __future__ import annotations

import json
import shutil
import subprocess
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from fakes import SOURCES, FakeModel
from files import music

from demucs_np import AudioError, BagOfModels, ModelError, Separator, UsageError, apply_model, audio
from demucs_np.audio import Encoding, tags
from demucs_np.audio.levels import told_changes
from demucs_np.errors import AudioWarning
from demucs_np.kernels.resample import resample
from demucs_np.models.bag import mean_of
from demucs_np.weights.resolve import resolve

MODES: tuple[Any, ...] = ("rescale", "common", "clamp", "tanh", "none")
STEPS = {("wav", 16): 2**-15, ("wav", 24): 2**-23, ("wav", 32): 0.0, ("flac", 16): 2**-15, ("flac", 24): 2**-23}


def pcm_song(path: Path, samples: int = 1500, rate: int = 1000, bits: int = 16) -> np.ndarray:
    """A file of integers, and what it holds: (samples, channels)."""
    soundfile.write(path, music(samples).T, rate, subtype=f"PCM_{bits}")
    return soundfile.read(path)[0]  # type: ignore[no-any-return]


def separate(path: Path, folder: Path, sep: Separator, **options: Any) -> tuple[dict[str, np.ndarray], list[str]]:
    """Stem -> (samples, channels) float64, and the notes."""
    notes: list[str] = []
    written = sep.separate_to_files(path, folder, note=notes.append, **options)
    return {name: soundfile.read(file)[0] for name, file in written.items()}, notes


@pytest.mark.parametrize("clip", MODES)
@pytest.mark.parametrize(("form", "bits"), [*STEPS, ("mp3", 16)])
@pytest.mark.parametrize("gain", [0.1, 0.6])  # nothing is too loud; much is
def test_files_add_up_to_the_track(tmp_path: Path, form: Any, bits: int, clip: Any, gain: float) -> None:
    rate = 16000 if form == "mp3" else 1000
    track = pcm_song(tmp_path / "song.wav", 4000 if form == "mp3" else 1500, rate, bits=16 if form == "mp3" else min(bits, 24))
    sep = Separator(FakeModel(samplerate=rate, gain=gain))
    stems, notes = separate(tmp_path / "song.wav", tmp_path, sep, encoding=Encoding(form, bits), clip=clip, residual=True)
    assert list(stems) == [*SOURCES, "residual"]
    assert bool(notes) is (gain == 0.6 or clip == "tanh")
    factor = 1.0
    if clip == "common" and gain == 0.6:  # all by one gain, that of the loudest
        plain = sep.separate_audio_file(tmp_path / "song.wav")[1]
        peaks = [np.abs(stem).max() for stem in (*plain.values(), track.T - sum(stem.astype(float) for stem in plain.values()))]
        factor = 1 / (1.01 * max(peaks))
    total = sum(stems.values())
    assert isinstance(total, np.ndarray)
    cut = any("residual is" in note for note in notes)
    assert cut <= (clip != "common" and gain == 0.6 and bits < 32)
    if form == "mp3" and not cut:
        count = min(len(total), len(track))
        assert np.sqrt(np.mean((total[:count] - factor * track[:count]) ** 2)) < 0.03  # the sum of five lossy files; 0.28 is its own
    elif not cut:
        step = STEPS[form, bits] if bits < 32 else np.spacing(np.abs(np.stack(list(stems.values()))).max().astype(np.float32))
        assert np.abs(total - factor * track).max() <= 0.6 * step  # half a step, and the gain in float32
    if factor == 1 and not cut and bits < 32 and form != "mp3":
        assert np.array_equal(total, track)  # of a track of as many bits, every bit


@pytest.mark.parametrize("clip", MODES)
def test_without_a_residual_the_step_of_each_stem_adds(tmp_path: Path, clip: Any) -> None:
    """What is told of levels is true: stems that nothing was told of add up to what the model made, to one step each."""
    pcm_song(tmp_path / "song.wav")
    sep = Separator(FakeModel(gain=0.15))
    plain = sep.separate_audio_file(tmp_path / "song.wav")[1]
    stems, notes = separate(tmp_path / "song.wav", tmp_path, sep, clip=clip)
    assert bool(notes) is (clip == "tanh")
    for name, stem in plain.items():
        expected = np.tanh(stem) if clip == "tanh" else stem
        assert np.abs(stems[name] - expected.T).max() <= 2 * 2**-15  # cut toward zero, and 32767 for 1


def test_changes_are_told(tmp_path: Path) -> None:
    peaks = {"drums": 2.0, "bass": 0.9, "vocals": 1.05}
    assert told_changes(peaks, "rescale") == (
        "against clipping, drums (6.1 dB), vocals (0.5 dB) were made quieter, each by itself; --clip-mode common gives all stems one gain, "
        "so that they still add up"
    )
    assert "all stems (6.1 dB) were made quieter by one gain; --clip-mode none keeps" in told_changes(peaks, "common")
    assert "drums (6.1 dB), vocals (0.5 dB) had their peaks cut; --clip-mode common" in told_changes(peaks, "clamp")
    assert "drums (6.3 dB), bass (2.0 dB), vocals (2.6 dB) were bent" in told_changes(peaks, "tanh")
    assert "drums (6.0 dB), vocals (0.4 dB) had what is above full scale cut" in told_changes(peaks, "none")
    assert told_changes({"drums": 0.9, "bass": 0.0}, "rescale") == told_changes({}, "common") == ""
    assert "less than 0.1 dB" in told_changes({"bass": 1.0}, "none") + told_changes({"bass": 0.991}, "clamp")
    pcm_song(tmp_path / "song.wav")
    with pytest.warns(AudioWarning, match=r"song\.wav: against clipping, all stems \(7\.0 dB\) were made quieter by one gain"):
        Separator(FakeModel()).separate_to_files(tmp_path / "song.wav", tmp_path, clip="common")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Separator(FakeModel(gain=0.1)).separate_to_files(tmp_path / "song.wav", tmp_path, clip="common")


@pytest.mark.parametrize(("of_track", "rate"), [(1300, "original"), (1000, "original"), (1300, 1900), (1300, 1300), (48000, "original")])
def test_rate_and_length_of_the_files(tmp_path: Path, of_track: int, rate: Any) -> None:
    model_rate = 44100 if of_track == 48000 else 1000
    samples = 2501 if of_track < 48000 else 60001
    track = pcm_song(tmp_path / "song.wav", samples, of_track)
    sep = Separator(FakeModel(samplerate=model_rate, gain=0.1))
    stems, _ = separate(tmp_path / "song.wav", tmp_path, sep, rate=rate, residual=True, encoding=Encoding("wav", 24))
    plain = sep.separate_audio_file(tmp_path / "song.wav")[1]
    expected_rate = of_track if rate == "original" else rate
    count = samples if expected_rate == of_track else samples * rate // of_track
    for name, stem in plain.items():
        info = soundfile.info(tmp_path / "song" / f"{name}.wav")
        assert (info.samplerate, info.frames) == (expected_rate, count)
        expected = resample(stem, model_rate, expected_rate, fine=True)
        np.testing.assert_allclose(stems[name][: expected.shape[1]], expected.T[:count], rtol=0, atol=2**-22)
    whole = track if expected_rate == of_track else resample(track.T.astype(np.float32), of_track, expected_rate, fine=True).T
    assert np.abs(sum(stems.values()) - whole).max() <= 2**-23


@pytest.mark.parametrize("kind", ["hdemucs", "htdemucs", "demucs"])
@pytest.mark.parametrize("shifts", [0, 2])
@pytest.mark.parametrize("rate", [None, "original", 1777])
def test_a_part_is_what_the_whole_has_there(tmp_path: Path, kind: str, shifts: int, rate: Any) -> None:
    pcm_song(tmp_path / "song.wav", 20_000, 1300)
    model = FakeModel(kind, gain=0.1)
    sep = Separator(model, shifts=shifts)
    options: dict[str, Any] = {"rate": rate, "encoding": Encoding("wav", 32)}
    whole, _ = separate(tmp_path / "song.wav", tmp_path / "whole", sep, **options)
    hz = {None: 1000, "original": 1300}.get(rate, rate)
    for start, duration in ((0.0, 1.0), (6.1234, 2.5), (13.0, None), (14.9, 60.0)):
        model.calls.clear()
        part, _ = separate(tmp_path / "song.wav", tmp_path / "part", sep, start=start, duration=duration, residual=True, **options)
        if duration == 2.5:
            assert sum(shape[-1] for shape in model.calls) < 9 * 1000 * max(1, shifts)  # not all 15 s
        first = round(start * hz)
        for name in SOURCES:
            expected = whole[name][first : None if duration is None else round((start + duration) * hz)]
            assert np.array_equal(part[name], expected), (name, start)


def test_parts_that_are_not_there(tmp_path: Path) -> None:
    pcm_song(tmp_path / "song.wav")
    sep = Separator(FakeModel())
    for options, error, text in [
        ({"start": 1.5}, AudioError, r"song\.wav: is 1\.50 s long; choose a start before its end"),
        ({"start": 1.0, "duration": 1e-5}, AudioError, "has no samples at 1000 Hz; choose a longer one"),
        ({"start": -1.0}, UsageError, "the start is -1.0 seconds, but must be 0 or more"),
        ({"start": float("nan")}, UsageError, "the start is nan"),
        ({"duration": 0.0}, UsageError, "the duration is 0.0 seconds, but must be above 0"),
        ({"rate": 999}, UsageError, "the rate of the files is 999, but must be 'original' or 1000 to 768000 Hz"),
        ({"rate": "mine"}, UsageError, "the rate of the files is 'mine'"),
    ]:
        with pytest.raises(error, match=text):
            sep.separate_to_files(tmp_path / "song.wav", tmp_path / "out", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


TAGS = {"title": "Tïtle: a song", "artist": "Ärtist", "album": "Album", "tracknumber": "3/12", "date": "1999", "genre": "Slow Jazz"}


@pytest.mark.parametrize("form", ["wav", "flac", "mp3"])
@pytest.mark.parametrize("source", ["flac", "mp3", "m4a", "ogg", "wv"])
@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="the program ffmpeg is missing")
def test_tags_are_carried_over(tmp_path: Path, form: Any, source: str) -> None:
    soundfile.write(tmp_path / "plain.wav", music(8000).T, 16000)
    said = [part for name, text in TAGS.items() for part in ("-metadata", f"{name.replace('number', '')}={text}")]
    subprocess.run(["ffmpeg", "-v", "error", "-i", tmp_path / "plain.wav", *said, tmp_path / f"song.{source}"], check=True)
    sep = Separator(FakeModel(samplerate=16000, gain=0.1), stems=["bass"])
    (file,) = sep.separate_to_files(tmp_path / f"song.{source}", tmp_path, encoding=Encoding(form)).values()
    probe = ["ffprobe", "-v", "error", "-show_entries", "format_tags", "-of", "json", str(file)]
    found = json.loads(subprocess.run(probe, check=True, capture_output=True).stdout)["format"]["tags"]
    found = {{"track": "tracknumber"}.get(name.lower(), name.lower()): text for name, text in found.items() if name != "encoder"}
    assert found == {**TAGS, "title": "Tïtle: a song (bass)"}
    with audio.open_track(file) as written:
        assert written.tags == found
        assert sum(block.shape[1] for block in written.blocks()) == pytest.approx(8000, abs=2400)


def test_no_tags_no_bytes(tmp_path: Path) -> None:
    pcm_song(tmp_path / "song.wav")
    (file,) = Separator(FakeModel(gain=0.1), stems=["bass"]).separate_to_files(tmp_path / "song.wav", tmp_path).values()
    assert file.stat().st_size == 44 + 1500 * 4
    assert tags.of_stem({"artist": "A"}, "bass", "song") == {"artist": "A", "title": "song (bass)"}
    assert tags.clean({"title": " a\0b\n c ", "genre": " ", "comment": "x"}) == {"title": "a b c"}


def test_the_mean_of_models(tmp_path: Path) -> None:
    one, two = (BagOfModels([FakeModel(gain=gain), FakeModel(gain=3 * gain)], [[1, 1, 3, 1], [1, 0, 1, 1]]) for gain in (0.1, 0.2))  # type: ignore[list-item]
    both = mean_of([one, two])
    wav = music(1500)
    expected = (apply_model(one, wav) + apply_model(two, wav)) / 2
    np.testing.assert_allclose(apply_model(both, wav), expected, rtol=0, atol=1e-6)
    named = resolve("demo, demo")
    assert (named.folder, len(named.members), named.sources) == ("demo+demo", 2, resolve("demo").sources)
    assert len(named.load("numpy").models) == 2
    for name, text in [
        ("htdemucs,htdemucs_6s", "htdemucs has drums, bass, other, vocals but htdemucs_6s has .* the same stems can be averaged"),
        ("htdemucs,", "unknown model ''"),
        ("demo,htdemuc", "did you mean htdemucs"),
    ]:
        with pytest.raises(ModelError, match=text):
            resolve(name)
    with pytest.raises(ModelError, match="model 3 of the bag has sources"):
        mean_of([one, BagOfModels([FakeModel(sources=("a", "b"))])])  # type: ignore[list-item]


def test_a_constant_offset_is_in_every_stem_and_the_residual_makes_it_right(tmp_path: Path) -> None:
    """As upstream's stems have it: its mean is taken away before the model hears the track, and given back to each."""
    wav = (music(20_000) * 0.3 + np.float32(0.4)).astype(np.float32)
    soundfile.write(tmp_path / "song.wav", wav.T, 44100, subtype="FLOAT")
    stems, _ = separate(
        tmp_path / "song.wav", tmp_path, Separator("demo", shifts=0), residual=True, encoding=Encoding("wav", 32), clip="none"
    )
    assert all(abs(samples.mean() - 0.4) < 0.01 for name, samples in stems.items() if name != "residual")
    assert abs(stems["residual"].mean() + 3 * 0.4) < 0.05
    assert np.abs(sum(stems.values()) - wav.T).max() < 1e-6
