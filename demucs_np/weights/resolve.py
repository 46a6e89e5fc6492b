"""From a name or a path to a model that is ready to run: the only place that knows what a model may be called."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ModelError, UsageError, shown
from ..machine import memory_limit
from ..models import needs
from ..models.config import Config, config_from_arguments
from ..models.recipe import Recipe
from . import catalog, elsewhere, hub, own
from .files import check_named_checksum
from .formats import read_model_file
from .formats.checkpoint import Checkpoint
from .formats.described import Described, is_configuration, read_description
from .repo import SUFFIXES, BagFile, LocalRepo, read_bag

if TYPE_CHECKING:
    from ..models.bag import BagOfModels, Model
    from ..models.network import Network

HUB_SCHEME = "hf://"


@dataclass(frozen=True)
class Member:
    """One model file that a name stands for."""

    name: str  # its signature, or its file's name
    find: Callable[[], Path | None]  # where it is on this machine, if it is
    get: Callable[[hub.Report], Path]  # downloads it if need be

    @property
    def path(self) -> Path | None:
        """Where it is on this machine, if it is. Raises OSError for a cache that may not be looked into."""
        return self.find()

    def read(self, report: hub.Report = hub.to_stderr) -> Checkpoint:
        """Its configuration and tensors. Raises ModelError if it cannot be had, WeightsError if it holds no model."""
        return read_model(self.get(report))

    def config(self, report: hub.Report = hub.to_stderr) -> Config:
        """Its configuration alone; for a file that is not here, the catalog's if it knows it. Raises as `read`."""
        if self.path is None and self.name in catalog.ARCHITECTURES:
            klass, arguments = catalog.ARCHITECTURES[self.name]
            return config_from_arguments(klass, (), arguments)
        return read_model_file(self.get(report)).config


@dataclass(frozen=True)
class Named:
    """What a name stands for: one or more model files, and how their stems are averaged (see `BagOfModels`)."""

    name: str  # as it was asked for
    folder: str  # the same as a name for a folder
    members: tuple[Member, ...]
    weights: tuple[tuple[float, ...], ...] | None = None
    segment: float | None = None
    sources: tuple[str, ...] | None = None  # the stems, where they are known before a file is read; then its own names do not count
    recipe: Recipe | None = None  # None: the files' own
    parts: tuple[Named, ...] = ()  # where several names were given with commas: each is to weigh the same

    @property
    def distinct(self) -> dict[str, Member]:
        """The members by name, one that is named twice once."""
        return {member.name: member for member in self.members}

    def only(self) -> Member:
        """The one file of a name that stands for a single model. Raises UsageError for a larger bag."""
        if len(self.distinct) > 1:
            raise UsageError(f"{self.name} is a bag of {len(self.members)} models; name one of them: {', '.join(self.distinct)}")
        return self.members[0]

    def load(self, backend: str = "numba", report: hub.Report = hub.to_stderr, memory: int | None = None) -> BagOfModels:
        """The models, ready to run; see `load_model`. All files are fetched first: better to learn at once that one cannot be had."""
        from ..models.bag import BagOfModels, mean_of

        if backend == "numba":
            for name in self.distinct:
                if name in catalog.ARCHITECTURES:  # else it is known when the file is there
                    needs.expect(catalog.ARCHITECTURES[name][0])
        if self.parts:
            for member in self.distinct.values():
                member.get(report)
            return mean_of([part.load(backend, report, memory) for part in self.parts])
        models = self._opened({name: member.get(report) for name, member in self.distinct.items()}, backend, report, memory)
        for model in models.values():
            model.recipe = self.recipe or model.recipe
            if self.sources and len(self.sources) == len(model.sources):
                model.sources = self.sources
        return BagOfModels([models[member.name] for member in self.members], self.weights, self.segment)

    def _opened(self, paths: dict[str, Path], backend: str, report: hub.Report, memory: int | None) -> dict[str, Model]:
        """The models of these files, or what opens each of them when its turn comes, where there is not the memory for all."""
        files = {name: read_model_file(path) for name, path in paths.items()}
        if backend == "numba" and len(files) > 1:
            from ..models.late import LateModel, Turn, fit_at_once, outline

            outlines = {name: outline(file.config) for name, file in files.items()}
            if not fit_at_once(list(outlines.values()), memory):
                report(f"{self.name}: there is not the memory for {len(files)} models at once; each is opened when its turn comes")
                turn = Turn()
                for name, file in files.items():
                    outlines[name].recipe = file.recipe
                    needs.expect(file.config.klass)
                return {name: LateModel(outlines[name], partial(_open, path, backend), turn) for name, path in paths.items()}
        return {name: build(files.pop(name).checkpoint(), backend) for name in paths}  # none is held twice


