"""The pipe: real processes with real ffmpeg, what it says of sound that cannot be, and what it leaves out when it is too slow."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO

import numpy as np
import pytest
import soundfile
from fakes import FakeModel, Straight
from files import music

from demucs_np import AudioError, Stream, load_model
from demucs_np.separation.pipe import Feed, Pipe, Sound, read_header

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
    assert run.stderr.decode() == "2 channels at 44100 Hz (s16) in; a mix of drums, bass, other out, 2 channels, 1.5 s later\n"
    (tmp_path / "karaoke.wav").write_bytes(run.stdout)
    wav, rate = soundfile.read(tmp_path / "karaoke.wav", dtype="float32")
    assert (wav.shape, rate) == ((4 * 44100, 2), 44100)
    mix = soundfile.read(SONG, frames=4 * 44100, dtype="float32")[0]
    with Stream(load_model("demo"), hop=1) as stream:
        stems = [stream.push(mix.T), stream.flush()]
    expected = sum(np.concatenate([part[name] for part in stems], axis=1) for name in ("drums", "bass", "other"))
    assert np.abs(wav.T - np.clip(expected, -1, 1)).max() < 2 / 32768  # 16 bits, cut toward zero
    assert np.abs(wav - mix).max() > 0.02


@pytest.mark.skipif(not (shutil.which("arecord") and shutil.which("aplay")), reason="needs arecord and aplay (alsa-utils) on the PATH")
def test_from_a_microphone_to_a_loudspeaker() -> None:
    """ALSA's null device is both."""
    command = (
        f"arecord -q -D null -f cd -t wav -d 2 | {shlex.join(COMMAND)} --wav -q --mix drums=1,bass=1,other=1 --hop 1 | aplay -q -D null"
    )
    run = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, check=False, timeout=60)
    assert (run.returncode, run.stdout, run.stderr) == (0, b"", b"")


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
        (b"", ["--mix", ""], 2, 'the mix names "", which is not in this model'),
        (b"", ["--stems", ""], 2, 'stem "" is not in this model'),
        (b"", ["--stems", "bass,piano"], 2, 'stem "piano" is not in this model: choose from drums'),
        (b"\0" * 5, [], 1, "standard input: ends inside a frame, with 5 of 8 bytes"),
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


def test_options_that_the_header_gives_are_refused() -> None:
    for option in (["--rate", "8000"], ["--channels", "2"], ["--format", "s16"]):
        run = feed(b"", "--wav", *option)
        assert run.returncode == 2
        assert b"--wav takes rate, channels and format from the header" in run.stderr


@pytest.mark.skipif(os.name == "nt", reason="needs a shell that closes descriptors")
@pytest.mark.parametrize(("closed", "side"), [("<&-", "input"), (">&-", "output")])
def test_ends_that_are_closed(closed: str, side: str) -> None:
    line = f"exec {shlex.join(COMMAND)} {closed}"
    run = subprocess.run(["sh", "-c", line], stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=60)
    assert run.returncode == 2
    assert run.stderr.decode().startswith(f"Error: standard {side} is closed: pipe ")
    assert len(run.stderr.splitlines()) == 1


def wav_bytes(before: bytes = b"", after: bytes = b"", size: int | None = None, samples: int = 4000) -> bytes:
    """16-bit stereo at 44.1 kHz with chunks before and after the samples; `size` is what the header says of them."""
    frames = np.full((samples, 2), 1000, "<i2").tobytes()
    size = len(frames) if size is None else size
    fields = struct.pack("<IHHIIHH", 16, 1, 2, 44100, 4 * 44100, 4, 16)
    return b"RIFF\xff\xff\xff\xffWAVE" + before + b"fmt " + fields + b"data" + struct.pack("<I", size) + frames + after


def chunk(name: bytes, body: bytes) -> bytes:
    return name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)


