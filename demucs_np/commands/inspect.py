"""The commands `demucs-np inspect` and `demucs-np trace`."""

from __future__ import annotations

import dataclasses
import difflib
import json
import textwrap
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import AudioError, UsageError
from ..inspection.outline import Module, extras, modules, segment_samples
from ..models.config import Config

if TYPE_CHECKING:
    import numpy as np

    from ..inspection.module_times import Times
    from ..models.bag import BagOfModels, Model

WIDTH = 118  # of the wrapped lines of arguments


@click.command()
@click.argument("model")
@click.option("--repo", type=click.Path(path_type=Path), help="Folder with models, as for `separate`.")
@click.option("--time", "timed", is_flag=True, help="Run one segment and show each module's share of the time.")
@click.option("--threads", type=click.IntRange(min=1), help="With --time: CPU threads.  [default: all cores]")
@click.option("--depth", default=3, show_default=True, type=click.IntRange(min=1), help="Steps of the longest paths to print.")
@click.option("--json", "as_json", is_flag=True, help="Print everything, to any depth, as JSON.")
@click.option("-v", "--verbose", is_flag=True, help="Show tracebacks.")
def inspect(model: str, repo: Path | None, timed: bool, threads: int | None, depth: int, as_json: bool, verbose: bool) -> None:
    """Print what MODEL is made of: its modules under the reference's paths, the shapes of their outputs for one segment, parameters
    and multiply-adds. Of a bag, its members and their weights, and each architecture once.

    A path with a star is one that `demucs-np trace` can record.
    """
    from ..weights.resolve import resolve

    named = resolve(model, repo=repo)
    names = [member.name for member in named.members]
    loaded = named.load("numba" if timed else "numpy")
    distinct: dict[Any, Model] = {member.config: member for member in reversed(loaded.models)}
    found = [
        (config, tree := modules(config), _measure(one, tree, threads) if timed else None) for config, one in reversed(distinct.items())
    ]
    if as_json:
        click.echo(json.dumps(_as_json(loaded, names, found), indent=1, default=_plain))
        return
    if len(names) > 1:
        click.echo(_bag_table(loaded, names, [config for config, *_ in found]))
    for number, (config, tree, times) in enumerate(found, 1):
        title = f"architecture {number}: " if len(found) > 1 else ""
        click.echo(title + _description(config, tree))
        click.echo(_tree_table(tree, times, depth))


def _measure(model: Model, tree: list[Module], threads: int | None) -> Times:
    from ..inspection.module_times import measure

    return measure(model, tree, threads=threads)


def _bag_table(bag: BagOfModels, names: Sequence[str], configs: list[Config]) -> str:
    rows = [("member", "architecture", *bag.sources)]
    for name, member, weights in zip(names, bag.models, bag.weights, strict=True):
        rows.append((name, str(configs.index(member.config) + 1), *(f"{weight:g}" for weight in weights)))
    return f"a bag of {len(names)} models, and the weight of each for each stem\n\n{_columns(rows, '<' + '>' * (len(rows[0]) - 1))}\n"


def _description(config: Config, tree: list[Module]) -> str:
    seconds = float(config.segment)
    root = tree[0]
    lines = [
        f"{config.klass}: {', '.join(config.sources)}; {config.audio_channels} channels at {config.samplerate} Hz",
        f"one segment of {seconds:g} s is {segment_samples(config)} samples; {root.parameters:,} parameters in "
        f"{sum(len(module.tensors) for module in tree)} tensors; {root.multiply_adds / 1e9:.2f} G multiply-adds a segment, "
        f"{root.multiply_adds / seconds / 1e9:.2f} G a second of audio",
        "",
    ]
    changed: list[str] = []
    default: list[str] = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        (default if value == field.default else changed).append(f"{field.name}={_shown(value)}")
    for title, values in (("arguments", changed), ("defaults", default)):
        lines += textwrap.wrap(f"{title + ':':11}{', '.join(values)}", WIDTH, subsequent_indent=" " * 11, break_long_words=False)
    return "\n".join(lines) + "\n"


def _shown(value: object) -> str:
    return str(value) if isinstance(value, Fraction) else repr(value)


def _tree_table(tree: list[Module], times: Times | None, depth: int) -> str:
    rows = [("module", "kind", "output shape", "parameters", "multiply-adds", *(["time"] if times else []))]
    for module in tree[1:]:
        if module.path.count(".") < depth:
            rows.append(_row(module.path, module, times.modules.get(module.path, 0) / times.total if times else None))
    rows.append(_row("total", tree[0], 1.0 if times else None))
    text = _columns(rows, "<<<>>>")
    if times:
        outside = "; ".join(f"{what} {seconds / times.total:.1%}" for what, seconds in times.outside.items())
        text += f"\n\n{times.total:.2f} s a segment; outside the modules: {outside}"
    return text


def _row(path: str, module: Module, share: float | None) -> tuple[str, ...]:
    shape = "" if module.shape is None else f"({', '.join(map(str, module.shape))})"
    work = _short(module.multiply_adds)
    return (path + (" *" if module.traced else ""), module.kind, shape, f"{module.parameters:,}", work) + (
        () if share is None else (f"{share:.1%}" if share else "",)
    )


