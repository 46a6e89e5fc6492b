"""Samples as a model wants them: finite, of its number of channels, at its rate. Source: `demucs.audio.convert_audio`."""

from __future__ import annotations

import numpy as np

from ..errors import AudioError

MAX_RATE = 768_000  # Hz; a header that says more is damaged, and the resampling filter for it would be huge
MAX_CHANNELS = 64


def check_layout(shape: tuple[int, ...], name: str) -> None:
    """Raise AudioError if an array (..., channels, samples) is likely (..., samples, channels): it has more channels than samples."""
    *_, channels, samples = shape
    if channels > MAX_CHANNELS or channels > max(samples, 2):
        raise AudioError(
            f"{name}: has shape {shape}, which is {channels} channels of {samples} samples; arrays are (channels, samples) here: "
            "transpose it (wav.T)"
        )


def check_rate(samplerate: float, name: str) -> None:
    """Raise AudioError unless `samplerate` is a whole number of Hz from 1 to MAX_RATE."""
    if not 1 <= samplerate <= MAX_RATE or samplerate != int(samplerate):
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


def turned(x: np.ndarray) -> np.ndarray:
    """`x`, (channels, samples), as contiguous (samples, channels), or back: channel by channel, which takes a third of NumPy's time."""
    out = np.empty(x.shape[::-1], x.dtype)
    for channel, target in zip(x, out.T, strict=True) if len(x) < len(out) else zip(x.T, out, strict=True):
        target[:] = channel
    return out
