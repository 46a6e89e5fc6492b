"""The activations of one segment of an audio file, and its stems without parts of the model."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from ..errors import UsageError
from ..models.ablation import Ablation
from ..models.bag import BagOfModels
from ..models.taps import matches
from ..models.taps import trace as tracing
from ..separation.excerpt import read_excerpt
from ..threads import use_threads
from ..weights.files import written_whole
from ..weights.resolve import build, resolve
from .listening import stems_of
from .outline import extras, modules, parts, segment_samples
from .plots import Scale, scale_of

if TYPE_CHECKING:
    from ..models.config import Config


def trace_track(
    track: Path,
    name: str,
    *,
    repo: Path | None = None,
    at: float = 0,
    layers: Sequence[str] | None = None,
    ablate: Sequence[str] = (),
    backend: str = "numba",
    threads: int | None = None,
) -> tuple[dict[str, np.ndarray], Scale]:
    """The activations of one segment of an audio file from `at` seconds on: path -> float32 array, in order of execution; and the scale
    of their pictures.

    `layers` and `ablate` as for `trace` (`layers` None: all modules that are traced). Raises UsageError for a pattern that matches
    nothing, what cannot be switched off, or a name that stands for several models, AudioError beyond the file's end.
    """
    member = resolve(name, repo=repo).only()
    config = member.config()
    check_layers(config, layers or ())
    Ablation(ablate).check(parts(config))
    checkpoint = member.read()
    mix = read_segment(track, at, config)
    model = build(checkpoint, backend)
    with use_threads(threads), tracing(layers=layers, ablate=ablate) as taps:
        model(mix[None])
    return taps, scale_of(config, at, model.valid_length(mix.shape[1]) / config.samplerate)


def hear_track(
    track: Path,
    name: str,
    *,
    repo: Path | None = None,
    at: float = 0,
    ablate: Sequence[str],
    backend: str = "numba",
    threads: int | None = None,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], int]:
    """The stems of one segment from `at` seconds on with and without parts of the model, float32 (channels, samples) each, and their
    sample rate. Raises as `trace_track`."""
    member = resolve(name, repo=repo).only()
    config = member.config()
    Ablation(ablate).check(parts(config))
    checkpoint = member.read()
    excerpt, moments = read_excerpt(track, at, segment_samples(config), config, whole=True)
    model = BagOfModels([build(checkpoint, backend)])
    plain, ablated = (stems_of(model, excerpt, moments, names, threads) for names in ((), ablate))
    return plain, ablated, config.samplerate


def check_layers(config: Config, patterns: Sequence[str]) -> None:
    """Raise UsageError for a pattern that no activation of such a model matches."""
    plain = [module.path for module in modules(config) if module.traced]
    extra = extras(config)
    for pattern in patterns:
        if not any(matches(path, pattern) for path in plain) and not any(matches(path, pattern, extra=True) for path in extra):
            near = difflib.get_close_matches(pattern, plain + extra, 1, cutoff=0)
            raise UsageError(f"no layer matches {pattern!r} (the nearest is {near[0]}); `demucs-np inspect MODEL` lists them")


def read_segment(path: Path, at: float, config: Config) -> NDArray[np.float32]:
    """One segment (channels, samples) of a file from `at` seconds on, shorter at its end, at the loudness that `separate` gives it."""
    segment, moments = read_excerpt(path, at, segment_samples(config), config, whole=True)
    return np.ascontiguousarray((segment - np.float32(moments.mean)) / np.float32(moments.std + 1e-8), np.float32)


def save(path: Path, taps: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    """Write the activations to a safetensors file, whole or not at all. Raises DemucsError where it cannot be written."""
    with written_whole(path) as file:
        file.write(safetensors.numpy.save(taps, metadata=metadata))
