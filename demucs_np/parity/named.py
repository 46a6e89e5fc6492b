"""Golden files of models that are known by name, and the verdict on them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..separation.excerpt import read_excerpt
from ..threads import default_threads, use_threads
from ..weights.resolve import build as build_model
from ..weights.resolve import resolve
from .recipe import draw_mix, tensors_digest
from .record import Golden, load_golden
from .seeded import seeded_model
from .verify import Report, verify_golden

if TYPE_CHECKING:
    from ..models.bag import Model

MAX_SECONDS = 10  # of a recorded run: HDemucs and Demucs would take 40 s and tens of GB in float64


def record_model(name: str, *, repo: Path | None = None, audio: Path | None = None, at: float = 0, seed: int = 0) -> Golden:
    """Run the upstream PyTorch model with the weights of a model and record it.

    The input is one segment (at most 10 s) of an audio file from `at` seconds on, or drawn from `seed`. `name` stands for one
    model. Raises UsageError where torch or demucs is missing, or the name is a bag's.
    """
    from .upstream import build, make_golden, require_upstream

    require_upstream()
    checkpoint = resolve(name, repo=repo).only().read()
    config = checkpoint.config
    length = int(min(config.segment, MAX_SECONDS) * config.samplerate)
    if audio is None:
        mix = draw_mix(seed, config.audio_channels, length, config.samplerate)
        source: dict[str, Any] = {"seed": seed, "channels": config.audio_channels, "length": length}
    else:
        mix, _ = read_excerpt(audio, at, length, config)
        source = {"file": audio.name, "at": at}
    return make_golden(build(config.klass, config.constructor_arguments(), checkpoint.tensors), mix, source=source)


def verify_file(
    path: Path, name: str | None = None, *, repo: Path | None = None, backend: str = "numba", threads: int | None = None
) -> Report:
    """Judge a model against a golden file: the one named, or without a name the one whose weights the file's seed draws.

    Raises UsageError when the model is not the one that the file was made from.
    """
    golden = load_golden(path)
    model = seeded_model(golden, backend) if name is None else _named_model(golden, name, repo, backend)
    with use_threads(default_threads() if threads is None else threads):
        return verify_golden(golden, model)


def _named_model(golden: Golden, name: str, repo: Path | None, backend: str) -> Model:
    checkpoint = resolve(name, repo=repo).only().read()
    if tensors_digest(checkpoint.tensors) != golden.weights["sha256"]:
        raise UsageError(f"{name}: not the weights that the golden file was made from; name that model, or make a golden file of this one")
    model: Model = build_model(checkpoint, backend)
    return model
