"""The command `demucs-np verify`."""

from __future__ import annotations

from pathlib import Path

import click

from ..errors import DemucsError
from . import completion
from .terminal import say


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "-n",
    "--name",
    shell_complete=completion.models,
    help="The model, if its weights are not drawn from a seed: a published name or a file.",
)
@click.option("--repo", type=click.Path(path_type=Path), help="Folder with models, as for `separate`.")
@click.option("--backend", type=click.Choice(["numba", "numpy"]), default="numba", show_default=True, help="Which implementation to judge.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: all cores]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON in place of the table.")
@click.option("--junit", type=click.Path(path_type=Path, dir_okay=False), help="Write a JUnit report here as well.")
@click.option("-v", "--verbose", is_flag=True, help="Show tracebacks.")
def verify(
    file: Path, name: str | None, repo: Path | None, backend: str, threads: int | None, as_json: bool, junit: Path | None, verbose: bool
) -> None:
    """Compare every layer with what FILE, made by `demucs-np golden`, says PyTorch computed. Needs no PyTorch.

    The exit status is 1 if a layer's error is more than 3 dB above PyTorch's own.
    """
    from ..parity.named import verify_file
    from ..parity.verify import junit_of_refusal
    from ..weights.files import check_writable, written_whole

    def write(text: str) -> None:
        if junit:
            with written_whole(junit) as target:
                target.write(text.encode())

    if junit:
        check_writable(junit)
    suite = f"{file.name} ({backend})"
    say(f"running {name or 'the model'} layer by layer")
    try:
        report = verify_file(file, name, repo=repo, backend=backend, threads=threads)
    except DemucsError as error:
        write(junit_of_refusal(suite, error))
        raise
    write(report.junit(suite))
    click.echo(report.json() if as_json else str(report))
    if not report.passed:
        raise click.exceptions.Exit(1)
