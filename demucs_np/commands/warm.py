"""The command `demucs-np warm`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from . import completion
from .terminal import Bar

OTHER_RATE = 48000  # not a model's: resampling is compiled too


@click.command()
@click.option(
    "-n", "--name", default="demo", show_default=True, shell_complete=completion.models,
    help="Whose kernels: a model's name, as for `separate`, or a file.",
)  # fmt: skip
@click.option("--repo", type=click.Path(path_type=Path), help="Folder with models, as for `separate`.")
@click.option("-v", "--verbose", is_flag=True, help="Show tracebacks.")
def warm(name: str, repo: Path | None, verbose: bool) -> None:
    """Compile ahead what separating with a model needs: for images, services and machines without a folder to write to later.

    The model is fetched if it is not there, and runs once on noise. Where there are two cores, two processes compile. Compiled kernels are
    kept in NUMBA_CACHE_DIR, or beside the package, or in the user's cache folder.
    """
    import numpy as np

    from .. import Separator, load_model

    bar = Bar(sys.stderr)
    begin = time.monotonic()
    try:
        with bar.telling():
            model = load_model(name, repo=repo)
            noise = np.random.default_rng(0).standard_normal((model.audio_channels, OTHER_RATE), dtype=np.float32) / 10
            Separator(model).separate_array(noise, OTHER_RATE)
    finally:
        bar.clear()
    click.echo(f"{name} is ready, after {time.monotonic() - begin:.0f} s")
