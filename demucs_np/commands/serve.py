"""The command `demucs-np serve`, and the options it shares with `demucs-np studio`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from .separate import Real

Command = Callable[..., Any]


def server_options(command: Command) -> Command:
    """Where to listen."""
    port = click.option("--port", default=8765, show_default=True, type=click.IntRange(0, 65535), help="0: any free one.")
    host = click.option(
        "--host", default="127.0.0.1", show_default=True, help="Another address lets others in who have the token that is printed then."
    )
    return host(port(command))


max_upload_option = click.option("--max-upload", default=2.0, show_default=True, type=Real(min=0, min_open=True), help="GB, of one file.")


@click.command()
@click.argument("folder", default="studio", type=click.Path(path_type=Path, file_okay=False))
@server_options
@max_upload_option
def serve(folder: Path, host: str, port: int, max_upload: float) -> None:
    """Serve the studio without opening a browser: its page, and its HTTP API, which /openapi.json describes. Tracks are kept in FOLDER."""
    from ..studio.launch import serve as run

    run(folder, host=host, port=port, max_upload=int(max_upload * 1e9), browser=False, demo=False, echo=click.echo)
