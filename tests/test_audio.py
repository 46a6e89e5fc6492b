"""Reading what people have, refusing what is broken, and writing upstream's samples."""

from __future__ import annotations

import os
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from files import BAD, float_wav, music, song, wav_bytes
from hypothesis import given
from hypothesis import strategies as st

from demucs_np import AudioError, UsageError, audio
from demucs_np.audio import ArraySource, Encoding, Spool, source
from demucs_np.errors import AudioWarning
from demucs_np.kernels.resample import resample


def read(path: Path, samplerate: int = 1000, channels: int = 2) -> np.ndarray:
    with audio.open_track(path) as track:
        return np.concatenate(list(audio.read_blocks(track, samplerate, channels)), axis=1)


@pytest.fixture
def no_ffmpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg", "aiff"])
def test_reads_what_libsndfile_knows(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"söng with spaces.{ending}"
    soundfile.write(path, music(1500).T, 8000)
    np.testing.assert_allclose(read(path, 8000), music(1500), rtol=0, atol=0.2 if ending == "ogg" else 4e-5)


def test_reads_mp3(tmp_path: Path) -> None:
    path = tmp_path / "song.mp3"
    soundfile.write(path, music(16000).T, 16000)
    wav = read(path, 16000)
    assert wav.shape == (2, 16000)
    assert np.abs(wav - music(16000)).mean() < 0.06


def test_converts_channels_then_rate(tmp_path: Path) -> None:
    path = song(tmp_path / "song.wav", 3000, channels=3, samplerate=1500)
    assert np.array_equal(read(path), resample(music(3000, 3)[:2], 1500, 1000))
    mono = read(path, channels=1)
    np.testing.assert_allclose(mono, resample(music(3000, 3).mean(axis=0, keepdims=True), 1500, 1000), rtol=0, atol=1e-7)


@pytest.mark.parametrize("shape", [(2, 5), (5, 2), (1, 4), (4, 1), (3, 3), (2, 0), (0, 2), (64, 65)])
@pytest.mark.parametrize("kind", ["<f4", "<i2"])
def test_frames_and_channels_change_places(shape: tuple[int, int], kind: str) -> None:
    x = (100 * np.random.default_rng(0).standard_normal(shape)).astype(kind)
    for form in (x, np.asfortranarray(x), np.repeat(x, 2, axis=1)[:, ::2]):
        found = audio.turned(form)
        assert np.array_equal(found, x.T)
        assert found.dtype == x.dtype
        assert found.flags.c_contiguous


def test_blocks_make_no_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = song(tmp_path / "song.wav", 5000, samplerate=1300)
    whole = read(path)
    monkeypatch.setattr(source, "BLOCK", 300)
    assert np.array_equal(read(path), whole)


def test_channels() -> None:
    wav = music(10, 4)
    assert np.array_equal(audio.convert_channels(wav, 4), wav)
    assert np.array_equal(audio.convert_channels(wav, 2), wav[:2])
    assert np.array_equal(audio.convert_channels(wav[:1], 3), wav[[0, 0, 0]])
    np.testing.assert_allclose(audio.convert_channels(wav, 1), wav.mean(axis=0, keepdims=True), rtol=1e-6)
    with pytest.raises(AudioError, match=r"song\.wav: has 2 channels, but the model takes 4"):
        audio.convert_channels(wav[:2], 4, "song.wav")


@pytest.mark.usefixtures("no_ffmpeg")
@pytest.mark.parametrize("name", BAD)
def test_broken_files(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(BAD[name][0])
    with pytest.raises(AudioError, match=BAD[name][1]) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"song\.wav: cannot be read \(no such file or directory\); if the path contains spaces"):
        read(tmp_path / "song.wav")
    with pytest.raises(AudioError, match="is a folder, not an audio file"):
        read(tmp_path)
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(AudioError, match="cannot be read"):
        read(tmp_path / "file" / "song.wav")


@pytest.mark.parametrize(("value", "text"), [(np.nan, "nan"), (np.inf, "inf"), (-np.inf, "-inf")])
def test_samples_that_are_not_finite(tmp_path: Path, value: float, text: str) -> None:
    with pytest.raises(AudioError, match=rf"sample 101 \(0\.101 s\) of channel 1 is {text}; repair the file"):
        read(float_wav(tmp_path / "bad.wav", 0.5, value, 0.5))


def test_a_file_that_ends_early_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    path = tmp_path / "cut.wav"
    path.write_bytes(wav_bytes()[:-200])
    with pytest.warns(AudioWarning, match=r"ends early: its header says 0\.5 s\); the 0\.4 s that can be decoded are kept"):
        assert read(path).shape == (2, 400)


@given(st.lists(st.floats(-1.5, 1.5, width=32), min_size=1, max_size=40))
def test_pcm_is_cut_toward_zero(values: list[float]) -> None:
    wav = np.array([values], np.float32)
    for bits in (16, 24):
        scale = 2 ** (bits - 1) - 1
        expected = [int(np.float32(min(max(value, -1.0), 1.0)) * np.float32(scale)) for value in values]
        assert audio.to_pcm(wav, bits)[:, 0].tolist() == expected
    assert np.array_equal(audio.to_pcm(wav, 32)[:, 0], wav[0].clip(-1, 1))


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(("form", "bits"), [("wav", 16), ("wav", 24), ("wav", 32), ("flac", 16), ("flac", 24)])
def test_written_samples_come_back(tmp_path: Path, form: str, bits: int, channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "BLOCK", 200)
    wav = 2.5 * music(777, channels)
    path = tmp_path / f"stem.{form}"
    audio.write(path, ArraySource(wav), 44100, Encoding(form, bits), clip="none")  # type: ignore[arg-type]
    assert soundfile.info(path).subtype == ("FLOAT" if bits == 32 else f"PCM_{bits}")
    frames, rate = soundfile.read(path, dtype="float32" if bits == 32 else "int32", always_2d=True)
    assert rate == 44100
    expected = audio.to_pcm(wav, bits)
    assert np.array_equal(frames, expected if bits == 32 else expected.astype(np.int32) << (32 - bits))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_wav_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "stem.wav"
    audio.write(path, ArraySource(music(3, 1)), 44100, Encoding("wav", 24))
    data = path.read_bytes()
    assert len(data) % 2 == 0  # RIFF pads chunks to an even length
    assert struct.unpack("<I", data[4:8])[0] == len(data) - 8
    audio.write(path, ArraySource(music(3, 1)[:, :0]), 44100)
    assert soundfile.info(path).frames == 0


@pytest.mark.parametrize(("bitrate", "samplerate"), [(320, 44100), (192, 44100), (64, 44100), (128, 22050)])
def test_mp3_has_the_bit_rate_that_was_asked_for(tmp_path: Path, bitrate: int, samplerate: int) -> None:
    path, seconds = tmp_path / "stem.mp3", 8
    wav = music(seconds * samplerate)
    audio.write(path, ArraySource(wav), samplerate, Encoding("mp3", 16, bitrate))
    assert path.stat().st_size * 8 / seconds / 1000 == pytest.approx(bitrate, rel=0.02)
    frames, _ = soundfile.read(path, dtype="float32")
    assert np.corrcoef(frames[:, 0], wav[0])[0, 1] > 0.95  # with libsndfile's int16 path it is 0.5


def test_clip_modes() -> None:
    wav = np.array([[0.5, -2.0, 1.0]], np.float32)
    assert np.array_equal(audio.prevent_clip(wav, "rescale", 2.0), wav / np.float32(2.02))
    assert np.array_equal(audio.prevent_clip(wav / 4, "rescale", 0.5), wav / 4)
    assert np.array_equal(audio.prevent_clip(wav, "clamp", None), np.array([[0.5, -0.99, 0.99]], np.float32))
    np.testing.assert_allclose(audio.prevent_clip(wav, "tanh", None), np.tanh(wav.astype(float)), rtol=1e-6)
    assert audio.prevent_clip(wav, "none", None) is wav


def test_rescale_uses_the_peak_of_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "BLOCK", 100)
    wav = music(1000)
    wav[0, 950] = -3
    audio.write(tmp_path / "stem.wav", ArraySource(wav), 1000, Encoding("wav", 32))
    frames, _ = soundfile.read(tmp_path / "stem.wav", dtype="float32")
    assert np.array_equal(frames.T, wav / np.float32(3.03))


