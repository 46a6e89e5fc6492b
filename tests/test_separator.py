"""Separator: normalisation, the in-memory and the file-to-file path, two stems, names, and what remains after a failure."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from fakes import SOURCES, FakeModel
from files import BAD, float_wav, music, song

from demucs_np import AudioError, BagOfModels, Event, ModelError, Separator, UsageError, apply_model, audio
from demucs_np.audio import Encoding, source
from demucs_np.kernels.resample import resample
from demucs_np.separation import outputs
from demucs_np.separation.loudness import Moments
from demucs_np.separation.targets import output_paths

pytestmark = pytest.mark.filterwarnings("ignore:.*against clipping:demucs_np.errors.AudioWarning")  # FakeModel's stems are loud


def expected_stems(wav: np.ndarray, **options: object) -> np.ndarray:
    """As demucs.api: normalised by the mono mix, separated, undone."""
    mono = wav.astype(float).mean(axis=0)
    mean, std = mono.mean(), mono.std(ddof=1) + 1e-8
    mix = ((wav - np.float32(mean)) / np.float32(std)).astype(np.float32)
    return apply_model(FakeModel(), mix, **options) * std + mean  # type: ignore[arg-type]


def everything_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_file_and_array(tmp_path: Path) -> None:
    path = song(tmp_path / "song.wav", 1500)
    sep = Separator(FakeModel(), seed=3)
    origin, stems = sep.separate_audio_file(path)
    assert np.array_equal(origin, music(1500))
    assert tuple(stems) == SOURCES
    expected = expected_stems(music(1500), shifts=1, seed=3)
    np.testing.assert_allclose(np.stack(list(stems.values())), expected, rtol=0, atol=2e-6)
    for again in (sep.separate_audio_file(path)[1], sep.separate_array(music(1500), 1000)[1]):
        assert all(np.array_equal(stems[name], again[name]) for name in SOURCES)


def test_options_reach_the_model() -> None:
    model = FakeModel()
    sep = Separator(model, shifts=0, overlap=0.5, segment=0.3, stems=["bass", "drums"])
    _, stems = sep.separate_array(music(1500), 1000)
    assert list(stems) == ["bass", "drums"]
    expected = expected_stems(music(1500), overlap=0.5, segment=0.3)
    np.testing.assert_allclose(stems["bass"], expected[1], rtol=0, atol=2e-6)
    assert {shape[-1] for shape in model.calls} == {300, 150}
    Separator(model, shifts=0, split=False).separate_array(music(1500), 1000)
    assert model.calls[-1] == (1, 2, 1500)


def test_arrays_of_other_rates_and_channels() -> None:
    origin, stems = Separator(FakeModel()).separate_array(music(3000, 1), 2000)
    assert np.array_equal(origin, resample(music(3000, 1), 2000, 1000)[[0, 0]])
    assert stems["bass"].shape == (2, 1500)
    origin, _ = Separator(FakeModel()).separate_array(music(3000, 6).astype(np.float64), 1000)
    assert np.array_equal(origin, music(3000, 6)[:2])


def test_silence_is_separated_into_silence() -> None:
    _, stems = Separator(FakeModel(), shifts=0).separate_array(np.zeros((2, 1000), np.float32), 1000)
    assert all(np.abs(stem).max() < 1e-8 for stem in stems.values())


@pytest.mark.parametrize(
    ("wav", "samplerate", "text"),
    [
        (np.zeros(100, np.float32), 1000, r"has shape \(100,\) of float32, but must be floats \(channels, samples\)"),
        (np.zeros((2, 100), np.int16), 1000, "of int16, but must be floats"),
        (np.zeros((2, 0), np.float32), 1000, "holds no samples"),
        (np.zeros((0, 2), np.float32), 1000, "holds no samples"),
        (np.zeros((44100, 2), np.float32), 1000, r"has shape \(44100, 2\), which is 44100 channels of 2 samples.*transpose it"),
        (np.zeros((40, 3), np.float32), 1000, r"which is 40 channels of 3 samples.*transpose it"),
        (np.zeros((2, 1), np.float32), 1000, "has 1 samples at 1000 Hz, too few"),
        (np.zeros((2, 100), np.float32), 0, "its sample rate is 0 Hz"),
        (np.zeros((2, 100), np.float32), 44.1, "its sample rate is 44.1 Hz"),
        (np.full((2, 100), np.nan, np.float32), 1000, "sample 0 .* of channel 1 is nan"),
        (np.full((2, 100), 1e39), 1000, "sample 0 .* of channel 1 is inf"),
    ],
)
def test_arrays_that_cannot_be_separated(wav: np.ndarray, samplerate: float, text: str) -> None:
    with np.errstate(over="ignore"), pytest.raises(AudioError, match=text):
        Separator(FakeModel()).separate_array(wav, samplerate)  # type: ignore[arg-type]


@pytest.mark.parametrize("block", [audio.BLOCK, 333])
def test_files_hold_what_the_arrays_hold(tmp_path: Path, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "BLOCK", block)
    path = song(tmp_path / "song.wav", 2500, samplerate=1300)
    sep = Separator(FakeModel(), shifts=2)
    written = sep.separate_to_files(path, tmp_path / "out", encoding=Encoding("wav", 32))
    _, stems = sep.separate_audio_file(path)
    assert everything_below(tmp_path / "out") == {"song"} | {f"song/{name}.wav" for name in SOURCES}
    assert written == {name: tmp_path / "out" / "song" / f"{name}.wav" for name in SOURCES}
    for name, stem in stems.items():
        frames, rate = soundfile.read(written[name], dtype="float32")
        assert rate == 1000
        peak = max(1, 1.01 * np.abs(stem).max())
        assert peak > 1 or name == "drums"
        np.testing.assert_allclose(frames.T, stem / peak, rtol=0, atol=3e-7)


@pytest.mark.parametrize(("method", "names"), [("add", ["bass", "no_bass"]), ("minus", ["bass", "minus_bass"]), ("none", ["bass"])])
def test_two_stems(tmp_path: Path, method: outputs.OtherMethod, names: list[str]) -> None:
    path = song(tmp_path / "song.wav")
    bag = BagOfModels([FakeModel(), FakeModel(gain=2)], [[0, 1, 0, 0], [1, 0, 1, 1]])
    sep = Separator(bag)
    origin, stems = sep.separate_audio_file(path)
    for model in bag.models:
        model.calls.clear()  # type: ignore[attr-defined]
    written = sep.separate_to_files(
        path, tmp_path / "out", two_stems="bass", other_method=method, encoding=Encoding("wav", 32), clip="none"
    )
    assert list(written) == names
    assert everything_below(tmp_path / "out" / "song") == {f"{name}.wav" for name in names}
    expected = {"bass": stems["bass"], "minus_bass": origin - stems["bass"], "no_bass": stems["drums"] + stems["other"] + stems["vocals"]}
    for name, file in written.items():
        frames, _ = soundfile.read(file, dtype="float32")
        np.testing.assert_array_equal(frames.T, expected[name].clip(-1, 1))
    assert bool(bag.models[1].calls) is (method == "add")  # type: ignore[attr-defined]


def test_stem_selection_writes_and_runs_only_these(tmp_path: Path) -> None:
    sep = Separator(FakeModel(), stems=["vocals"])
    sep.separate_to_files(song(tmp_path / "song.wav"), tmp_path / "out", encoding=Encoding("flac"))
    assert everything_below(tmp_path / "out") == {"song", "song/vocals.flac"}
    with pytest.raises(UsageError, match="either choose the stems"):
        sep.separate_to_files(tmp_path / "song.wav", tmp_path / "out", two_stems="bass")
    with pytest.raises(UsageError, match='stem "piano" is not in this model'):
        Separator(FakeModel()).separate_to_files(tmp_path / "song.wav", tmp_path / "out", two_stems="piano")


def test_progress_tells_all_stages(tmp_path: Path) -> None:
    events: list[Event] = []
    Separator(FakeModel(), progress=events.append).separate_to_files(song(tmp_path / "song.wav"), tmp_path / "out")
    assert list(dict.fromkeys(event.stage for event in events)) == ["read", "separate", "write"]
    for stage in ("read", "separate", "write"):
        done = [event.done for event in events if event.stage == stage]
        assert done == sorted(done)
        assert done[0] == 0
        assert done[-1] == max(event.total for event in events if event.stage == stage)


@pytest.mark.parametrize("stage", ["read", "separate", "write"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_stopping_at_any_stage_leaves_nothing(tmp_path: Path, stage: str, error: type[BaseException]) -> None:
    def stop(event: Event) -> None:
        if event.stage == stage and event.done >= 1 and event.done < event.total + (stage == "read"):
            raise error

    with pytest.raises(error):
        Separator(FakeModel(), progress=stop).separate_to_files(song(tmp_path / "song.wav"), tmp_path / "a" / "b")
    left = everything_below(tmp_path) - {"song.wav"}
    # a stem that was complete stays, as it does when the next one fails
    assert left == ({"a", "a/b", "a/b/song", "a/b/song/drums.wav"} if stage == "write" else set())


@pytest.mark.parametrize("name", BAD)
def test_broken_files_leave_nothing(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    (tmp_path / name).write_bytes(BAD[name][0])
    with pytest.raises(AudioError, match=BAD[name][1]):
        Separator(FakeModel()).separate_to_files(tmp_path / name, tmp_path / "out")
    assert everything_below(tmp_path) == {name}


@pytest.mark.parametrize(("special", "text"), [((0.5, np.nan), "sample 101"), ((-np.inf,), "sample 100 .* is -inf")])
def test_bad_samples(tmp_path: Path, special: tuple[float, ...], text: str) -> None:
    for method in (Separator(FakeModel()).separate_audio_file, lambda p: Separator(FakeModel()).separate_to_files(p, tmp_path / "out")):
        with pytest.raises(AudioError, match=text):
            method(float_wav(tmp_path / "bad.wav", *special))
    assert everything_below(tmp_path) == {"bad.wav"}


def test_one_sample(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "one.wav", np.zeros(1), 1000)
    with pytest.raises(AudioError, match=r"one\.wav: has 1 samples at 1000 Hz, too few to be separated"):
        Separator(FakeModel()).separate_to_files(tmp_path / "one.wav", tmp_path / "out")
    assert everything_below(tmp_path) == {"one.wav"}


def test_unwritable_folder(tmp_path: Path) -> None:
    path = song(tmp_path / "song.wav")
    (tmp_path / "file").write_text("")
    with pytest.raises(AudioError, match=r"file/out: cannot be written to \(not a directory\); choose another folder"):
        Separator(FakeModel()).separate_to_files(path, tmp_path / "file" / "out")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="needs a user whom permissions hold back")
def test_folder_without_permission(tmp_path: Path) -> None:
    path = song(tmp_path / "song.wav")
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(AudioError, match="permission denied"):
        Separator(FakeModel()).separate_to_files(path, tmp_path / "locked")


def test_model_that_makes_nan(tmp_path: Path) -> None:
    path = song(tmp_path / "song.wav")
    with pytest.raises(ModelError, match=r"song\.wav: the model made NaN or infinite samples of it"):
        Separator(FakeModel(gain=float("nan"))).separate_to_files(path, tmp_path / "out")
    assert everything_below(tmp_path) == {"song.wav"}


def test_names_are_loaded_when_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    import demucs_np.weights

    asked: list[object] = []
    monkeypatch.setattr(demucs_np.weights, "load_model", lambda name, memory: asked.append(name) or FakeModel())
    sep = Separator("htdemucs")
    assert not asked
    assert (sep.samplerate, sep.audio_channels) == (1000, 2)
    assert asked == ["htdemucs"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"threads": 0}, "threads is 0, but must be 1 or more"),
        ({"threads": 1.5}, "threads is 1.5, but must be a whole number"),
        ({"shifts": -1}, "shifts is -1, but must be 0 or more"),
        ({"shifts": float("nan")}, "shifts is nan, but must be a whole number"),
        ({"overlap": -0.1}, "overlap is -0.1, but must be at least 0 and below 1"),
        ({"overlap": float("nan")}, "overlap is nan"),
        ({"segment": 0}, "segment is 0 seconds, but must be above 0"),
        ({"memory": "much"}, '"much" is no size of memory'),
        ({"memory": 0}, "memory is 0, but must be a number of bytes"),
        ({"memory": float("nan")}, "memory is nan"),
    ],
)
def test_options_that_make_no_sense_are_refused_at_once(options: dict[str, object], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        Separator("htdemucs", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("track", [0, -1, 1.5])
def test_tracks_are_counted_from_one(tmp_path: Path, track: int) -> None:
    with pytest.raises(UsageError, match=f"track is {track}, but must be"):
        Separator(FakeModel()).separate_audio_file(song(tmp_path / "song.wav"), track=track)


def test_output_paths() -> None:
    def names(track: str, filename: str = "{track}/{stem}.{ext}") -> str:
        return str(output_paths(Path(track), Path("out"), filename, ["bass"], "wav")["bass"])

    assert names("a/song.one.mp3") == "out/song.one/bass.wav"
    assert names("song") == "out/song/bass.wav"
    assert names(".hidden") == "out/.hidden/bass.wav"
    assert names("song.mp3", "{stem}/{track}_{trackext}.{ext}") == "out/bass/song_mp3.wav"
    for bad in ("{nothing}", "{", "{0}", "{track.what}"):
        with pytest.raises(UsageError, match="is not a name for the files"):
            names("song.mp3", bad)
    with pytest.raises(UsageError, match=r"put \{stem\} into it"):
        output_paths(Path("song.mp3"), Path("out"), "{track}.{ext}", ["bass", "drums"], "wav")
    with pytest.raises(UsageError, match="would be overwritten by its own stem"):
        output_paths(Path("out/bass.wav"), Path("out"), "{stem}.{ext}", ["bass"], "wav")


def test_moments_in_blocks() -> None:
    wav = music(1000) + 100
    moments = Moments()
    for start in range(0, 1000, 77):
        moments.update(wav[:, start : start + 77])
    mono = wav.astype(float).mean(axis=0)
    assert moments.mean == pytest.approx(mono.mean(), rel=1e-14)
    assert moments.std == pytest.approx(mono.std(ddof=1), rel=1e-12)


LONG = """
import resource, sys
import numpy as np, soundfile
sys.path.insert(0, sys.argv[1])
from fakes import FakeModel
from demucs_np import Separator
model = FakeModel("htdemucs", samplerate=44100, segment=2)
sep = Separator(model, shifts=1)
folder = sys.argv[2]
peaks = []
for seconds in (10, 300):
    with soundfile.SoundFile(f"{folder}/{seconds}.wav", "w", 44100, 2) as file:
        for _ in range(seconds):
            file.write(np.random.default_rng(0).uniform(-0.5, 0.5, (44100, 2)))
    sep.separate_to_files(f"{folder}/{seconds}.wav", folder)
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
print(peaks[1] - peaks[0])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux only")
def test_memory_does_not_grow_with_the_track(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", LONG, str(Path(__file__).parent), str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert float(run.stdout) < 40  # MB; five minutes of four stems are 423 MB
