"""The command `demucs-np web`."""

from __future__ import annotations

from pathlib import Path

import click

from . import completion
from .terminal import say


@click.group()
def web() -> None:
    """The models in a web page: a static folder in which they run, without a server and without a runtime."""


@web.command()
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="The folder to write.")
@click.option(
    "-n", "--name", "names", multiple=True, default=["demo"], show_default=True, shell_complete=completion.models,
    help="A model, as for `separate`: HTDemucs models and bags, or a file of one's own. May be given again.",
)  # fmt: skip
@click.option("--repo", type=click.Path(path_type=Path), help="Folder with models, as for `separate`.")
@click.option(
    "--copy", is_flag=True, help="Put published weights into the folder too, instead of naming the address they are published at."
)
@click.option("-v", "--verbose", is_flag=True, help="Show tracebacks.")
def build(out: Path, names: tuple[str, ...], repo: Path | None, copy: bool, verbose: bool) -> None:
    """Write a static folder that any web host can serve."""
    from ..web.site import build as write

    write(out, names, repo=repo, copy=copy, report=say)
    click.echo(f"{out} is ready: `demucs-np web serve {out}` shows it")


@web.command()
@click.argument("site", type=click.Path(path_type=Path, file_okay=False))
@click.option("--port", default=8766, show_default=True, type=click.IntRange(0, 65535), help="0: any free one.")
def serve(site: Path, port: int) -> None:
    """Serve a site on this computer, with the headers that let its threads share memory. Ctrl-C ends it."""
    from ..web.serving import server

    with server(site, port) as running:
        click.echo(f"http://127.0.0.1:{running.server_address[1]}/")
        running.serve_forever()
