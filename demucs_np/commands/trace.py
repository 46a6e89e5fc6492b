"""The command `demucs-np trace`."""

from __future__ import annotations

from pathlib import Path

import click

from ..errors import UsageError
from . import completion
from .terminal import say


@click.command()
@click.argument("track", type=click.Path(path_type=Path))
@click.option(
    "-n",
    "--name",
    required=True,
    shell_complete=completion.models,
    help="Model: a published name that stands for one model, or the path of a model file.",
)
@click.option("--repo", type=click.Path(path_type=Path), help="Folder with models, as for `separate`.")
@click.option("--at", default=0.0, show_default=True, type=click.FloatRange(min=0), help="Where the segment begins, in seconds.")
@click.option(
    "--layers", multiple=True, metavar="PATTERN",
    help="What to record, like 'encoder.*'; may be given several times.  [default: every layer]",
)  # fmt: skip
@click.option("-o", "--out", type=click.Path(path_type=Path, dir_okay=False), help="The safetensors file to write.")
@click.option("--plot", type=click.Path(path_type=Path, file_okay=False), help="Draw each activation into this folder.")
@click.option("--backend", type=click.Choice(["numba", "numpy"]), default="numba", show_default=True, help="Which implementation to run.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: all cores]")
@click.option("-v", "--verbose", is_flag=True, help="Show tracebacks.")
def trace(
    track: Path, name: str, repo: Path | None, at: float, layers: tuple[str, ...], out: Path | None, plot: Path | None,
    backend: str, threads: int | None, verbose: bool,
) -> None:  # fmt: skip
    """Run one segment of TRACK through a model and keep its activations, under the names and in the order of axes of upstream.

    The track is normalised as `separate` does. `demucs-np inspect` lists the layers (those with a star). Patterns that end with their
    name also reach '*.skip' (what a decoder layer is given from its encoder layer), '*.heads' (each attention head's output) and
    '*.weights' (how much of each key each query takes; large).
    """
    if out is None and plot is None:
        raise UsageError("nothing to write: give -o FILE.safetensors, --plot FOLDER, or both")
    if plot is not None:
        from ..inspection.plots import require_matplotlib

        require_matplotlib()
    from ..inspection.tracing import save, trace_track
    from ..weights.files import check_writable

    for target in filter(None, (out, plot and plot / "encoder.0.png")):
        check_writable(target)
    say(f"running one segment of {track.name}")
    taps, scale = trace_track(track, name, repo=repo, at=at, layers=layers or None, backend=backend, threads=threads)
    size = sum(activation.nbytes for activation in taps.values())
    if out is not None:
        save(out, taps, {"format": "demucs_np trace", "track": track.name, "model": name, "at": f"{at:g}"})
        click.echo(f"{out}: {len(taps)} activations, {size / 1e6:.1f} MB")
    if plot is not None:
        from ..inspection.plots import draw_all

        say(f"drawing {len(taps)} pictures")
        click.echo(f"{plot}: {len(draw_all(taps, plot, scale))} pictures")
