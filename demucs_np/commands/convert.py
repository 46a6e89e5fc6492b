"""The command `demucs-np convert`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ..errors import DemucsError, UsageError
from ..weights import hub
from ..weights.convert import convert_directory, convert_file
from ..weights.resolve import describe_file, resolve
from . import completion


def describing(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say what a file of tensors alone does not."""
    for option in (
        click.option("--stems", metavar="A,B", help="Names of the stems, in the file's order: with --like, or to call them otherwise."),
        click.option("--like", metavar="NAME", help="Its shape is that of: htdemucs, htdemucs_6s, hdemucs_mmi, or one here."),
        click.option("--config", type=click.Path(path_type=Path), help="The YAML of its training.  [default: one beside it]"),
    ):
        command = option(command)
    return command


def stem_names(stems: str | None) -> tuple[str, ...] | None:
    """The names in `--stems A,B`."""
    return tuple(stem.strip() for stem in stems.split(",")) if stems else None


@click.command()
@click.argument("source", shell_complete=completion.models)
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--repo", type=click.Path(path_type=Path), help="Folder with models, as for `separate`.")
@describing
@click.pass_context
def convert(
    ctx: click.Context, source: str, target: Path, repo: Path | None, config: Path | None, like: str | None, stems: str | None
) -> None:
    """Convert SOURCE, a checkpoint of any program that trains these models or any name of one model, to TARGET, a .safetensors file that
    this program and demucs both load.

    If SOURCE is a folder, every .th file in it is converted into the folder TARGET.
    """
    if repo is not None or not Path(source).is_dir():
        path = resolve(source, repo=repo).only().get(hub.to_stderr)
        click.echo(f"{path} -> {convert_file(path, target, *describe_file(config, like, stem_names(stems)))}")
        return
    if config or like or stems:
        raise UsageError("--config, --like and --stems are for one file, not for a folder")

    def report(file: Path, result: Path | DemucsError) -> None:
        if isinstance(result, DemucsError):
            click.echo(f"Error: {result}", err=True)
        else:
            click.echo(f"{os.fspath(file)} -> {result}")

    ctx.exit(0 if convert_directory(Path(source), target, report) else 1)
