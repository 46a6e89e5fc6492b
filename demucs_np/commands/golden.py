"""The command `demucs-np golden`."""

from __future__ import annotations

from pathlib import Path

import click

from . import completion
from .separate import Real
from .terminal import say


@click.command()
@click.argument("model", shell_complete=completion.models)
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The golden file to write.")
@click.option("--repo", type=click.Path(path_type=Path), help="Folder with models, as for `separate`.")
@click.option("--audio", type=click.Path(path_type=Path), help="Take the input from this file.  [default: drawn from --seed]")
@click.option("--at", default=0.0, show_default=True, type=Real(min=0), help="With --audio: from this second on.")
@click.option("--seed", default=0, show_default=True, help="Draw the input, notes and drum hits, from this seed.")
@click.option("-v", "--verbose", is_flag=True, help="Show tracebacks.")
def golden(model: str, out: Path, repo: Path | None, audio: Path | None, at: float, seed: int, verbose: bool) -> None:
    """Record what PyTorch computes with the weights of MODEL, layer by layer. Needs torch and demucs."""
    from ..parity.named import record_model
    from ..weights.files import check_writable

    check_writable(out)
    say("running upstream in PyTorch twice, in float32 and float64; a full-size model takes a minute")
    recorded = record_model(model, repo=repo, audio=audio, at=at, seed=seed)
    recorded.save(out)
    click.echo(f"{out}: {len(recorded.layers)} layers of {recorded.klass}, {out.stat().st_size / 1e6:.2f} MB")
