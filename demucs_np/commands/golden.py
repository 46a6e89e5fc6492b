"""The commands `demucs-np golden` and `demucs-np verify`, and what they do as plain functions."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from numpy.typing import NDArray

from ..errors import AudioError, DemucsError, UsageError
from ..parity.recipe import draw_mix, tensors_digest
from ..parity.record import Golden, load_golden
from ..parity.seeded import seeded_model
from ..parity.verify import Report, verify_golden

if TYPE_CHECKING:
    from ..models.bag import Model
    from ..models.config import Config

MAX_SECONDS = 10  # of a recorded run: HDemucs and Demucs would take 40 s and tens of GB in float64


def record_model(name: str, *, repo: Path | None = None, audio: Path | None = None, at: float = 0, seed: int = 0) -> Golden:
    """Run the PyTorch reference with the weights of a model and record it.

    The input is one segment (at most 10 s) of an audio file from `at` seconds on, or drawn from `seed`. `name` stands for one
    model. Raises UsageError where torch or demucs is missing, or the name is a bag's.
    """
    from ..parity.upstream import build, make_golden, require_reference
    from ..weights.resolve import resolve

    require_reference()
    checkpoint = resolve(name, repo=repo).only().read()
    config = checkpoint.config
    length = int(min(config.segment, MAX_SECONDS) * config.samplerate)
    if audio is None:
        mix = draw_mix(seed, config.audio_channels, length, config.samplerate)
        source: dict[str, Any] = {"seed": seed, "channels": config.audio_channels, "length": length}
    else:
        mix = read_excerpt(audio, at, length, config)
        source = {"file": audio.name, "at": at}
    return make_golden(build(config.klass, arguments_of(config), checkpoint.tensors), mix, source=source)


def verify_file(
    path: Path, name: str | None = None, *, repo: Path | None = None, backend: str = "numba", threads: int | None = None
) -> Report:
    """Judge a model against a golden file: the one named, or without a name the one whose weights the file's seed draws.

    Raises UsageError when the model is not the one that the file was made from.
    """
    from ..threads import default_threads, use_threads

    golden = load_golden(path)
    model = seeded_model(golden, backend) if name is None else _named_model(golden, name, repo, backend)
    with use_threads(threads or default_threads()):
        return verify_golden(golden, model)


def _named_model(golden: Golden, name: str, repo: Path | None, backend: str) -> Model:
    from ..weights.resolve import build, resolve

    checkpoint = resolve(name, repo=repo).only().read()
    if tensors_digest(checkpoint.tensors) != golden.weights["sha256"]:
        raise UsageError(f"{name}: not the weights that the golden file was made from; name that model, or make a golden file of this one")
    model: Model = build(checkpoint, backend)
    return model


def read_excerpt(path: Path, at: float, length: int, config: Config) -> NDArray[np.float32]:
    """`length` samples of an audio file from `at` seconds on, as the model takes them. Raises AudioError beyond the file's end."""
    from ..audio import open_track, read_blocks

    start, position, parts = round(at * config.samplerate), 0, []
    with open_track(path) as track:
        for block in read_blocks(track, config.samplerate, config.audio_channels):
            parts.append(block[:, max(start - position, 0) : max(start + length - position, 0)])
            position += block.shape[1]
            if position >= start + length:
                break
    excerpt = np.concatenate(parts, axis=1)
    if excerpt.shape[1] < 2:
        raise AudioError(f"{path}: ends before {at:g} s; choose an earlier --at")
    return excerpt


def arguments_of(config: Config) -> dict[str, Any]:
    """Keyword arguments for the reference's constructor."""
    arguments = {key: list(value) if isinstance(value, tuple) else value for key, value in dataclasses.asdict(config).items()}
    if "wiener_iters" in arguments:
        arguments["end_iters"] = arguments["wiener_iters"]
    return arguments


@click.command()
@click.argument("model")
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The golden file to write.")
@click.option("--repo", type=click.Path(path_type=Path), help="Folder with models, as for `separate`.")
@click.option("--audio", type=click.Path(path_type=Path), help="Take the input from this file.  [default: drawn from --seed]")
@click.option("--at", default=0.0, show_default=True, type=click.FloatRange(min=0), help="With --audio: from this second on.")
@click.option("--seed", default=0, show_default=True, help="Draw the input, notes and drum hits, from this seed.")
@click.option("-v", "--verbose", is_flag=True, help="Show tracebacks.")
def golden(model: str, out: Path, repo: Path | None, audio: Path | None, at: float, seed: int, verbose: bool) -> None:
    """Record what the PyTorch reference computes with the weights of MODEL, layer by layer. Needs torch and demucs."""
    recorded = record_model(model, repo=repo, audio=audio, at=at, seed=seed)
    recorded.save(out)
    click.echo(f"{out}: {len(recorded.layers)} layers of {recorded.klass}, {out.stat().st_size / 1e6:.2f} MB")


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("-n", "--name", help="The model, if its weights are not drawn from a seed: a published name or a file.")
@click.option("--repo", type=click.Path(path_type=Path), help="Folder with models, as for `separate`.")
@click.option("--backend", type=click.Choice(["numba", "numpy"]), default="numba", show_default=True, help="Which implementation to judge.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: all cores]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON in place of the table.")
@click.option("--junit", type=click.Path(path_type=Path, dir_okay=False), help="Write a JUnit report here as well.")
@click.option("-v", "--verbose", is_flag=True, help="Show tracebacks.")
def verify(
    file: Path, name: str | None, repo: Path | None, backend: str, threads: int | None, as_json: bool, junit: Path | None, verbose: bool
) -> None:
    """Compare every layer with what FILE, made by `demucs-np golden`, says the PyTorch reference computed. Needs no PyTorch.

    The exit status is 1 if a layer's error is more than 3 dB above PyTorch's own.
    """
    report = verify_file(file, name, repo=repo, backend=backend, threads=threads)
    if junit:
        try:
            junit.write_text(report.junit(f"{file.name} ({backend})"))
        except OSError as error:
            raise DemucsError(f"{junit}: cannot be written ({error.strerror}); choose another place for --junit") from error
    click.echo(report.json() if as_json else str(report))
    if not report.passed:
        raise click.exceptions.Exit(1)
