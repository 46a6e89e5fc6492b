"""Audio files for tests, good and bad."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import soundfile


def music(samples: int, channels: int = 2, seed: int = 0) -> np.ndarray:
    """float32 (channels, samples) within ±0.5."""
    rng = np.random.default_rng(seed)
    time = np.arange(samples) / 100
    return (0.4 * np.sin(time + np.arange(channels)[:, None]) + 0.1 * rng.uniform(-1, 1, (channels, samples))).astype(np.float32)


def song(path: Path, samples: int = 1500, channels: int = 2, samplerate: int = 1000, seed: int = 0) -> Path:
    soundfile.write(path, music(samples, channels, seed).T, samplerate, subtype="FLOAT" if path.suffix == ".wav" else None)
    return path


def wav_bytes(samplerate: int = 1000, channels: int = 1, data: bytes = b"\1\0" * 500) -> bytes:
    """A 16-bit WAV, by hand: its header may say what no library would write."""
    frame = 2 * channels
    header = struct.pack("<IHHIIHH", 16, 1, channels, samplerate, (samplerate * frame) % 2**32, frame, 16)
    return b"RIFF" + struct.pack("<I", 36 + len(data)) + b"WAVEfmt " + header + b"data" + struct.pack("<I", len(data)) + data


def float_wav(path: Path, *special: float) -> Path:
    """A mono file of 100 zeros, then the special values."""
    soundfile.write(path, np.array([0.0] * 100 + list(special), np.float32), 1000, subtype="FLOAT")
    return path


BAD = {
    "empty.wav": (b"", "the file is empty"),
    "text.wav": (b"these are words\n" * 10, r"is not audio that libsndfile can read .*install ffmpeg, or convert the file"),
    "words.xyz": (b"these are words\n" * 10, r"install ffmpeg, or convert the file"),
    "cut.wav": (wav_bytes()[:30], "is not audio"),
    "no_samples.wav": (wav_bytes(data=b""), "holds no samples"),
    "no_rate.wav": (wav_bytes(samplerate=0), "its header gives no sample rate"),
    "huge_rate.wav": (wav_bytes(samplerate=2_000_000_000), "its sample rate is 2000000000 Hz"),
}