def load_model(
    name_or_path: str | os.PathLike[str],
    *,
    repo: str | os.PathLike[str] | None = None,
    config: str | os.PathLike[str] | None = None,
    backend: str = "numba",
    report: hub.Report = hub.to_stderr,
    memory: int | str | None = None,
) -> BagOfModels:
    """A model ready to run; a single one is a bag of one.

    `name_or_path` is anything that `resolve` takes. `config` is the YAML that describes a file which holds tensors alone (None: the one
    beside it); see `formats`. `report` is called with a line of text before a download.

    `memory`: bytes that the process may take, or a size as "2GB" (None: what the system has free). Where the weights of a bag leave too
    little of it for the work, one of its models is in memory at a time: the same samples, and some tenths of a second more for each model
    and segment.

    Raises ModelError for an unknown name or weights that cannot be had, WeightsError for a file that does not hold exactly a model
    this package can run, UsageError for a `memory` that is none.
    """
    memory = memory_limit(memory)
    named = resolve(name_or_path, repo=repo, report=report)
    if config is not None:
        checkpoint = read_model(named.only().get(report), read_description(Path(config)))
        from ..models.bag import BagOfModels

        return BagOfModels([build(checkpoint, backend)])
    return named.load(backend, report, memory)


def resolve(
    name_or_path: str | os.PathLike[str], *, repo: str | os.PathLike[str] | None = None, report: hub.Report = hub.to_stderr
) -> Named:
    """What a name stands for, without reading or downloading weights.

    - the path of a `.safetensors` or `.th` file, or of a bag's `.yaml`, whose models lie beside it;
    - `demo`, the model in this package;
    - a published name (`htdemucs`) or signature (`955717e8`);
    - a name that the user has given to a model of their own (see `own`);
    - `hf://owner/name`, another owner's bag on the hub, whose small `.yaml` is fetched for this; `owner/name` too;
    - several of them with commas, `htdemucs,hdemucs_mmi`: their mean;
    - with `repo`, nothing but a model or bag of that folder, by its name there.

    Raises ModelError for an unknown name, WeightsError for a bag that cannot be read.
    """
    name = os.fspath(name_or_path)
    if "\0" in name:
        raise ModelError(f"{shown(name)} is no name of a model: it holds a zero byte")
    if "," in name and not os.path.exists(name):
        return _mean(name, [resolve(part.strip(), repo=repo, report=report) for part in name.split(",")])
    if repo is not None:
        return _in_folder(LocalRepo(repo), name)
    if name == catalog.DEMO.name:
        return Named(name, name, (_here(name, catalog.DEMO_FILE),), sources=catalog.DEMO.stems)
    if name in catalog.BAGS:
        bag = catalog.BAGS[name]
        return Named(name, name, tuple(_published(signature, name) for signature in bag.signatures), bag.weights, bag.segment, bag.stems)
    if name in catalog.LEGACY:
        stems = next(bag.stems for bag in catalog.BAGS.values() if name in bag.signatures)
        return Named(name, name, (_published(name, name),), sources=stems)
    if name in catalog.OTHERS and not own.has(name):
        bag = catalog.OTHERS[name]
        return Named(name, name, tuple(map(_elsewhere, bag.signatures)), sources=bag.stems, recipe=bag.recipe)
    if own.has(name):
        return _in_folder(LocalRepo(own.folder()), name, beyond=True)
    path = Path(name)
    if path.suffix in (".yaml", ".yml") and is_configuration(path):
        raise UsageError(f"{name}: the configuration of a model; name the file of its weights, which may lie beside it")
    if path.suffix in (".yaml", ".yml"):
        return _of_bag(name, path.stem, read_bag(path), LocalRepo(path.parent), beyond=True)
    if path.suffix in SUFFIXES or path.is_file():
        return Named(name, path.stem, (_here(name, path),))
    if name.startswith(HUB_SCHEME) or (name.count("/") == 1 and not path.exists()):
        return _on_the_hub(name, report)
    raise ModelError(_unknown(name))


def _mean(name: str, parts: list[Named]) -> Named:
    """Raises ModelError where it is known by now that their stems differ."""
    known = [part for part in parts if part.sources]
    for part in known[1:]:
        if part.sources != known[0].sources:
            stems = " but ".join(f"{each.name} has {', '.join(each.sources or ())}" for each in (known[0], part))
            raise ModelError(f"{name}: {stems}; only models with the same stems can be averaged")
    members = tuple(member for part in parts for member in part.members)
    return Named(name, "+".join(part.folder for part in parts), members, sources=known[0].sources if known else None, parts=tuple(parts))


def _here(name: str, path: Path) -> Member:
    return Member(name, lambda: path, lambda report: path)


def _published(signature: str, asked: str) -> Member:
    return Member(signature, lambda: hub.find(signature), lambda report: hub.fetch(signature, report, asked))


def _elsewhere(name: str) -> Member:
    return Member(name, lambda: elsewhere.find(name), lambda report: elsewhere.checked(name, report))


def _in_folder(repo: LocalRepo, name: str, beyond: bool = False) -> Named:
    if name in repo.files:
        return Named(name, _folder(name), (_of_repo(repo, name),))
    return _of_bag(name, _folder(name), repo.bag(name), repo, beyond)


