"""The command `demucs-np studio`."""

from __future__ import annotations

from pathlib import Path

import click

from .serve import max_upload_option, server_options


@click.command()
@click.argument("folder", default="studio", type=click.Path(path_type=Path, file_okay=False))
@server_options
@max_upload_option
@click.option("--demo", is_flag=True, help="Begin with the demo song, if the folder is empty.")
@click.option("--no-browser", is_flag=True, help="Only print the address.")
def studio(folder: Path, host: str, port: int, max_upload: float, demo: bool, no_browser: bool) -> None:
    """Open the studio in the browser: drop songs, hear the stems, save what you want. Tracks are kept in FOLDER (default: studio).

    Nothing leaves this computer, and nobody else reaches the studio.
    """
    from ..studio.launch import serve

    serve(folder, host=host, port=port, max_upload=int(max_upload * 1e9), browser=not no_browser, demo=demo, echo=click.echo)
