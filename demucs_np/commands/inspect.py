"""The command `demucs-np inspect`."""

from __future__ import annotations

from pathlib import Path

import click

from . import completion


@click.command()
@click.argument("model", shell_complete=completion.models)
@click.option("--repo", type=click.Path(path_type=Path), help="Folder with models, as for `separate`.")
@click.option("--time", "timed", is_flag=True, help="Run one segment and show each module's share of the time.")
@click.option("--threads", type=click.IntRange(min=1), help="With --time: CPU threads.  [default: all cores]")
@click.option("--depth", default=3, show_default=True, type=click.IntRange(min=1), help="Steps of the longest paths to print.")
@click.option("--json", "as_json", is_flag=True, help="Print everything, to any depth, as JSON.")
@click.option("-v", "--verbose", is_flag=True, help="Show tracebacks.")
def inspect(model: str, repo: Path | None, timed: bool, threads: int | None, depth: int, as_json: bool, verbose: bool) -> None:
    """Print what MODEL is made of: its modules under upstream's paths, the shapes of their outputs for one segment, parameters
    and multiply-adds. Of a bag, its members and their weights, and each architecture once.

    A path with a star is one that `demucs-np trace` records; below the table stands what it records if it is asked for by name.
    """
    from ..inspection.report import report

    click.echo(report(model, repo=repo, timed=timed, threads=threads, depth=depth, as_json=as_json))
