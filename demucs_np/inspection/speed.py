"""How fast this machine separates, with how much memory, and whether the numbers are right.

Needs no download: a model of the published shape with weights drawn from a seed takes the same time as one that was trained.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import math
import os
import platform
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import __version__
from ..machine import peak_memory, processor
from ..weights.catalog import ARCHITECTURES, STEMS

if TYPE_CHECKING:
    from ..models.bag import Model
    from ..parity.verify import Report

MODELS: dict[str, tuple[str, dict[str, Any]]] = {  # name -> class and constructor's arguments of the published model
    "htdemucs": ARCHITECTURES["955717e8"],
    "hdemucs": ARCHITECTURES["75fc33f5"],
    "demucs": ("demucs.demucs.Demucs", {"sources": [*STEMS], "segment": 44}),
}
SECONDS = 7.8  # of the input: a segment of HTDemucs
TRACK = 180.0  # seconds, for the estimate
GOLDEN = Path(__file__).parent.parent / "parity" / "published.safetensors"  # a small HTDemucs, as PyTorch computes it
BUDGET = 25.0  # seconds of repeated runs, so that a slow machine is done in a minute as well


@dataclasses.dataclass(frozen=True)
class Result:
    """What `measure` found. Times in seconds."""

    model: str
    parameters: int
    audio: float  # seconds of input
    threads: int
    backend: str
    first: float  # the first run, with compilation if the kernels were not in Numba's cache
    fastest: float
    median: float
    runs: int
    memory: float | None  # peak of this process, bytes; None where the system does not tell

    @property
    def speed(self) -> float:
        """Seconds of audio a second, for one segment."""
        return self.audio / self.fastest

    @property
    def track(self) -> float:
        """Seconds for a track of TRACK seconds: its segments overlap by a quarter."""
        return math.ceil(TRACK / (0.75 * self.audio)) * self.fastest


def seeded_model(name: str, backend: str = "numba", seed: int = 0) -> Model:
    """A model of MODELS with weights drawn from a seed."""
    from ..models.config import config_from_arguments
    from ..models.layout import expected_tensors
    from ..parity.recipe import draw_tensors
    from ..weights import build
    from ..weights.formats.checkpoint import Checkpoint

    klass, arguments = MODELS[name]
    config = config_from_arguments(klass, (), arguments)
    model: Model = build(Checkpoint(Path(f"seed {seed}"), config, draw_tensors(seed, expected_tensors(config))), backend)
    return model


def parameters(name: str) -> int:
    """How many numbers a model of MODELS has."""
    from ..models.config import config_from_arguments
    from ..models.layout import expected_tensors

    klass, arguments = MODELS[name]
    return sum(math.prod(shape) for shape in expected_tensors(config_from_arguments(klass, (), arguments)).values())


def input_for(model: Model, seconds: float = SECONDS) -> np.ndarray:
    """Seeded music for one forward pass, float32 (1, channels, samples): `seconds`, or the model's segment if that is shorter."""
    from ..parity.recipe import draw_mix

    length = int(min(float(model.segment), seconds) * model.samplerate)
    return draw_mix(0, model.audio_channels, length, model.samplerate)[None]


def measure(name: str, *, threads: int | None = None, backend: str = "numba", repeats: int = 5, budget: float = BUDGET) -> Result:
    """Time forward passes of a model of MODELS: one that may compile, then up to `repeats` (fewer once `budget` seconds are spent)."""
    from ..threads import default_threads, use_threads

    threads = threads or default_threads()
    model = seeded_model(name, backend)
    mix = input_for(model)
    times: list[float] = []
    with use_threads(threads):
        while len(times) <= repeats and (len(times) < 3 or sum(times[1:]) < budget):
            began = time.perf_counter()
            model(mix)
            times.append(time.perf_counter() - began)
    first, *rest = times
    audio = mix.shape[2] / model.samplerate
    return Result(
        name, parameters(name), audio, threads, backend,
        first=first, fastest=min(rest), median=statistics.median(rest), runs=len(rest), memory=peak_memory(),
    )  # fmt: skip


def check_parity(backend: str = "numba", threads: int | None = None) -> Report:
    """Compare a small model of the published shape, layer by layer, with what PyTorch computed."""
    from ..parity.record import load_golden
    from ..parity.seeded import seeded_model as golden_model
    from ..parity.verify import verify_golden
    from ..threads import use_threads

    golden = load_golden(GOLDEN)
    with use_threads(threads):
        return verify_golden(golden, golden_model(golden, backend))


def machine() -> dict[str, Any]:
    """What timings depend on: processor, cores, load, versions."""
    from ..kernels import gemm
    from ..threads import default_threads

    versions = {name: importlib.metadata.version(name) for name in ("numpy", "numba", "llvmlite")}
    return {
        "processor": processor(),
        "cores": default_threads(),
        "vectors": f"{gemm.LANES} floats{' with FMA' if gemm.FMA else ''}",
        "system": f"{platform.system()} {platform.machine()}",
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "versions": {"python": platform.python_version(), "demucs-np": __version__, **versions},
    }


def report(result: Result, about: dict[str, Any], parity: Report) -> str:
    """The lines that the command prints."""
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    load = "" if about["load"] is None else f", load {about['load']:.1f}"
    memory = "unknown" if result.memory is None else f"{result.memory / 1e6:.0f} MB at most, weights included"
    worst = max(parity.layers, key=lambda layer: layer.excess)
    if parity.passed:
        verdict = f"{len(parity.layers)} layers within 3 dB of PyTorch's own float32 error (most: {worst.excess:+.1f} dB, {worst.name})"
    else:
        verdict = f"NO: {worst.name}: {worst.problem}"
    return "\n".join(
        [
            f"{about['processor']}, {about['cores']} cores, {about['vectors']}, {about['system']}{load}",
            versions,
            f"{result.model} with random weights, {result.parameters / 1e6:.1f} M parameters, "
            f"{result.threads} thread{'s' if result.threads > 1 else ''}, {result.backend}",
            "",
            f"first run   {result.first:8.2f} s   kernels that are not in Numba's cache are compiled in it",
            f"{result.audio:.1f} s audio {result.fastest:8.2f} s   median of {result.runs}: {result.median:.2f} s",
            f"speed       {result.speed:8.2f} x   as fast as it plays; a {TRACK / 60:.0f}-minute track takes about {result.track:.0f} s",
            f"memory      {memory}",
            f"parity      {verdict}",
        ]
    )
