"""A static folder in which models run: the engine, the modules, a tape for each configuration, and what a page is told of the models."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from .. import page
from ..errors import DemucsError, ModelError
from ..models.config import Config, HTDemucsConfig
from ..models.recipe import Recipe
from ..weights import catalog, hub
from ..weights.convert import convert_file
from ..weights.files import sha256, written_whole
from ..weights.formats import published, read_model_file
from ..weights.formats.checkpoint import ModelFile
from ..weights.resolve import Member, Named, resolve
from . import modules, recording
from .tape import OTHER_CLASS

STATIC = Path(__file__).with_name("static")
BUILT = Path(__file__).with_name("built")  # the modules and the demo's tape, so that a site needs no linker
Report = Callable[[str], object]


def build(folder: Path, names: Sequence[str] = ("demo",), *, repo: Path | None = None, copy: bool = False, report: Report = print) -> None:
    """Write the site of the models `names` into `folder`, replacing what an earlier build put there.

    Published weights stay where they are published, and the page fetches them from there; with `copy`, and for the bundled model and
    files of one's own, they lie in the site. Weights are fetched to this machine first, for their checksums.

    Raises ModelError for a model that is no HTDemucs, or one whose forward is not all in kernels, WeightsError for a file that holds no
    model, UsageError for an unknown name, DemucsError for a folder that cannot be written.
    """
    found = [(name, *_members(resolve(name, repo=repo))) for name in dict.fromkeys(names)]
    for name, _, files in found:
        for file in files.values():
            try:
                recording.length_of(file.config)
            except ModelError as error:
                raise ModelError(f"{name}: {error}") from None
    for source in (*sorted(STATIC.iterdir()), *(BUILT / file for file in modules.FILES.values())):
        _write(folder / source.name, source.read_bytes())
    tapes = _tapes([next(iter(files.values())).config for _, _, files in found], folder, report)
    entries = [_entry(name, named, files, folder, tapes, copy, report) for name, named, files in found]
    site = {
        "models": entries,
        "modules": hashes(),
        "order": HTDemucsConfig._order.split(),
        "defaults": plain(HTDemucsConfig(sources=("",))),
        "tapes": [{"file": file, "config": json.loads(key)} for key, file in tapes.items()],
    }
    _write(folder / "models.json", json.dumps(site, indent=1).encode())
    page.write(folder)


def hashes() -> dict[str, str]:
    """SHA-256 of the modules in this package."""
    return {file: sha256(BUILT / file) for file in modules.FILES.values()}


def plain(config: Config) -> dict[str, Any]:
    """What a tape depends on: the arguments as JSON has them, and for the stems their number."""
    arguments = config.constructor_arguments()
    values = {name: float(value) if isinstance(value, Fraction) else value for name, value in arguments.items()}
    return {**values, "sources": len(config.sources)}


def _members(named: Named) -> tuple[Named, dict[str, ModelFile]]:
    if named.parts:
        raise ModelError(f"{named.name}: a page takes one model or bag at a time: give them one by one, -n A -n B")
    bag = catalog.BAGS.get(named.name)
    if bag and bag.architecture != "HTDemucs":  # known without its weights
        raise ModelError(f"{named.name}: {OTHER_CLASS.format(bag.architecture)}")
    files = {}
    for name, member in named.distinct.items():
        files[name] = read_model_file(member.get(hub.to_stderr))
    configs = {json.dumps(plain(file.config)) for file in files.values()}
    if len(configs) > 1:
        raise ModelError(f"{named.name}: its members have different configurations, for which a page has no one tape")
    return named, files


def _tapes(configs: Sequence[Config], folder: Path, report: Report) -> dict[str, str]:
    """Configuration -> its tape's file. Recorded in a process of its own; the demo's is in the package."""
    files: dict[str, str] = {}
    wanted: list[dict[str, Any]] = []
    for config in configs:
        key = json.dumps(plain(config))
        if key in files:
            continue
        files[key] = _tape_name(key)
        if (kept := BUILT / files[key]).exists():
            _write(folder / kept.name, kept.read_bytes())
            continue
        wanted.append(_wanted(config, hashes()))
    if wanted:
        report(f"recording {len(wanted)} tape{'s' * (len(wanted) > 1)}")
        with tempfile.TemporaryDirectory(prefix="demucs-np-tapes-") as name:
            record(wanted, Path(name))
            for one in wanted:
                _write(folder / one["name"], (Path(name) / one["name"]).read_bytes())
    return files


def _tape_name(key: str) -> str:
    return f"tape-{hashlib.sha256(key.encode()).hexdigest()[:8]}.json"


def _wanted(config: Config, of: Mapping[str, str]) -> dict[str, Any]:
    """A tape, for modules with these hashes, as `recording.main` is told of it. A segment that is a fraction stays one: as a float, its
    samples may be one fewer."""
    arguments = config.constructor_arguments()
    arguments = {name: str(value) if isinstance(value, Fraction) else value for name, value in arguments.items()}
    return {"name": _tape_name(json.dumps(plain(config))), "klass": config.klass, "arguments": arguments, "modules": dict(of)}


def record(wanted: list[dict[str, Any]], folder: Path) -> None:
    """Write the tapes that are `wanted`, as `recording.main` takes them, into `folder`."""
    listed = folder / "wanted"
    listed.write_text(json.dumps(wanted))
    command = [sys.executable, "-m", "demucs_np.web.recording", str(listed), str(folder)]
    result = subprocess.run(command, env=modules.environment("plain"), capture_output=True, text=True)
    if result.returncode:
        lines = result.stderr.strip().splitlines() or ["no reason given"]
        raise ModelError(f"a model cannot be recorded: {lines[-1].partition('Error: ')[2] or lines[-1]}")


def _entry(
    name: str, named: Named, files: Mapping[str, ModelFile], folder: Path, tapes: Mapping[str, str], copy: bool, report: Report
) -> dict[str, Any]:
    first = next(iter(files.values()))
    config = first.config
    known = catalog.BAGS.get(name) or catalog.OTHERS.get(name) or (catalog.DEMO if name == catalog.DEMO.name else None)
    stems = named.sources or config.sources
    recipe = named.recipe or first.recipe
    return {
        "name": named.folder,
        "about": known.about if known else "a model of one's own",
        "stems": list(stems),
        "samplerate": config.samplerate,
        "channels": config.audio_channels,
        "recipe": _recipe(recipe),
        "tape": tapes[json.dumps(plain(config))],
        "weights": [list(row) for row in named.weights or [[1.0] * len(stems)] * len(named.members)],
        "files": [_file(member, files[member.name], folder, copy, report) for member in named.members],
    }


def _recipe(recipe: Recipe) -> dict[str, Any]:
    return {"shifts": recipe.shifts, "overlap": float(recipe.overlap), "window": recipe.window, "normalize": recipe.normalize}


def _file(member: Member, file: ModelFile, folder: Path, copy: bool, report: Report) -> dict[str, Any]:
    """Where the page gets a member's weights: from the hub, or from beside it, as a plain safetensors file with the model's arguments."""
    whole = file.path.suffix == ".safetensors" and published.is_plain(file.path)
    address = published_address(file.path) if whole and not copy else None
    path = file.path
    if address is None:
        path = folder / f"weights-{_short(member.name)}.safetensors"
        report(f"copying {file.path.name}" if whole else f"converting {file.path.name}")
        if whole:
            with written_whole(path) as target, open(file.path, "rb") as source:
                shutil.copyfileobj(source, target)
        else:
            convert_file(file.path, path)
        address = path.name
    return {"address": address, "bytes": path.stat().st_size, "sha256": sha256(path)}


def _short(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:8] if not name.replace("-", "").replace("_", "").isalnum() else name


def published_address(path: Path) -> str | None:
    """Where a file of the hub's cache was fetched from, at the revision that it has; None for any other file."""
    parts = path.parts
    if len(parts) < 4 or parts[-3] != "snapshots" or not parts[-4].startswith("models--"):
        return None
    return f"{hub.endpoint()}/{parts[-4].removeprefix('models--').replace('--', '/')}/resolve/{parts[-2]}/{parts[-1]}"


def _write(path: Path, content: bytes) -> None:
    with written_whole(path) as file:
        file.write(content)


def rebuild(folder: Path = BUILT) -> None:
    """Make anew what is in the package: the modules, and the demo's tape. For developers: `python -m demucs_np.web.site`."""
    folder.mkdir(exist_ok=True)
    modules.build(folder)
    config = resolve(catalog.DEMO.name).only().config()
    for old in folder.glob("tape-*.json"):
        old.unlink()
    one = _wanted(config, {file: sha256(folder / file) for file in modules.FILES.values()})
    with tempfile.TemporaryDirectory() as name:
        record([one], Path(name))
        shutil.copy(Path(name) / one["name"], folder)


if __name__ == "__main__":
    try:
        rebuild(Path(sys.argv[1]) if len(sys.argv) > 1 else BUILT)
    except DemucsError as error:
        sys.exit(str(error))
