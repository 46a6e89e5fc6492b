"""The commands `demucs-np models ...` and `demucs-np convert`."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import click

from ..errors import DemucsError, ModelError
from ..weights import catalog, hub
from ..weights.convert import convert_directory, convert_file
from ..weights.repo import SUFFIXES
from ..weights.resolve import read_model_file, unknown


@click.group()
def models() -> None:
    """List, fetch and check the published models."""


@models.command("list")
def list_command() -> None:
    """List the published models."""
    rows = [("NAME", "STEMS", "SIZE", "CACHED", "ARCHITECTURE", "")]
    for bag in catalog.BAGS.values():
        paths = hub.files(bag.signatures)
        have = sum(path is not None for path in paths.values())
        cached = "yes" if have == len(paths) else f"{have} of {len(paths)}" if have else "no"
        rows.append((bag.name, str(len(bag.stems)), _size(bag, paths), cached, bag.architecture, bag.about))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    for row in rows:
        click.echo("  ".join([*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[5]]).rstrip())


def _size(bag: catalog.Bag, paths: dict[str, Path | None]) -> str:
    """Of the files that are cached, or else of the download as far as it is known."""
    files = [path for path in paths.values() if path]
    if len(files) == len(paths):
        return f"{sum(path.stat().st_size for path in files) / 1e6:.0f} MB"
    return f"{bag.megabytes * len(paths)} MB" if bag.megabytes else "-"


@models.command("info")
@click.argument("name")
def info_command(name: str) -> None:
    """Describe the model NAME: a published name or signature, or the path of a model file."""
    if Path(name).suffix in SUFFIXES:
        _describe_file(Path(name))
        return
    bag = catalog.BAGS.get(name)
    if bag:
        segment = f"{bag.segment} s" if bag.segment else "the model's own"
        for title, text in (
            ("name", bag.name), ("about", bag.about), ("architecture", bag.architecture), ("stems", " ".join(bag.stems)),
            ("segment", segment), ("models", str(len(bag.signatures))),
        ):  # fmt: skip
            click.echo(f"{title + ':':14}{text}")
        for signature, weights in zip(bag.signatures, bag.weights or [()] * len(bag.signatures), strict=True):
            shares = " ".join(
                stem if weight == 1 else f"{stem}*{weight:g}" for stem, weight in zip(bag.stems, weights, strict=False) if weight
            )
            click.echo(f"  {signature}{'  for ' + shares if shares else ''}")
    for signature, path in hub.files(_signatures(name)).items():
        click.echo()
        if path:
            _describe_file(path)
        else:
            click.echo(f"{signature}: not cached; `demucs-np models download {name}` fetches it")


def _describe_file(path: Path) -> None:
    """What the file itself says."""
    model = read_model_file(path)
    config = model.config
    count = sum(math.prod(stored.array.shape) for stored in model.stored.values())
    types = ", ".join(sorted({stored.dtype for stored in model.stored.values()}))
    for title, text in (
        ("file", str(path)), ("class", config.klass), ("parameters", f"{count:,} in {len(model.stored)} tensors ({types})"),
        ("stems", " ".join(config.sources)), ("sample rate", f"{config.samplerate} Hz"), ("channels", str(config.audio_channels)),
        ("segment", f"{float(config.segment):g} s"), ("arguments", ", ".join(f"{key}={value}" for key, value in model.kwargs.items())),
    ):  # fmt: skip
        click.echo(f"{title + ':':14}{text}")


def _signatures(name: str) -> tuple[str, ...]:
    if name in catalog.BAGS:
        return catalog.BAGS[name].signatures
    if name in catalog.LEGACY:
        return (name,)
    raise ModelError(unknown(name))


@models.command("download")
@click.argument("names", nargs=-1, required=True)
@click.pass_context
def download_command(ctx: click.Context, names: Sequence[str]) -> None:
    """Fetch the weights of NAMES (published names or signatures) into the cache."""
    failed = False
    for name in names:
        try:
            for signature in dict.fromkeys(_signatures(name)):
                click.echo(f"{signature}: {hub.fetch(signature)}")
        except DemucsError as error:
            click.echo(f"Error: {name}: {error}", err=True)
            failed = True
    ctx.exit(1 if failed else 0)


@models.command("verify")
@click.argument("names", nargs=-1)
@click.pass_context
def verify_command(ctx: click.Context, names: Sequence[str]) -> None:
    """Compute the SHA-256 of the cached weights of NAMES (all, if none is given) again and compare."""
    wanted = [signature for name in names for signature in _signatures(name)] if names else list(catalog.LEGACY)
    failed = False
    paths = hub.files(wanted)
    for signature, path in paths.items():
        if path is None:
            if names:
                click.echo(f"{signature}: not cached", err=True)
                failed = True
            continue
        good = hub.intact(path)
        if good is False:
            click.echo(
                f"{signature}: CORRUPT {path}; delete it (and {path.resolve()}), then `demucs-np models download {signature}`", err=True
            )
            failed = True
        else:
            click.echo(f"{signature}: {'ok' if good else 'cached, but its checksum is not known here'}  {path}")
    if not any(paths.values()):
        click.echo("Nothing is cached.")
    ctx.exit(1 if failed else 0)


@models.command("path")
@click.argument("name")
def path_command(name: str) -> None:
    """Print where the cached files of the model NAME lie."""
    for signature, path in hub.files(_signatures(name)).items():
        if path is None:
            raise ModelError(f"{signature} is not cached; `demucs-np models download {name}` fetches it")
        click.echo(path)


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
@click.pass_context
def convert(ctx: click.Context, source: Path, target: Path) -> None:
    """Convert SOURCE, an official .th package, to TARGET, a .safetensors file that this program and demucs both load.

    If SOURCE is a folder, every .th file in it is converted into the folder TARGET.
    """
    if not source.is_dir():
        click.echo(f"{source} -> {convert_file(source, target)}")
        return

    def report(file: Path, result: Path | DemucsError) -> None:
        if isinstance(result, DemucsError):
            click.echo(f"Error: {result}", err=True)
        else:
            click.echo(f"{os.fspath(file)} -> {result}")

    ctx.exit(0 if convert_directory(source, target, report) else 1)
