"""The commands `demucs-np models ...`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import click

from ..errors import DemucsError, ModelError
from ..models.recipe import Recipe
from ..weights import catalog, elsewhere, hub, own
from ..weights.formats import read_model_file
from ..weights.resolve import describe_file, resolve
from . import completion
from .convert import describing, stem_names

repo_option = click.option("--repo", type=click.Path(path_type=Path), help="Folder with models, as for `separate`.")


@click.group()
def models() -> None:
    """List, fetch and check the published models; give your own a name."""


@models.command("list")
def list_command() -> None:
    """List the published models, the bundled one, and your own."""
    rows = [("NAME", "STEMS", "SIZE", "CACHED", "ARCHITECTURE", "")]
    for bag in [*catalog.BAGS.values(), *catalog.OTHERS.values(), catalog.DEMO]:
        paths = {name: member.path for name, member in resolve(bag.name).distinct.items()}
        have = sum(path is not None for path in paths.values())
        cached = "yes" if have == len(paths) else f"{have} of {len(paths)}" if have else "no"
        rows.append((bag.name, str(len(bag.stems)), _size(bag, paths), cached, bag.architecture, bag.about))
    rows += _own_rows()
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    for row in rows:
        click.echo("  ".join([*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[5]]).rstrip())


def _own_rows() -> list[tuple[str, str, str, str, str, str]]:
    """The user's models and bags; a damaged one is listed as that."""
    rows = []
    mine = own.catalogue()
    for name in [*sorted(mine.files), *sorted(mine.bags)] if mine else ():
        try:
            paths = [path for member in resolve(name).distinct.values() if (path := member.path)]
            config = read_model_file(paths[0]).config if paths else None
            size = f"{sum(path.stat().st_size for path in paths) / 1e6:.0f} MB"
            architecture = config.klass.rpartition(".")[2] if config else "-"
            stems = ", ".join(config.sources) if config else "its models are not cached"
            rows.append((name, str(len(config.sources)) if config else "-", size, "yes", architecture, f"your own: {stems}"))
        except (DemucsError, OSError) as error:
            rows.append((name, "-", "-", "yes", "-", f"your own, but {error}"))
    return rows


def _size(bag: catalog.Bag, paths: dict[str, Path | None]) -> str:
    """Of the files that are cached, or else of the download as far as it is known."""
    files = [path for path in paths.values() if path]
    if len(files) == len(paths):
        return f"{sum(path.stat().st_size for path in files) / 1e6:.0f} MB"
    return f"{bag.megabytes * len(paths)} MB" if bag.megabytes else "-"


@models.command("info")
@click.argument("name", shell_complete=completion.models)
@repo_option
def info_command(name: str, repo: Path | None) -> None:
    """Describe the model NAME, of any spelling that `separate -n` takes."""
    named = resolve(name, repo=repo)
    if repo is None and name in (bags := catalog.BAGS | catalog.OTHERS | {catalog.DEMO.name: catalog.DEMO}):
        bag = bags[name]
        for title, text in (("name", bag.name), ("about", bag.about), ("architecture", bag.architecture), ("stems", " ".join(bag.stems))):
            click.echo(f"{title + ':':14}{text}")
    if len(named.members) > 1 or named.segment:
        click.echo(f"{'segment:':14}{f'{named.segment:g} s' if named.segment else 'the own of each model'}")
        click.echo(f"{'models:':14}{len(named.members)}")
        stems = named.sources or ()
        for member, weights in zip(named.members, named.weights or [()] * len(named.members), strict=True):
            shares = " ".join(stem if weight == 1 else f"{stem}*{weight:g}" for stem, weight in zip(stems, weights, strict=False) if weight)
            click.echo(f"  {member.name}{'  for ' + shares if shares else ''}")
    for member in named.distinct.values():
        click.echo()
        if member.path:
            _describe_file(member.path)
        else:
            click.echo(f"{member.name}: not cached; `demucs-np models download {name}` fetches it")


