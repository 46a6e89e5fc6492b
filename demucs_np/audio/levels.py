"""What is done to stems that are too loud for a file, and how it is told."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

ClipMode = Literal["rescale", "common", "clamp", "tanh", "none"]

SAYINGS: dict[ClipMode, tuple[str, str]] = {  # what was done, and the option that avoids it
    "rescale": ("were made quieter, each by itself", "--clip-mode common gives all stems one gain, so that they still add up"),
    "common": ("were made quieter by one gain", "--clip-mode none keeps the level and cuts what is above full scale"),
    "clamp": ("had their peaks cut", "--clip-mode common makes all stems quieter instead"),
    "tanh": ("were bent, most at their peaks", "--clip-mode common makes all stems quieter instead"),
    "none": ("had what is above full scale cut", "--clip-mode common makes all stems quieter instead"),
}


def prevent_clip(wav: np.ndarray, clip: ClipMode, peak: Any) -> np.ndarray:
    """`wav` after the clip mode; `peak` is the largest magnitude of the whole track, with "common" that of all its stems.

    Source: `demucs.audio.prevent_clip`; "common" is ours.
    """
    if clip in ("rescale", "common"):
        by = divisor(clip, peak)
        scaled: np.ndarray = wav / by if by > 1 else wav
        return scaled
    if clip == "clamp":
        return wav.clip(np.float32(-0.99), np.float32(0.99))
    if clip == "tanh":
        bent: np.ndarray = np.tanh(wav)
        return bent
    return wav


def divisor(clip: ClipMode, peak: Any) -> np.float32:
    """What `prevent_clip` divides all samples by: more than 1 where 1.01 times the peak is."""
    return max(np.float32(1.01) * np.float32(peak), np.float32(1)) if clip in ("rescale", "common") else np.float32(1)


def told_changes(peaks: Mapping[str, Any], clip: ClipMode) -> str:
    """Which stems the mode has changed, by how much at their peaks (their largest magnitudes), and what avoids it. "": none."""
    loudest = max(peaks.values(), default=0.0)
    changes = {}
    for name, peak in peaks.items():
        peak = np.asarray(peak, np.float32)
        after = min(float(prevent_clip(peak, clip, loudest if clip == "common" else peak)), 1.0)
        if after < peak:
            changes[name] = told_decibels(float(peak) / after)
    if not changes:
        return ""
    done, instead = SAYINGS[clip]
    if len(set(changes.values())) == 1 and len(changes) == len(peaks) > 1:
        which = f"all stems ({next(iter(changes.values()))})"
    else:
        which = ", ".join(f"{name} ({change})" for name, change in changes.items())
    return f"against clipping, {which} {done}; {instead}"


def told_decibels(factor: float) -> str:
    """A factor above 1."""
    decibels = 20 * math.log10(factor)
    return f"{decibels:.1f} dB" if decibels >= 0.05 else "less than 0.1 dB"