@pytest.mark.parametrize("form", ["wav", "flac", "mp3"])
def test_failed_writes_leave_nothing(tmp_path: Path, form: str) -> None:
    class Broken(ArraySource):
        def read(self, start: int, stop: int) -> np.ndarray:
            if start > 0:
                raise KeyboardInterrupt
            return super().read(start, stop)

    path = tmp_path / f"stem.{form}"
    path.write_text("what was there before")
    with pytest.raises(KeyboardInterrupt):
        audio.write(path, Broken(music(audio.BLOCK + 1)), 44100, Encoding(form), peak=1)  # type: ignore[arg-type]
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert path.read_text() == "what was there before"


@pytest.mark.parametrize("form", ["wav", "flac", "mp3"])
def test_unwritable_places(tmp_path: Path, form: str) -> None:
    with pytest.raises(AudioError, match=r"stem\.\w+: cannot be written \(.+\); choose another folder"):
        audio.write(tmp_path / "missing" / f"stem.{form}", ArraySource(music(10)), 44100, Encoding(form))  # type: ignore[arg-type]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="/dev/full is missing")
@pytest.mark.parametrize("form", ["wav", "flac"])
def test_full_disk(tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["demucs_np.audio.write"].secrets, "token_hex", lambda _: "fixed")
    (tmp_path / ".demucs-np-fixed.part").symlink_to("/dev/full")
    with pytest.raises(AudioError, match="cannot be written"):
        audio.write(tmp_path / f"stem.{form}", ArraySource(music(100_000)), 44100, Encoding(form))  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bits", [16, 24, 32])
