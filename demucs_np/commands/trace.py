"""The command `demucs-np trace`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..errors import UsageError
from . import completion
from .separate import Real
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
@click.option("--at", default=0.0, show_default=True, type=Real(min=0), help="Where the segment begins, in seconds.")
@click.option(
    "--layers", multiple=True, metavar="PATTERN",
    help="What to record, like 'encoder.*'; may be given several times.  [default: every layer]",
)  # fmt: skip
@click.option(
    "--ablate",
    multiple=True,
    metavar="PATH[:HEAD]",
    help="Switch a part of the model off: a residual branch, a skip, or one head of an attention; may be given several times.",
)
@click.option("--listen", type=click.Path(path_type=Path, file_okay=False), help="Write the stems with and without it to this folder.")
@click.option("-o", "--out", type=click.Path(path_type=Path, dir_okay=False), help="The safetensors file to write.")
@click.option("--plot", type=click.Path(path_type=Path, file_okay=False), help="Draw each activation into this folder.")
@click.option("--backend", type=click.Choice(["numba", "numpy"]), default="numba", show_default=True, help="Which implementation to run.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: all cores]")
@click.option("-v", "--verbose", is_flag=True, help="Show tracebacks.")
def trace(
    track: Path, name: str, repo: Path | None, at: float, layers: tuple[str, ...], ablate: tuple[str, ...], listen: Path | None,
    out: Path | None, plot: Path | None, backend: str, threads: int | None, verbose: bool,
) -> None:  # fmt: skip
    """Run one segment of TRACK through a model and keep its activations, under the names and in the order of axes of upstream.

    The track is normalised as `separate` does. `demucs-np inspect` lists the layers (those with a star). Patterns that end with their
    name also reach '*.skip' (what a decoder layer is given from its encoder layer), '*.heads' (each attention head's output) and
    '*.weights' (how much of each key each query takes; large).

    --ablate switches a part of the model off; `demucs-np inspect` lists what can be. With --listen the segment's stems are written as
    STEM.wav, without the part as STEM.ablated.wav, and what it adds as STEM.difference.wav, all with one gain.
    """
    if out is None and plot is None and listen is None:
        raise UsageError("nothing to write: give -o FILE.safetensors, --plot FOLDER, or --ablate PATH with --listen FOLDER")
    if listen is not None and not ablate:
        raise UsageError("--listen needs a part to switch off: give --ablate PATH; `demucs-np inspect MODEL` lists them")
    if plot is not None:
        from ..inspection.plots import require_matplotlib

        require_matplotlib()
    from ..weights.files import check_writable

    for target in filter(None, (out, plot and plot / "encoder.0.png", listen and listen / "mix.wav")):
        check_writable(target)
    say(f"running one segment of {track.name}")
    how: dict[str, Any] = {"repo": repo, "at": at, "ablate": ablate, "backend": backend, "threads": threads}
    if listen is not None:
        _listen(track, name, listen, how)
    if out is not None or plot is not None:
        _record(track, name, out, plot, how | {"layers": layers or None})


def _listen(track: Path, name: str, folder: Path, how: dict[str, Any]) -> None:
    from ..inspection.listening import changes, files_of, table, write_all
    from ..inspection.tracing import hear_track

    plain, ablated, samplerate = hear_track(track, name, **how)
    if told := write_all(folder, plain, ablated, samplerate):
        say(told)
    click.echo(table(changes(plain, ablated)))
    click.echo(f"{folder}: {len(files_of(folder, list(plain)))} files")


def _record(track: Path, name: str, out: Path | None, plot: Path | None, how: dict[str, Any]) -> None:
    from ..inspection.tracing import save, trace_track

    taps, scale = trace_track(track, name, **how)
    size = sum(activation.nbytes for activation in taps.values())
    if out is not None:
        ablated = {"ablate": " ".join(how["ablate"])} if how["ablate"] else {}
        save(out, taps, {"format": "demucs_np trace", "track": track.name, "model": name, "at": f"{how['at']:g}"} | ablated)
        click.echo(f"{out}: {len(taps)} activations, {size / 1e6:.1f} MB")
    if plot is not None:
        from ..inspection.plots import draw_all

        say(f"drawing {len(taps)} pictures")
        click.echo(f"{plot}: {len(draw_all(taps, plot, scale))} pictures")
