"""Stems to WAV, FLAC and MP3, with upstream's sample conversion. Source: `demucs.audio.save_audio`.

Everything works in blocks, so that the length of a track does not matter for memory.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import soundfile

from ..errors import AudioError, UsageError, reason_of
from . import source
from .source import Source

ClipMode = Literal["rescale", "clamp", "tanh", "none"]


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

    Integers are cut toward zero, not rounded, as upstream does.
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
