"""A sample of `generated_files.py`, and what it has found."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from files import music
from generated_files import Case, cases, outcome
from test_decoders import decode, encode, read

from demucs_np import AudioError

pytestmark = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="the program ffmpeg is missing")


@pytest.mark.parametrize("part", range(4))
def test_sample(tmp_path: Path, part: int) -> None:
    sample = list(cases())[7 * part :: 28]
    found = []
    for case in sample:
        path = case.make(tmp_path)
        if path is not None:
            found.append((*outcome(case, path), case))
            path.unlink()
    assert len(found) > len(sample) // 2  # encoders that are not installed make none
    assert not [what for what in found if what[0] == "WRONG"]


@pytest.mark.parametrize(("codec", "channels"), [*(("libvorbis", count) for count in range(3, 9)), ("libopus", 6), ("libopus", 8)])
def test_channels_of_films_come_in_the_order_of_wav(tmp_path: Path, codec: str, channels: int) -> None:
    path = encode(tmp_path / "song.ogg", 48000, channels, "-c:a", codec)
    wav, _ = read(path)
    expected = decode(path, channels)
    count = min(wav.shape[1], expected.shape[1])
    assert np.abs(wav[:, :count] - expected[:, :count]).max() < 2e-3


@pytest.mark.parametrize("ending", ["au", "snd"])
def test_no_name_makes_samples_of_what_has_no_header(tmp_path: Path, ending: str) -> None:
    """libsndfile takes some endings for formats without one."""
    path = tmp_path / f"song.{ending}"
    path.write_bytes(b"these are words\n" * 1000)
    with pytest.raises(AudioError):
        read(path)


@pytest.mark.parametrize("junk", [b"", b"TAG" + bytes(125), b"123456", b"x" * 3001], ids=["none", "tag", "few", "letters"])
@pytest.mark.parametrize(
    ("ending", "codec"),
    [("w64", "pcm_s16le"), ("w64", "pcm_s24le"), ("w64", "pcm_f32le"), ("wav", "pcm_s16le"), ("wav", "pcm_f32le"), ("rf64", "pcm_s16le"),
     ("aiff", "pcm_s16be"), ("aiff", "pcm_f32be"), ("caf", "pcm_s16be"), ("au", "pcm_s16be")],
)  # fmt: skip
def test_bytes_behind_the_end_are_no_samples(tmp_path: Path, ending: str, codec: str, junk: bytes) -> None:
    """Held to ffmpeg's decode of the file without them: ffmpeg itself refuses such Wave64 files, and reads on in AU files."""
    rf64 = ["-rf64", "always"] if ending == "rf64" else []
    path = encode(tmp_path / f"song.{ending.replace('rf64', 'wav')}", 44100, 2, "-c:a", codec, *rf64)
    expected = decode(path, 2)
    path.write_bytes(path.read_bytes() + junk)
    wav, _ = read(path)
    assert np.array_equal(wav, expected)


def test_an_mp3_that_begins_with_the_rest_of_a_frame(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "song.wav", music(100_000).T, 44100)
    path = encode(tmp_path / "song.mp3", 44100, 2, "-q:a", "2", seconds=3.0)
    path.write_bytes(path.read_bytes()[100:])
    wav, _ = read(path)
    assert abs(wav.shape[1] - decode(path, 2).shape[1]) <= 2304


def test_a_case_says_what_it_is() -> None:
    assert len({(case.encoder, case.rate, case.channels, case.damage) for case in cases()}) == len(list(cases())) > 200
    assert Case("au", 44100, 2, "none") in list(cases())