def _short(count: int) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return str(count) if count else ""


def _columns(rows: Sequence[tuple[str, ...]], align: str) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(f"{text:{side}{width}}" for text, side, width in zip(row, align, widths, strict=False)).rstrip() for row in rows]
    return "\n".join(lines)


def _as_json(model: BagOfModels, names: Sequence[str], found: list[tuple[Config, list[Module], Times | None]]) -> dict[str, Any]:
    configs = [config for config, *_ in found]
    return {
        "members": [
            {"name": name, "architecture": configs.index(member.config), "weights": row}
            for name, member, row in zip(names, model.models, model.weights, strict=True)
        ],
        "architectures": [
            {
                "class": config.klass,
                "arguments": dataclasses.asdict(config),
                "samples": segment_samples(config),
                "extras": extras(config),
                "seconds": times and {"total": times.total, "outside": times.outside},
                "modules": [dataclasses.asdict(module) | ({"seconds": times.modules.get(module.path)} if times else {}) for module in tree],
            }
            for config, tree, times in found
        ],
    }


def _plain(value: object) -> object:
    if isinstance(value, Fraction):
        return str(value)
    raise TypeError(f"{value!r} of type {type(value).__name__} has no form in JSON")


@click.command()
@click.argument("track", type=click.Path(path_type=Path))
@click.option("-n", "--name", required=True, help="Model: a published name that stands for one model, or the path of a model file.")
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
    """Run one segment of TRACK through a model and keep its activations, under the names and in the order of axes of the reference.

    The track is normalised as `separate` does. `demucs-np inspect` lists the layers (those with a star). Patterns that end with their
    name also reach '*.skip' (what a decoder layer is given from its encoder layer), '*.heads' (what each attention head adds up) and
    '*.weights' (how much of each key each query takes; large).
    """
    if out is None and plot is None:
        raise UsageError("nothing to write: give -o FILE.safetensors, --plot FOLDER, or both")
    if plot is not None:
        from ..inspection.plots import require_matplotlib

        require_matplotlib()
    taps = trace_track(track, name, repo=repo, at=at, layers=layers or None, backend=backend, threads=threads)
    size = sum(activation.nbytes for activation in taps.values())
    if out is not None:
        _save(out, taps, {"format": "demucs_np trace", "track": track.name, "model": name, "at": f"{at:g}"})
        click.echo(f"{out}: {len(taps)} activations, {size / 1e6:.1f} MB")
    if plot is not None:
        from ..inspection.plots import draw_all

        click.echo(f"{plot}: {len(draw_all(taps, plot))} pictures")


def trace_track(
    track: Path,
    name: str,
    *,
    repo: Path | None = None,
    at: float = 0,
    layers: Sequence[str] | None = None,
    backend: str = "numba",
    threads: int | None = None,
) -> dict[str, np.ndarray]:
    """The activations of one segment of an audio file from `at` seconds on: path -> float32 array, in order of execution.

    `layers`: patterns as for `trace` (None: all modules that are traced). Raises UsageError for a pattern that matches nothing or a name
    that stands for several models, AudioError beyond the file's end.
    """
    from ..models.taps import trace as tracing
    from ..threads import use_threads
    from ..weights.resolve import build, resolve

    checkpoint = resolve(name, repo=repo).only().read()
    config = checkpoint.config
    check_layers(config, layers or ())
    mix = read_segment(track, at, config)
    model: Model = build(checkpoint, backend)
    with use_threads(threads), tracing(layers=layers) as taps:
        model(mix[None])
    return taps


def check_layers(config: Config, patterns: Sequence[str]) -> None:
    """Raise UsageError for a pattern that no activation of such a model matches."""
    from ..models.taps import matches

    plain = [module.path for module in modules(config) if module.traced]
    extra = extras(config)
    for pattern in patterns:
        if not any(matches(path, pattern) for path in plain) and not any(matches(path, pattern, extra=True) for path in extra):
            near = difflib.get_close_matches(pattern, plain + extra, 1, cutoff=0)
            raise UsageError(f"no layer matches {pattern!r} (the nearest is {near[0]}); `demucs-np inspect MODEL` lists them")


def read_segment(path: Path, at: float, config: Config) -> np.ndarray:
    """One segment (channels, samples) of a file from `at` seconds on, shorter at its end, at the loudness that `separate` gives it."""
    import numpy as np

    from ..audio import open_track, read_blocks
    from ..separation.separator import Moments

    start, length = round(at * config.samplerate), segment_samples(config)
    position, parts, moments = 0, [], Moments()
    with open_track(path) as track:
        for block in read_blocks(track, config.samplerate, config.audio_channels):
            parts.append(block[:, max(start - position, 0) : max(start + length - position, 0)])
            position += block.shape[1]
            moments.update(block)
    segment = np.concatenate(parts, axis=1)
    if segment.shape[1] < 2:
        raise AudioError(f"{path}: is {position / config.samplerate:.2f} s long; choose an --at before its end")
    return np.ascontiguousarray((segment - np.float32(moments.mean)) / np.float32(moments.std + 1e-8), np.float32)


def _save(path: Path, taps: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    from safetensors.numpy import save

    from ..weights.files import written_whole

    with written_whole(path) as file:
        file.write(save(taps, metadata=metadata))
