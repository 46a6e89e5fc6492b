"""Stems to WAV, FLAC and MP3, with upstream's sample conversion. Source: `demucs.audio.save_audio`.

Everything works in blocks, so that the length of a track does not matter for memory.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import soundfile

from ..errors import AudioError, UsageError, reason_of
from . import source
from .convert import check_rate, turned
from .levels import ClipMode, prevent_clip
from .source import Source
from .tags import id3
from .wav import wav_header


@dataclass(frozen=True)
class Encoding:
    """How stems are stored. `bits`: 16, 24 or 32 (float), where WAV takes all, FLAC 16 and 24, MP3 none. `bitrate`: kbit/s of an MP3."""

    format: Literal["wav", "flac", "mp3"] = "wav"
    bits: int = 16
    bitrate: int = 320

    @property
    def depth(self) -> int:
        """Bits of the samples that the encoder is given."""
        return 16 if self.format == "mp3" else self.bits

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

    `clip` keeps samples within ±1: "rescale" divides by 1.01 times the peak where that is above 1 (`peak` spares a search for it), "common"
    does so with a `peak` of several files, "clamp" limits to ±0.99, "tanh" bends, "none" leaves the limiting at ±1 that every format does.

    Raises AudioError if the file cannot be written, or has no such rate. Source: `demucs.audio.save_audio`.
    """
    check_rate(samplerate, str(path))
    if peak is None and clip in ("rescale", "common"):
        peak = max((np.abs(block).max() for block in pieces(audio)), default=np.float32(0))
    frames = (to_pcm(prevent_clip(block, clip, peak), encoding.depth) for block in pieces(audio))
    write_frames(path, frames, audio.shape, samplerate, encoding)


def write_frames(
    path: str | Path,
    frames: Iterator[np.ndarray],
    shape: tuple[int, ...],
    samplerate: int,
    encoding: Encoding,
    tags: Mapping[str, str] | None = None,
) -> None:
    """Write blocks as `to_pcm` makes them, in all of the `shape` (channels, samples). Raises AudioError if the file cannot be written.

    `tags` may be title, artist, album, tracknumber, date and genre.
    """
    path = Path(path)
    channels, samples = shape
    try:
        with _complete_or_absent(path) as temporary:
            if encoding.format == "wav":
                _write_wav(temporary, frames, wav_header(channels, samples, samplerate, encoding.bits, tags), encoding.bits)
            else:
                _write_compressed(temporary, frames, channels, samplerate, encoding, tags or {})
    except (OSError, soundfile.SoundFileError, AssertionError) as error:  # soundfile asserts that all was written
        raise AudioError(f"{path}: cannot be written ({reason_of(error)}); choose another folder, or free some space") from error


def to_pcm(wav: np.ndarray, bits: int) -> np.ndarray:
    """float32 (channels, samples) -> frames (samples, channels): int16, int32 with 24 bits in the low ones, or float32 within ±1.

    Integers are cut toward zero, not rounded, as upstream does.
    """
    samples = wav.clip(-1, 1)
    if bits < 32:
        samples *= np.float32(2 ** (bits - 1) - 1)
    return turned(samples.astype("<f4" if bits == 32 else "<i2" if bits == 16 else "<i4", copy=False))


def _write_wav(path: Path, blocks: Iterator[np.ndarray], header: bytes, bits: int) -> None:
    size = 0
    with open(path, "wb") as file:
        file.write(header)
        for frames in blocks:
            data = frames.view(np.uint8).reshape(-1, 4)[:, :3].tobytes() if bits == 24 else frames.tobytes()
            size += file.write(data)
        file.write(b"\0" * (size % 2))


def _write_compressed(
    path: Path, blocks: Iterator[np.ndarray], channels: int, samplerate: int, encoding: Encoding, tags: Mapping[str, str]
) -> None:
    """FLAC and MP3 by libsndfile's own encoders."""
    options: dict[str, Any] = {"format": "FLAC", "subtype": f"PCM_{encoding.depth}"}
    if encoding.format == "mp3":
        level = _mp3_compression_level(encoding.bitrate, samplerate)
        options = {"format": "MP3", "subtype": "MPEG_LAYER_III", "bitrate_mode": "CONSTANT", "compression_level": level}
    with soundfile.SoundFile(path, "w", samplerate, channels, **options) as file:
        for name, text in tags.items() if encoding.format == "flac" else ():
            setattr(file, name, text)
        for frames in blocks:
            # In the top bits of int32: libsndfile 1.2 garbles stereo int16 on its way to the MP3 encoder.
            file.write(frames.astype(np.int32) << (32 - encoding.depth))
    if encoding.format == "mp3" and tags:
        _put_before(path, id3(tags))


def _put_before(path: Path, head: bytes) -> None:
    behind = path.with_suffix(".head.part")
    try:
        with open(path, "rb") as frames, open(behind, "wb") as file:
            file.write(head)
            shutil.copyfileobj(frames, file)
        os.replace(behind, path)
    except BaseException:
        behind.unlink(missing_ok=True)
        raise


def _mp3_compression_level(bitrate: int, samplerate: int) -> float:
    """libsndfile maps levels 0 to 1 linearly onto the highest to lowest rate of MPEG at the sample rate; LAME takes the nearest."""
    low, high = (32, 320) if samplerate >= 32000 else (8, 160) if samplerate >= 16000 else (8, 64)
    return (high - min(max(bitrate, low), high)) / (high - low)


def pieces(audio: Source) -> Iterator[np.ndarray]:
    """All of it, float32 (channels, at most BLOCK samples) at a time."""
    samples = audio.shape[-1]
    return (audio.read(start, min(start + source.BLOCK, samples)) for start in range(0, samples, source.BLOCK))


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
