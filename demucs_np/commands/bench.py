"""The command `demucs-np bench`."""

from __future__ import annotations

import dataclasses
import json

import click

from ..inspection import speed
from .terminal import say


@click.command()
@click.option("-n", "--name", type=click.Choice(list(speed.MODELS)), default="htdemucs", show_default=True, help="Which shape of model.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: all cores]")
@click.option("--backend", type=click.Choice(["numba", "numpy"]), default="numba", show_default=True, help="Which implementation.")
@click.option("--repeats", type=click.IntRange(min=2), default=5, show_default=True, help="Timed runs.")
@click.option("--profile", "with_profile", is_flag=True, help="Instead: time, arithmetic and memory traffic of every layer.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON in place of the table.")
@click.option("-v", "--verbose", is_flag=True, help="Show tracebacks.")
def bench(name: str, threads: int | None, backend: str, repeats: int, with_profile: bool, as_json: bool, verbose: bool) -> None:
    """Measure speed, memory and parity on this machine, in about a minute and without a download.

    The exit status is 1 if the numbers are not PyTorch's.
    """
    about = speed.machine()
    if with_profile:
        from ..inspection.profiling import profile

        model = speed.seeded_model(name, backend)
        say(f"profiling {name}: one warm-up and {min(repeats, 3)} passes; the first run on a machine compiles the kernels")
        profiled = profile(model, speed.input_for(model), threads=threads, passes=min(repeats, 3))
        click.echo(json.dumps({"model": name, "about": about} | profiled.as_dict(), indent=1) if as_json else str(profiled))
        return
    say(f"running {name} up to {repeats + 1} times; the first run on a machine compiles the kernels")
    result = speed.measure(name, threads=threads, backend=backend, repeats=repeats)
    say("comparing a small model with what PyTorch computed")
    parity = speed.check_parity(backend, threads)
    if as_json:
        fields = dataclasses.asdict(result) | {"speed": result.speed, "track": result.track}
        click.echo(json.dumps({"about": about, "result": fields, "parity": json.loads(parity.json())}, indent=1))
    else:
        click.echo(speed.report(result, about, parity))
    if not parity.passed:
        raise click.exceptions.Exit(1)