def _of_bag(name: str, folder: str, bag: BagFile, repo: LocalRepo, beyond: bool) -> Named:
    """`beyond`: it may name models that are not in its folder."""
    member = _of_bag_file if beyond else _of_repo
    return Named(name, folder, tuple(member(repo, signature) for signature in bag.signatures), bag.weights, bag.segment)


def _of_bag_file(repo: LocalRepo, signature: str) -> Member:
    """A model that a bag's own file names: one beside it, one of the user's, or a published one."""
    mine = own.catalogue()
    if signature not in repo.files and mine and signature in mine.files:
        return _of_repo(mine, signature)
    if signature not in repo.files and signature in catalog.LEGACY:
        return _published(signature, signature)
    return _of_repo(repo, signature)


def _of_repo(repo: LocalRepo, signature: str) -> Member:
    path = repo.file(signature)

    def get(report: hub.Report) -> Path:
        check_named_checksum(path)
        return path

    return Member(signature, lambda: path, get)


def _on_the_hub(name: str, report: hub.Report) -> Named:
    """`hf://owner/name`, or a name of the default owner: the bag that the repository's own `.yaml` defines."""
    spelled = name.removeprefix(HUB_SCHEME)
    owner, _, short = spelled.rpartition("/")
    repository = catalog.hub_repository(short, owner or catalog.NAMESPACE)

    def member(signature: str) -> Member:
        filename = f"{signature}.safetensors"
        return Member(signature, lambda: hub.cached(repository, filename), lambda report: hub.fetch_from(repository, filename, report))

    bag = read_bag(hub.fetch_from(repository, f"{short}.yaml", report))
    return Named(name, _folder(spelled), tuple(map(member, bag.signatures)), bag.weights, bag.segment)


def _folder(name: str) -> str:
    return name.replace("/", "_")


def _unknown(name: str) -> str:
    """Why a name cannot be loaded, and what could."""
    if os.path.exists(name):
        return f"{name}: a folder; name a model's file in it, or give the folder with --repo"
    mine = own.catalogue()
    names = [*mine.files, *mine.bags] if mine else []
    near = difflib.get_close_matches(name, [*catalog.BAGS, *catalog.OTHERS, *catalog.LEGACY, catalog.DEMO.name, *names], 1)
    hint = f"did you mean {near[0]}?" if near else "published are " + ", ".join(catalog.BAGS) + f", and {catalog.DEMO.name} is bundled"
    return f"unknown model {name!r}: {hint} (or give the path of a .safetensors file)"


def like(name: str, stems: Sequence[str]) -> Described:
    """The arguments of a model that one knows, with other stems: for a file that holds tensors of that shape alone.

    `name` is htdemucs, htdemucs_6s or hdemucs_mmi, or a model on this machine. Raises ModelError, UsageError.
    """
    if name in catalog.SHAPES:
        klass, kwargs = catalog.SHAPES[name]
        return Described(f"--like {name}", klass, {**kwargs, "sources": list(stems)})
    path = resolve(name).only().path
    if path is None:
        raise ModelError(f"{name} is not on this machine; `demucs-np models download {name}` fetches it, or take htdemucs")
    model = read_model_file(path)
    return Described(f"--like {name}", model.config.klass, {**model.config.constructor_arguments(), "sources": list(stems)}, model.recipe)


def describe_file(config: Path | None, like_name: str | None, stems: Sequence[str] | None) -> tuple[Described | None, Sequence[str] | None]:
    """What the options --config, --like and --stems say: the description, and new names for the stems where that does not use them up.

    Raises UsageError for options that exclude each other.
    """
    if config and like_name:
        raise UsageError("--config and --like exclude each other")
    if like_name:
        if not stems:
            raise UsageError("--like needs the model's stems as well: --stems A,B,C, in the file's order")
        return like(like_name, stems), None
    return (read_description(config) if config else None), stems


def read_model(path: str | os.PathLike[str], described: Described | None = None) -> Checkpoint:
    """Read a model file of any format as float32 tensors; see `read_model_file`. Raises WeightsError."""
    return read_model_file(path, described).checkpoint()


def _open(path: Path, backend: str) -> Network:
    return build(read_model(path), backend)


def build(checkpoint: Checkpoint, backend: str) -> Network:
    """The model of a checkpoint."""
    if backend == "numba":
        needs.expect(checkpoint.config.klass)
    from ..models.classes import network

    model = network(checkpoint.config, checkpoint.tensors, backend)
    model.recipe = checkpoint.recipe
    return model


def list_models(repo: str | os.PathLike[str] | None = None) -> dict[str, list[str]]:
    """The names that `load_model` takes, of `repo` or of all that are known without one: {"bag": names, "single": signatures}."""
    if repo is None:
        mine = own.catalogue()
        bags, files = (sorted(mine.bags), sorted(mine.files)) if mine else ([], [])
        return {"bag": [*catalog.BAGS, *catalog.OTHERS, *bags], "single": [*sorted(catalog.LEGACY), catalog.DEMO.name, *files]}
    local = LocalRepo(repo)
    return {"bag": sorted(local.bags), "single": sorted(local.files)}