def test_chunks_beside_the_samples_are_no_sound() -> None:
    """Of any size: tags and pictures come before and after."""
    wav = wav_bytes(before=chunk(b"JUNK", bytes(3_000_001)), after=chunk(b"LIST", b"x" * 4001))
    run = feed(wav, "--wav", "--mix", "bass=1")
    assert (run.returncode, len(run.stdout)) == (0, 44 + 4 * 4000)


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x80000000, 0x7FFFF000, 0x7FFFFF00, 0xFFFFFFFF - 44])
def test_a_sender_that_does_not_know_the_length(size: int) -> None:
    """What ffmpeg, arecord, sox and others write into a pipe."""
    reading = io_feed(wav_bytes(size=size, after=b"more"))
    read_header(reading)
    assert len(reading.exactly(1 << 30)) == 16_004


def test_a_long_stream_has_its_length_elsewhere() -> None:
    wav = wav_bytes(chunk(b"ds64", struct.pack("<QQQI", 0, 16_000, 0, 0)), b"more", 0xFFFFFFFF)
    reading = io_feed(b"RF64" + wav[4:])
    assert read_header(reading) == Sound(44100, 2, "s16", wav=True)
    assert len(reading.exactly(1 << 30)) == 16_000
    assert reading.take(8, 4) == b""


def io_feed(data: bytes) -> Feed:
    """A feed of a pipe that ends after `data`."""
    reading, writing = os.pipe()
    threading.Thread(target=lambda: (os.write(writing, data), os.close(writing))).start()
    return Feed(reading)