def _describe_file(path: Path) -> None:
    """What the file itself says."""
    model = read_model_file(path)
    config = model.config
    count = sum(math.prod(stored.array.shape) for stored in model.stored.values())
    types = ", ".join(sorted({stored.dtype for stored in model.stored.values()}))
    for title, text in (
        ("file", str(path)), ("class", config.klass), ("parameters", f"{count:,} in {len(model.stored)} tensors ({types})"),
        ("stems", " ".join(config.sources)), ("sample rate", f"{config.samplerate} Hz"), ("channels", str(config.audio_channels)),
        ("segment", f"{float(config.segment):g} s"), ("run with", _recipe(model.recipe)),
        ("arguments", ", ".join(f"{key}={value}" for key, value in model.kwargs.items())),
    ):  # fmt: skip
        click.echo(f"{title + ':':14}{text}")


def _recipe(recipe: Recipe) -> str:
    level = "at one loudness" if recipe.normalize else "at its own loudness"
    return f"{recipe.shifts} shifts, an overlap of {float(recipe.overlap):g}, a {recipe.window} window, the track {level}"


@models.command("add")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--as", "name", metavar="NAME", required=True, help="What to call it.")
@describing
def add_command(path: Path, name: str, config: Path | None, like: str | None, stems: str | None) -> None:
    """Give the model in the file PATH, or the bag in a .yaml, a name that every command, bags and the studio know.

    The file is converted into a folder of yours, which the environment variable DEMUCS_NP_MODELS can name.
    """
    described, renamed = describe_file(config, like, stem_names(stems))
    click.echo(f"{path} -> {own.add(path, name, described, renamed)}")


@models.command("remove")
@click.argument("name")
def remove_command(name: str) -> None:
    """Delete the model or bag NAME that was added. What it was made from stays."""
    click.echo(f"{own.remove(name)} deleted")


@models.command("download")
@click.argument("names", nargs=-1, required=True, shell_complete=completion.models)
@repo_option
@click.pass_context
def download_command(ctx: click.Context, names: Sequence[str], repo: Path | None) -> None:
    """Fetch the weights of NAMES into the cache."""
    failed = False
    for name in names:
        try:
            for member in resolve(name, repo=repo).distinct.values():
                click.echo(f"{member.name}: {member.get(hub.to_stderr)}")
        except DemucsError as error:
            click.echo(f"Error: {name}: {error}", err=True)
            failed = True
    ctx.exit(1 if failed else 0)


@models.command("verify")
@click.argument("names", nargs=-1, shell_complete=completion.models)
@repo_option
@click.pass_context
def verify_command(ctx: click.Context, names: Sequence[str], repo: Path | None) -> None:
    """Compute the SHA-256 of the cached weights of NAMES (all that are published, if none is given) again and compare."""
    found = [resolve(name, repo=repo) for name in names or catalog.LEGACY]
    failed = False
    paths = {member.name: member.path for named in found for member in named.members}
    for signature, path in paths.items():
        if path is None:
            if names:
                click.echo(f"{signature}: not cached", err=True)
                failed = True
            continue
        good = hub.intact(path) if signature not in catalog.ELSEWHERE else elsewhere.intact(path)
        if good is False:
            click.echo(
                f"{signature}: CORRUPT {path}; delete it (and {path.resolve()}), then `demucs-np models download {signature}`", err=True
            )
            failed = True
        else:
            click.echo(f"{signature}: {'ok' if good else 'cached, but its checksum is not known here'}  {path}")
    if not any(paths.values()):
        click.echo("Nothing is cached.")
    ctx.exit(1 if failed else 0)


@models.command("path")
@click.argument("name", shell_complete=completion.models)
@repo_option
def path_command(name: str, repo: Path | None) -> None:
    """Print where the cached files of the model NAME lie."""
    for member in resolve(name, repo=repo).distinct.values():
        if member.path is None:
            raise ModelError(f"{member.name} is not cached; `demucs-np models download {name}` fetches it")
        click.echo(member.path)
