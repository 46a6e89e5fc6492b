"""The pipe: real processes with real ffmpeg, what it says of sound that cannot be, and what it leaves out when it is too slow."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from fakes import FakeModel
from files import music

from demucs_np import Stream, load_model
from demucs_np.separation.pipe import Feed, Pipe, Sound

SONG = Path(__file__).parents[1] / "demucs_np" / "demo" / "song.flac"
COMMAND = [sys.executable, "-m", "demucs_np", "stream", "-n", "demo"]
needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg on the PATH")


def feed(data: bytes, *options: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*COMMAND, *options], input=data, capture_output=True, check=False, timeout=120)


@needs_ffmpeg
def test_karaoke_of_a_file_that_ffmpeg_reads_at_real_time_speed(tmp_path: Path) -> None:
    sender = subprocess.Popen(["ffmpeg", "-v", "error", "-re", "-t", "4", "-i", str(SONG), "-f", "wav", "-"], stdout=subprocess.PIPE)
    run = subprocess.run(
        [*COMMAND, "--wav", "--mix", "drums=1,bass=1,other=1", "--hop", "1"], stdin=sender.stdout, capture_output=True, check=True
    )
    assert sender.stdout
    sender.stdout.close()
    assert sender.wait() == 0
    assert run.stderr.decode() == "2 channels at 44100 Hz (s16) in, a mix of drums, bass, other out, 1.5 s later\n"
    (tmp_path / "karaoke.wav").write_bytes(run.stdout)
    wav, rate = soundfile.read(tmp_path / "karaoke.wav", dtype="float32")
    assert (wav.shape, rate) == ((4 * 44100, 2), 44100)
    mix = soundfile.read(SONG, frames=4 * 44100, dtype="float32")[0]
    with Stream(load_model("demo"), hop=1) as stream:
        stems = [stream.push(mix.T), stream.flush()]
    expected = sum(np.concatenate([part[name] for part in stems], axis=1) for name in ("drums", "bass", "other"))
    assert np.abs(wav.T - np.clip(expected, -1, 1)).max() < 2 / 32768  # 16 bits, cut toward zero
    assert np.abs(wav - mix).max() > 0.02


@needs_ffmpeg
def test_a_listener_that_goes_ends_it_quietly() -> None:
    sender = subprocess.Popen(["ffmpeg", "-v", "quiet", "-i", str(SONG), "-f", "wav", "-"], stdout=subprocess.PIPE)
    run = subprocess.Popen([*COMMAND, "--wav", "--hop", "1", "-q"], stdin=sender.stdout, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert sender.stdout
    assert run.stdout
    assert run.stderr
    sender.stdout.close()
    assert len(run.stdout.read(1000)) == 1000
    run.stdout.close()
    assert (run.wait(60), run.stderr.read()) == (0, b"")
    run.stderr.close()
    sender.wait(60)


def test_ctrl_c_while_waiting_for_sound() -> None:
    run = subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert run.stdin
    assert run.stdout
    assert run.stderr
    assert b"later" in run.stderr.readline()
    time.sleep(0.2)
    run.send_signal(signal.SIGINT)
    assert (run.wait(20), run.stderr.read()) == (130, b"Interrupted.\n")
    for end in (run.stdin, run.stdout, run.stderr):
        end.close()


@pytest.mark.parametrize(
    ("data", "options", "status", "text"),
    [
        (b"\0" * 80003, [], 1, "standard input: ends inside a frame, with 3 of 8 bytes; is it really f32 with 2 channels?"),
        (b"", [], 1, "standard input: holds no samples"),
        (b"\0" * 8, [], 1, "the stream: has 1 samples at 44100 Hz, too few to be separated"),
        (b"\0" * 8000, ["--wav"], 1, "standard input: is not a WAV stream"),
        (b"RIFF\0\0\0\0WAVEfmt ", ["--wav"], 1, "standard input: the WAV stream ends inside its header"),
        (b"", ["--mix", "piano=1"], 2, 'the mix names "piano", which is not in this model: choose from drums'),
        (b"", ["--mix", "drums=x"], 2, '"drums=x" is not a part of a mix'),
        (b"", ["--mix", "drums=0"], 2, 'the mix "drums=0" is silence'),
        (b"", ["--rate", "9999999"], 1, "the stream: its sample rate is 9999999 Hz"),
        (b"", ["--hop", "0"], 2, "hop is 0.0"),
        (b"", ["--loudness", "1"], 2, '"1" is not a loudness'),
        (b"\0" * 80000 + np.array([0, np.nan], "<f4").tobytes(), [], 1, "the stream: sample 10000 (0.227 s) of channel 2 is nan"),
    ],
)
def test_what_cannot_be_is_one_line(data: bytes, options: list[str], status: int, text: str) -> None:
    run = feed(data, "-q", *options)
    assert run.returncode == status
    [line] = run.stderr.decode().splitlines()
    assert line.startswith(f"Error: {text}")


def test_what_is_too_late_is_skipped_with_a_cross_fade() -> None:
    model = FakeModel()
    sound = Sound(1000, 2, "f32")
    wav = music(8000)
    reading, writing = os.pipe()
    source = Feed(reading)
    source.allow(1 << 20)
    with os.fdopen(writing, "wb") as end:
        end.write(sound.encode(wav))
    while source.waiting < 8000 * sound.frame:
        time.sleep(0.01)
    out: list[bytes] = []
    told: list[str] = []
    Pipe(source, sound, Stream(model, stems=["bass"]), None, out.append, max_lag=1, tell=told.append).run()
    os.close(reading)
    assert len(b"".join(out)) == 50 * sound.frame  # of what came at once, the cross-fade to its end is left
    assert len(told) == 1
    assert told[0].endswith(f"skipped {7.95:.1f} s")
