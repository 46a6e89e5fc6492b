"""Audio files: read anything, convert channels and sample rate, write WAV, FLAC and MP3 with the reference's sample conversion.

Source: `demucs.audio`. Everything works in blocks, so that the length of a file does not matter for memory.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

import numpy as np
import soundfile

from .errors import AudioError, UsageError
from .kernels.resample import Resampler

if TYPE_CHECKING:
    from .separation.apply import Source

BLOCK = 1 << 18  # samples that are read, converted or written at a time
MAX_RATE = 768_000  # Hz; a header that says more is damaged, and the resampling filter for it would be huge

ClipMode = Literal["rescale", "clamp", "tanh", "none"]


# ---- reading


class Track:
    """An audio file that is open for reading, as `open_track` gives it."""

    def __init__(self, path: Path, file: Any) -> None:
        self.path = path
        self._file = file
        self.samplerate = int(file.samplerate)  # Hz
        self.channels = int(file.channels)
        self.samples = int(file.frames)  # as the header says; some files hold less or more

    def blocks(self, size: int = BLOCK) -> Generator[np.ndarray, None, None]:
        """The samples as float32 (channels, at most `size`). Raises AudioError where they cannot be decoded, or are NaN or infinite."""
        position = 0
        while True:
            try:
                frames = self._file.read(size, dtype="float32", always_2d=True)
            except (soundfile.SoundFileError, OSError) as error:
                raise AudioError(f"{self.path}: cannot be decoded after {position / self.samplerate:.1f} s ({reason_of(error)})") from error
            if len(frames) == 0:
                return
            check_finite(frames.T, str(self.path), position, self.samplerate)
            position += len(frames)
            yield np.ascontiguousarray(frames.T)


@contextlib.contextmanager
def open_track(path: str | Path) -> Iterator[Track]:
    """Open WAV, FLAC, OGG, MP3, AIFF and whatever else libsndfile knows; anything else through ffmpeg, if that is on the PATH.

    Raises AudioError, with the remedy, if there is no such file or it is not audio.
    """
    path = Path(path)
    if path.is_dir():
        raise AudioError(f"{path}: is a folder, not an audio file; name the files in it")
    try:
        size = path.stat().st_size
    except OSError as error:
        hint = "; if the path contains spaces, put quotes around it" if isinstance(error, FileNotFoundError) else ""
        raise AudioError(f"{path}: cannot be read ({reason_of(error)}){hint}") from error
    if size == 0:
        raise AudioError(f"{path}: the file is empty; copy or download it again")
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(soundfile.SoundFile(path))
        except (soundfile.SoundFileError, OSError) as error:
            if not os.access(path, os.R_OK):
                raise AudioError(f"{path}: cannot be read (permission denied)") from error
            decoded = _decode_with_ffmpeg(path, Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="demucs-np-"))), error)
            file = stack.enter_context(soundfile.SoundFile(decoded))
        check_rate(file.samplerate, str(path))
        yield Track(path, file)


def _decode_with_ffmpeg(path: Path, folder: Path, error: Exception) -> Path:
    """The first audio stream of `path` as a float32 Wave64 file in `folder`."""
    ffmpeg = shutil.which("ffmpeg")
    if ffmpeg is None:
        raise AudioError(
            f"{path}: is not audio that libsndfile can read ({reason_of(error)}), and ffmpeg is not on the PATH: "
            "install ffmpeg, or convert the file to WAV, FLAC or MP3"
        ) from error
    decoded = folder / "decoded.w64"
    # "file:" keeps a name with a colon from being read as an address
    command = [ffmpeg, "-nostdin", "-v", "error", "-i", f"file:{path}", "-map", "0:a:0", "-c:a", "pcm_f32le", "-f", "w64", str(decoded)]
    run = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if run.returncode != 0:
        reason = run.stderr.strip().splitlines()[-1] if run.stderr.strip() else f"exit status {run.returncode}"
        raise AudioError(f"{path}: neither libsndfile ({reason_of(error)}) nor ffmpeg ({reason}) can read it; is it audio?") from error
    return decoded


def check_rate(samplerate: float, name: str) -> None:
    """Raise AudioError unless `samplerate` is a whole number of Hz from 1 to MAX_RATE."""
    if samplerate != int(samplerate) or not 1 <= samplerate <= MAX_RATE:
        raise AudioError(f"{name}: its sample rate is {samplerate} Hz, but must be a whole number from 1 to {MAX_RATE}; export it again")


def check_finite(wav: np.ndarray, name: str, position: int, samplerate: int) -> None:
    """Raise AudioError if `wav` (channels, samples), which begins at sample `position` of track `name`, holds NaN or infinity."""
    finite = np.isfinite(wav)
    if not finite.all():
        channel, sample = (int(i) for i in np.argwhere(~finite)[0])
        raise AudioError(
            f"{name}: sample {position + sample} ({(position + sample) / samplerate:.3f} s) of channel {channel + 1} is "
            f"{wav[channel, sample]}; repair the file or export it again"
        )


def convert_channels(wav: np.ndarray, channels: int, name: str = "the mix") -> np.ndarray:
    """To `channels` channels: mono is copied to all, a mono result is the mean, else the first ones are kept.

    Raises AudioError where several channels would have to become more. Source: `demucs.audio.convert_audio_channels`.
    """
    if wav.shape[0] == channels:
        return wav
    if channels == 1:
        mono: np.ndarray = wav.mean(axis=0, keepdims=True, dtype=np.float32)
        return mono
    if wav.shape[0] == 1:
        return np.repeat(wav, channels, axis=0)
    if wav.shape[0] > channels:
        return np.ascontiguousarray(wav[:channels])
    raise AudioError(f"{name}: has {wav.shape[0]} channels, but the model takes {channels}; make it mono or give it {channels} channels")


def read_blocks(track: Track, samplerate: int, channels: int, backend: str = "numba") -> Generator[np.ndarray, None, None]:
    """All of `track`, converted: float32 (channels, samples) at `samplerate`. Raises AudioError, also for a file without samples."""
    resampler = Resampler(track.samplerate, samplerate, backend)
    empty = True
    size = max(1, min(BLOCK, BLOCK * track.samplerate // samplerate))  # so that the result is not large either
    for block in track.blocks(size):
        empty = False
        yield resampler.push(convert_channels(block, channels, str(track.path)))
    if empty:
        raise AudioError(f"{track.path}: holds no samples; export it again")
    yield resampler.finish()


class Spool:
    """A track on disk, as raw float32 frames in a file without a name that vanishes when it is closed, whatever happens.

    A `Source`: shape (channels, samples). `peak` is the largest magnitude.
    """

    def __init__(self, channels: int, folder: str | Path) -> None:
        self.channels = channels
        self.samples = 0
        self.peak = np.float32(0)
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=folder, prefix=".demucs-np-", buffering=0)  # noqa: SIM115

    @property
    def shape(self) -> tuple[int, ...]:
        return self.channels, self.samples

    def append(self, block: np.ndarray) -> None:
        """Add float32 (channels, samples). Raises OSError if the disk is full."""
        if block.size == 0:
            return
        self.peak = np.maximum(self.peak, np.abs(block).max())
        self._file.seek(0, os.SEEK_END)
        data = np.ascontiguousarray(block.T).data.cast("B")
        while len(data):  # an unbuffered file may take less than all
            data = data[self._file.write(data) :]
        self.samples += block.shape[1]

    def read(self, start: int, stop: int) -> np.ndarray:
        frames = np.empty((stop - start, self.channels), np.float32)
        self._file.seek(start * self.channels * frames.itemsize)
        data = frames.data.cast("B") if frames.size else memoryview(b"")
        while len(data):
            count = self._file.readinto(data)  # type: ignore[attr-defined]
            if not count:
                raise OSError("a temporary file has lost its end")
            data = data[count:]
        return np.ascontiguousarray(frames.T)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# ---- writing


@dataclass(frozen=True)
class Encoding:
    """How stems are stored. `bits`: 16, 24 or 32 (float), where WAV takes all, FLAC 16 and 24, MP3 none. `bitrate`: kbit/s of an MP3."""

    format: Literal["wav", "flac", "mp3"] = "wav"
    bits: int = 16
    bitrate: int = 320

    def __post_init__(self) -> None:
        if self.format not in ("wav", "flac", "mp3"):
            raise UsageError(f"cannot write .{self.format} files: choose wav, flac or mp3")
        allowed = (16, 24) if self.format == "flac" else (16, 24, 32)
        if self.bits not in allowed:
            raise UsageError(f"cannot write {self.format} with {self.bits} bits: choose one of {allowed}")
        if self.format == "mp3" and not 8 <= self.bitrate <= 320:
            raise UsageError(f"an MP3 bit rate of {self.bitrate} kbit/s is not possible: choose 32 to 320")


def write(
    path: str | Path, audio: Source, samplerate: int, encoding: Encoding = Encoding(), clip: ClipMode = "rescale", peak: Any = None
) -> None:
    """Write `audio`, of shape (channels, samples), so that the file appears complete or not at all.

    `clip` keeps samples within ±1: "rescale" divides by 1.01 times the peak where that is above 1 (`peak` spares a search for it), "clamp"
    limits to ±0.99, "tanh" bends, "none" leaves the limiting at ±1 that every format does.

    Raises AudioError if the file cannot be written. Source: `demucs.audio.save_audio`.
    """
    path = Path(path)
    if peak is None and clip == "rescale":
        peak = max((np.abs(block).max() for block in _pieces(audio)), default=np.float32(0))
    blocks = (prevent_clip(block, clip, peak) for block in _pieces(audio))
    channels, samples = audio.shape
    try:
        with _complete_or_absent(path) as temporary:
            if encoding.format == "wav":
                _write_wav(temporary, blocks, channels, samples, samplerate, encoding.bits)
            else:
                _write_compressed(temporary, blocks, channels, samplerate, encoding)
    except (OSError, soundfile.SoundFileError, struct.error, AssertionError) as error:  # soundfile asserts that all was written
        if isinstance(error, struct.error):
            raise AudioError(f"{path}: a WAV file cannot be larger than 4 GB; write FLAC instead") from error
        raise AudioError(f"{path}: cannot be written ({reason_of(error)}); choose another folder, or free some space") from error


def prevent_clip(wav: np.ndarray, clip: ClipMode, peak: Any) -> np.ndarray:
    """`wav` after the clip mode; `peak` is the largest magnitude of the whole track. Source: `demucs.audio.prevent_clip`."""
    if clip == "rescale":
        scaled: np.ndarray = wav / max(np.float32(1.01) * np.float32(peak), np.float32(1))
        return scaled
    if clip == "clamp":
        return wav.clip(np.float32(-0.99), np.float32(0.99))
    if clip == "tanh":
        bent: np.ndarray = np.tanh(wav)
        return bent
    return wav


def to_pcm(wav: np.ndarray, bits: int) -> np.ndarray:
    """float32 (channels, samples) -> frames (samples, channels): int16, int32 with 24 bits in the low ones, or float32 within ±1.

    Integers are cut toward zero, not rounded, as the reference does.
    """
    frames = np.ascontiguousarray(wav.clip(-1, 1).T)
    if bits == 32:
        return frames.astype("<f4")
    return (frames * np.float32(2 ** (bits - 1) - 1)).astype("<i2" if bits == 16 else "<i4")


def _write_wav(path: Path, blocks: Iterator[np.ndarray], channels: int, samples: int, samplerate: int, bits: int) -> None:
    """RIFF by hand: with a known length it is a header and the samples."""
    frame = channels * bits // 8
    floating = bits == 32
    header = b"fmt " + struct.pack("<IHHIIHH", 16, 3 if floating else 1, channels, samplerate, samplerate * frame, frame, bits)
    if floating:
        header += b"fact" + struct.pack("<II", 4, samples)
    size = samples * frame
    header += b"data" + struct.pack("<I", size)
    padding = b"\0" * (size % 2)
    with open(path, "wb") as file:
        file.write(b"RIFF" + struct.pack("<I", 4 + len(header) + size + len(padding)) + b"WAVE" + header)
        for block in blocks:
            frames = to_pcm(block, bits)
            if bits == 24:
                frames = frames.view(np.uint8).reshape(-1, 4)[:, :3]
            file.write(frames.tobytes())
        file.write(padding)


def _write_compressed(path: Path, blocks: Iterator[np.ndarray], channels: int, samplerate: int, encoding: Encoding) -> None:
    """FLAC and MP3 by libsndfile's own encoders."""
    options: dict[str, Any] = {"format": "FLAC", "subtype": f"PCM_{encoding.bits}"}
    if encoding.format == "mp3":
        level = _mp3_compression_level(encoding.bitrate, samplerate)
        options = {"format": "MP3", "subtype": "MPEG_LAYER_III", "bitrate_mode": "CONSTANT", "compression_level": level}
    with soundfile.SoundFile(path, "w", samplerate, channels, **options) as file:
        bits = encoding.bits if encoding.format == "flac" else 16
        for block in blocks:
            # In the top bits of int32: libsndfile 1.2 garbles stereo int16 on its way to the MP3 encoder.
            file.write(to_pcm(block, bits).astype(np.int32) << (32 - bits))


def _mp3_compression_level(bitrate: int, samplerate: int) -> float:
    """libsndfile maps levels 0 to 1 linearly onto the highest to lowest rate of MPEG at the sample rate; LAME takes the nearest."""
    low, high = (32, 320) if samplerate >= 32000 else (8, 160) if samplerate >= 16000 else (8, 64)
    return (high - min(max(bitrate, low), high)) / (high - low)


def _pieces(audio: Source) -> Iterator[np.ndarray]:
    samples = audio.shape[-1]
    return (audio.read(start, min(start + BLOCK, samples)) for start in range(0, samples, BLOCK))


@contextlib.contextmanager
def _complete_or_absent(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to; the file takes its real name only when the block has ended well."""
    temporary = path.with_name(f".demucs-np-{secrets.token_hex(6)}.part")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def reason_of(error: BaseException) -> str:
    """What went wrong, as a part of a sentence."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    text = str(getattr(error, "error_string", "") or error or type(error).__name__)
    if "SF_INFO struct incomplete" in text:  # what libsndfile says to a header with 0 Hz
        return "its header gives no sample rate"
    return text.strip(" .").lower()
