"""What a configuration says of a model whose own file holds tensors alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import WeightsError
from ...models.recipe import Recipe
from ..yaml_file import read_yaml

KLASSES = {"htdemucs": "demucs.htdemucs.HTDemucs", "hdemucs": "demucs.hdemucs.HDemucs", "demucs": "demucs.demucs.Demucs"}
MAX_BESIDE = 50  # YAML files of a folder that are looked into


@dataclass(frozen=True)
class Described:
    """The class and the keyword arguments of a model, and who says so."""

    source: str
    klass: str
    kwargs: Mapping[str, Any]
    recipe: Recipe = field(default_factory=Recipe)


def read_description(path: Path) -> Described:
    """What a configuration describes, MSST's or that of the reference's own training. Raises WeightsError naming the file."""
    return describe(path, read_yaml(path))


def describe(path: Path, content: Mapping[str, Any]) -> Described:
    """As `read_description`, of the file's content."""
    from . import msst, training

    try:
        if msst.recognises(content):
            return msst.describe(str(path), content)
        if training.recognises(content):
            return training.describe(str(path), content)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    raise WeightsError(f"{path}: neither a configuration of MSST (`model`, `training`) nor one of demucs's training (`model`, `dset`)")


def beside(path: Path) -> Described | None:
    """The configuration beside a model's file: of its name, that of its training run, or the folder's only one.

    Raises WeightsError where several could be meant.
    """
    named = [path.with_suffix(suffix) for suffix in (".yaml", ".yml")] + [path.parent / ".hydra" / "config.yaml"]
    for candidate in named:
        if candidate.is_file() and is_configuration(candidate):
            return read_description(candidate)
    others = sorted([*path.parent.glob("*.yaml"), *path.parent.glob("*.yml")])[:MAX_BESIDE]
    found = [other for other in others if is_configuration(other)]
    if len(found) > 1:
        raise WeightsError(f"several configurations lie beside it ({', '.join(each.name for each in found[:4])}): name one with --config")
    return read_description(found[0]) if found else None


def is_configuration(path: Path) -> bool:
    """Whether a YAML file speaks of a model and its training, rather than of a bag or of something else."""
    try:
        content = read_yaml(path)
    except WeightsError:
        return False
    return "model" in content and ("training" in content or "dset" in content)


def section(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A part of a configuration. Raises WeightsError where it is missing."""
    value = content.get(name)
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise WeightsError(f"has no section {name!r}")
    return value


def entry(content: Mapping[str, Any], part: str, name: str) -> Any:
    """An entry of a part of a configuration. Raises WeightsError where it is missing or null."""
    value = plain(section(content, part).get(name))
    if value is None:
        raise WeightsError(f"has no {part}.{name}")
    return value


def klass_and_arguments(content: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The class that `model` names, and the arguments in the section of that name. Raises WeightsError for another architecture."""
    model = content["model"]
    if not isinstance(model, str) or model not in KLASSES:
        what = f"its model is {model!r}" if isinstance(model, str) else "its model is a section of its own"
        raise WeightsError(f"describes no Demucs architecture: {what}, where demucs, hdemucs or htdemucs belongs")
    return KLASSES[model], {name: plain(value) for name, value in section(content, model).items()}


def plain(value: Any) -> Any:
    """A value as its author meant it: YAML 1.1 reads `1e-3` as text. Raises WeightsError for a reference to another entry."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    if not isinstance(value, str):
        return value
    if "${" in value:
        raise WeightsError(f"refers to another entry, {value[:60]!r}: write out what it stands for")
    return float(value) if re.fullmatch(r"[-+]?(\d{1,40}\.?\d{0,40}|\.\d{1,40})[eE][-+]?\d{1,3}", value) else value
