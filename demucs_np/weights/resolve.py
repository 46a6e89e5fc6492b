"""From a name or a path to a model that is ready to run."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ModelError, WeightsError
from ..models.config import DemucsConfig, HTDemucsConfig
from . import catalog, hub
from .files import check_named_checksum
from .formats.checkpoint import Checkpoint, ModelFile, read_safetensors_model
from .repo import SUFFIXES, BagFile, LocalRepo, read_bag

if TYPE_CHECKING:
    from ..models.bag import BagOfModels, Model

HUB_SCHEME = "hf://"


def load_model(
    name_or_path: str | os.PathLike[str],
    *,
    repo: str | os.PathLike[str] | None = None,
    backend: str = "numba",
    report: hub.Report = hub.to_stderr,
) -> Model | BagOfModels:
    """A model ready to run.

    `name_or_path` is the path of a `.safetensors` or `.th` file; `demo`, the model in this package; a published name (`htdemucs`) or
    signature (`955717e8`), whose weights are downloaded if they are not cached; `hf://owner/name` for another owner's bag on the hub;
    or, with `repo`, the name of a model or bag in that folder. A published name gives a BagOfModels, a path or signature one model.
    `report` is called with a line of text before a download.

    Raises ModelError for an unknown name or weights that cannot be had, WeightsError for a file that does not hold exactly a model
    this package can run.
    """
    name = os.fspath(name_or_path)
    if repo is not None:
        return _from_repo(LocalRepo(repo), name, backend)
    if Path(name).suffix in SUFFIXES:
        return build(read_model(name), backend)
    if name == catalog.DEMO:
        return build(read_model(catalog.DEMO_FILE), backend)
    if name in catalog.BAGS:
        bag = catalog.BAGS[name]
        # All files first: better to learn at once that one cannot be had.
        paths = {signature: hub.fetch(signature, report) for signature in dict.fromkeys(bag.signatures)}
        return _bag(BagFile(bag.signatures, bag.weights, bag.segment), paths.__getitem__, backend)
    if name in catalog.LEGACY:
        return build(read_model(hub.fetch(name, report)), backend)
    if name.startswith(HUB_SCHEME) or (name.count("/") == 1 and not os.path.exists(name)):
        return _from_hub(name.removeprefix(HUB_SCHEME), backend, report)
    raise ModelError(unknown(name))


def unknown(name: str) -> str:
    """Why a name cannot be loaded, and what could."""
    if os.path.exists(name):
        return f"{name}: a model is a .safetensors or .th file"
    near = difflib.get_close_matches(name, [*catalog.BAGS, *catalog.LEGACY, catalog.DEMO], 1)
    hint = f"did you mean {near[0]}?" if near else "published are " + ", ".join(catalog.BAGS) + f", and {catalog.DEMO} is bundled"
    return f"unknown model {name!r}: {hint} (or give the path of a .safetensors file)"


def read_model(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a `.safetensors` or `.th` model file as float32 tensors. Raises WeightsError."""
    return read_model_file(path).checkpoint()


def read_model_file(path: str | os.PathLike[str]) -> ModelFile:
    """Read a `.safetensors` or `.th` model file as it is. Raises WeightsError."""
    if not Path(path).exists():
        raise WeightsError(f"{os.fspath(path)}: no such file")
    if Path(path).suffix == ".th":
        from .formats.th import read_pickled_model

        return read_pickled_model(path)
    return read_safetensors_model(path)


def build(checkpoint: Checkpoint, backend: str) -> Model:
    """The model of a checkpoint, which gives up its tensors. Model code is imported here, when it is known which is needed."""
    config = checkpoint.config
    if isinstance(config, HTDemucsConfig):
        from ..models.htdemucs import HTDemucs

        return HTDemucs(config, checkpoint.tensors, backend=backend)
    if isinstance(config, DemucsConfig):
        from ..models.demucs import Demucs

        return Demucs(config, checkpoint.tensors, backend=backend)
    from ..models.hdemucs import HDemucs

    return HDemucs(config, checkpoint.tensors, backend=backend)


def _bag(definition: BagFile, path_of: Callable[[str], Path], backend: str) -> BagOfModels:
    """A bag; a signature that it names twice is loaded once."""
    from ..models.bag import BagOfModels

    models: dict[str, Model] = {}
    for signature in definition.signatures:
        if signature not in models:
            models[signature] = build(read_model(path_of(signature)), backend)
    members: Sequence[Model] = [models[signature] for signature in definition.signatures]
    return BagOfModels(members, definition.weights, definition.segment)


def _from_repo(repo: LocalRepo, name: str, backend: str) -> Model | BagOfModels:
    def path_of(signature: str) -> Path:
        path = repo.file(signature)
        check_named_checksum(path)
        return path

    if name in repo.files:
        return build(read_model(path_of(name)), backend)
    return _bag(repo.bag(name), path_of, backend)


def _from_hub(name: str, backend: str, report: hub.Report) -> BagOfModels:
    """`owner/name`, or a name of the default owner: the bag that the repository's own `.yaml` defines."""
    owner, _, name = name.rpartition("/")
    repository = catalog.hub_repository(name, owner or catalog.NAMESPACE)

    def path_of(filename: str) -> Path:
        if path := hub.cached(repository, filename):
            return path
        if hub.offline():
            raise ModelError(f"{repository} has no {filename} in {hub.hub_cache()}, and HF_HUB_OFFLINE forbids the network")
        return hub.from_hub(repository, filename, report)

    definition = read_bag(path_of(f"{name}.yaml"))
    return _bag(definition, lambda signature: path_of(f"{signature}.safetensors"), backend)


def list_models(repo: str | os.PathLike[str] | None = None) -> dict[str, list[str]]:
    """The names that `load_model` takes, of `repo` or of what is published: {"bag": names, "single": signatures}."""
    if repo is None:
        return {"bag": list(catalog.BAGS), "single": sorted(catalog.LEGACY)}
    local = LocalRepo(repo)
    return {"bag": sorted(local.bags), "single": sorted(local.files)}