def test_a_wav_that_riff_cannot_hold_is_rf64(tmp_path: Path, bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    wav = music(1001, 1)
    size = 1001 * bits // 8
    for limit, form in ((size + size % 2 + 4 + 24 + 8 + 12 * (bits == 32), "WAV"), (size, "RF64")):
        monkeypatch.setattr(audio.wav, "LIMIT", limit)
        audio.write(tmp_path / "stem.wav", ArraySource(wav), 44100, Encoding("wav", bits))
        data = (tmp_path / "stem.wav").read_bytes()
        assert data[:4] == (b"RIFF" if form == "WAV" else b"RF64")
        (tmp_path / "stem.wav").write_bytes(data.replace(limit.to_bytes(4, "little"), b"\xff" * 4) if form == "RF64" else data)
        assert soundfile.info(tmp_path / "stem.wav").format == form
        frames, rate = soundfile.read(tmp_path / "stem.wav", dtype="float32")
        assert rate == 44100
        np.testing.assert_allclose(frames, wav[0], rtol=0, atol=2 ** (2 - min(bits, 24)))


def test_header_of_8_gb() -> None:
    header = audio.wav.wav_header(2, 2**31, 44100, 16)
    assert header[:20] == b"RF64\xff\xff\xff\xffWAVEds64\x1c\0\0\0"
    total, size, samples, table = struct.unpack_from("<QQQI", header, 20)
    assert (total, size, samples, table) == (len(header) + 2**33 - 8, 2**33, 2**31, 0)
    assert header[-4:] == b"\xff" * 4


@pytest.mark.parametrize(
    ("values", "text"),
    [(("ogg",), "cannot write .ogg"), (("wav", 8), "8 bits"), (("flac", 32), "32 bits"), (("mp3", 16, 500), "bit rate of 500")],
)
def test_encodings_that_do_not_exist(values: tuple[object, ...], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        Encoding(*values)  # type: ignore[arg-type]


def test_spool(tmp_path: Path) -> None:
    wav = music(1000)
    with Spool(2, tmp_path) as spool:
        for start in range(0, 1000, 300):
            spool.append(wav[:, start : start + 300])
        spool.append(wav[:, :0])
        assert spool.shape == (2, 1000)
        assert spool.peak == np.abs(wav).max()
        assert np.array_equal(spool.read(0, 1000), wav)
        assert np.array_equal(spool.read(299, 650), wav[:, 299:650])
        assert spool.read(5, 5).shape == (2, 0)
        assert not [name for name in tmp_path.iterdir() if os.name == "posix"]  # it has no name