def test_an_input_that_fails_is_told(tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(AudioError, match="standard input: cannot be read \\(is a directory\\)"):
        Feed(folder).take(8, 8)
    os.close(folder)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such pipes")
def test_descriptors_that_do_not_wait() -> None:
    """As some parents leave them: neither is a pause the end, nor a full pipe a failure."""
    (in_, feeder), (sink, out) = os.pipe(), os.pipe()
    for descriptor in (in_, out):
        os.set_blocking(descriptor, False)
    run = subprocess.Popen([*COMMAND, "-q", "--hop", "1"], stdin=in_, stdout=out)
    os.close(in_)
    os.close(out)
    wav = Sound(44100, 2, "f32").encode(music(88200))
    for start in range(0, len(wav), 400_000):
        time.sleep(0.3)
        os.write(feeder, wav[start : start + 400_000])
    os.close(feeder)
    received = 0
    while data := os.read(sink, 1 << 20):
        received += len(data)
        time.sleep(0.01)
    os.close(sink)
    assert run.wait() == 0
    assert received == 88200 * 4 * 8


def test_ctrl_c_at_work_and_while_the_listener_does_not_take() -> None:
    run = subprocess.Popen([*COMMAND, "--hop", "1"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert run.stdin
    assert run.stdout
    assert run.stderr
    run.stderr.readline()
    threading.Thread(target=_send_for_ever, args=(run.stdin,), daemon=True).start()
    assert len(run.stdout.read(1000)) == 1000  # windows are being worked on, and the pipe is full soon
    time.sleep(1)
    run.send_signal(signal.SIGINT)
    assert (run.wait(20), run.stderr.read()) == (130, b"Interrupted.\n")
    for end in (run.stdout, run.stderr):
        end.close()


def _send_for_ever(end: IO[bytes]) -> None:
    with contextlib.suppress(BrokenPipeError), end:
        while True:
            end.write(bytes(80_000))


def test_stems_too_loud_for_16_bits_are_told() -> None:
    loud = Sound(44100, 2, "s16").encode(music(44100) * 4)
    told = feed(loud, "--format", "s16", "--mix", "drums=4,vocals=4").stderr.decode().splitlines()
    assert len(told) >= 2
    for line in told[1:]:
        assert re.fullmatch(r"too loud for 16 bits and cut: the mix \([\d.]+ dB\); 32-bit floats on both sides avoid it, .*", line)
    floats = Sound(44100, 2, "f32").encode(music(44100) * 4)
    assert len(feed(floats, "--mix", "drums=4,vocals=4").stderr.splitlines()) == 1


def test_which_stems_were_cut_is_told_when_it_grows_worse() -> None:
    sound = Sound(1000, 2, "s16")
    wav = np.concatenate([np.full((2, 600), level, np.float32) for level in (0.1, 0.4, 0.41, 0.8)], axis=1)
    told: list[str] = []
    stream = Stream(FakeModel(), stems=["bass", "vocals"], loudness=(0, 1))
    Pipe(io_feed(sound.encode(wav)), sound, stream, None, lambda data: None, tell=told.append).run()
    assert len(told) == 2
    assert re.match(r"too loud for 16 bits and cut: vocals \([\d.]+ dB\); ", told[0])
    assert re.match(r"too loud for 16 bits and cut: bass \([\d.]+ dB\), vocals \([\d.]+ dB\); ", told[1])


@pytest.mark.parametrize(("rate", "samples", "low"), [(48000, 100_003, ["--hop", "0.5"]), (8000, 20_001, [])])
def test_as_many_samples_come_out_as_went_in(rate: int, samples: int, low: list[str]) -> None:
    """And each where it went in: the sum of all stems is like the mix without a lag."""
    mix = music(samples, channels=1)
    run = feed(
        Sound(rate, 1, "f32").encode(mix), "-q", "--rate", str(rate), "--channels", "1", *low, "--mix", "drums=1,bass=1,other=1,vocals=1"
    )
    out = np.frombuffer(run.stdout, "<f4")
    assert out.size == samples
    inner = slice(rate // 2, 3 * rate // 2)
    lags = [float(np.dot(mix[0, inner], out[inner.start + lag : inner.stop + lag])) for lag in range(-20, 21)]
    assert int(np.argmax(lags)) == 20


def skipping(wav: np.ndarray, stream: Stream, max_lag: float | None) -> tuple[np.ndarray, list[str]]:
    """All of `wav` is there at once."""
    sound = Sound(1000, 2, "f32")
    reading, writing = os.pipe()
    source = Feed(reading)
    source.allow(1 << 20)
    with os.fdopen(writing, "wb") as end:
        end.write(sound.encode(wav))
    while source.waiting < wav.shape[1] * sound.frame:
        time.sleep(0.01)
    out: list[bytes] = []
    told: list[str] = []
    Pipe(source, sound, stream, None, out.append, max_lag=max_lag, tell=told.append).run()
    os.close(reading)
    return sound.decode(b"".join(out)), told


def test_what_is_too_late_is_skipped_with_a_cross_fade() -> None:
    """What the next window needs is kept; what is too much before it is left out, between two pieces that fade into each other."""
    ramp = np.tile(np.arange(8000, dtype=np.float32), (2, 1))
    model = FakeModel()
    model_stems = Stream(model, stems=["drums"], loudness=(0, 1))
    out, told = skipping(ramp, model_stems, 1)
    assert told == ["skipped 7.6 s"]
    assert out.shape[1] == 400
    straight = Stream(Straight(), stems=["drums"], loudness=(0, 1))
    out, told = skipping(ramp, straight, 1)
    faded = np.arange(1, 51) / 51
    expected = np.concatenate([np.arange(50) * (1 - faded) + np.arange(7600, 7650) * faded, np.arange(7650, 8000)])
    np.testing.assert_allclose(out[0], expected, rtol=1e-5)


def test_a_window_that_takes_long_is_no_lag() -> None:
    """While the machine works on one, sound comes in that the next one needs in any case."""
    wav = music(1300)
    stream = Stream(FakeModel(), hop=0.3, lookahead=0.05, stems=["drums"])
    stream.push(wav[:, :100])
    out, told = skipping(wav[:, :250], stream, 0.01)  # so much is missing for the first window
    assert (out.shape[1], told) == (350, [])


def test_lag_is_told_when_the_machine_is_slow() -> None:
    model = FakeModel()
    model.before = lambda: time.sleep(0.15)
    _, told = skipping(music(2500), Stream(model, hop=0.1, lookahead=0.05), None)
    assert told
    assert re.fullmatch(r"0\.\d\d x real time, \d\.\d s behind", told[0])
