"""The command `demucs-np convert`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from ..errors import DemucsError
from ..weights import hub
from ..weights.convert import convert_directory, convert_file
from ..weights.resolve import resolve
from . import completion


@click.command()
@click.argument("source", shell_complete=completion.models)
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--repo", type=click.Path(path_type=Path), help="Folder with models, as for `separate`.")
@click.pass_context
def convert(ctx: click.Context, source: str, target: Path, repo: Path | None) -> None:
    """Convert SOURCE, an official .th package or any name of one model, to TARGET, a .safetensors file that this program and demucs both
    load.

    If SOURCE is a folder, every .th file in it is converted into the folder TARGET.
    """
    if repo is not None or not Path(source).is_dir():
        path = resolve(source, repo=repo).only().get(hub.to_stderr)
        click.echo(f"{path} -> {convert_file(path, target)}")
        return

    def report(file: Path, result: Path | DemucsError) -> None:
        if isinstance(result, DemucsError):
            click.echo(f"Error: {result}", err=True)
        else:
            click.echo(f"{os.fspath(file)} -> {result}")

    ctx.exit(0 if convert_directory(Path(source), target, report) else 1)
