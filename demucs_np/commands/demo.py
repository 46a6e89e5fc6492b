"""The command `demucs-np demo`."""

from __future__ import annotations

import sys

import click


@click.command()
@click.option("-o", "--out", default="separated", show_default=True, help="Folder for the results; they are in its demo/song.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: all cores]")
def demo(out: str, threads: int | None) -> None:
    """Separate the bundled song with the bundled model: stems, how much each gained, and a picture. Needs no network."""
    from ..demo.run import run_demo
    from .terminal import Bar

    bar = Bar(sys.stderr)
    bar.title = "the demo song"

    def echo(text: str) -> None:
        bar.clear()
        click.echo(text)

    try:
        with bar.telling():
            run_demo(out, threads=threads, progress=bar, echo=echo)
    finally:
        bar.clear()
