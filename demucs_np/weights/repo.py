"""A folder of the user's own models: `.safetensors` and `.th` files by signature, and bags of them in `.yaml` files."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ModelError, UsageError, WeightsError, shown
from . import catalog
from .files import signature
from .formats.described import is_configuration
from .yaml_file import read_yaml

SUFFIXES = (".safetensors", ".th", ".pth", ".pt", ".ckpt")  # the first is preferred where a folder has several


@dataclass(frozen=True)
class BagFile:
    """What a bag's definition says."""

    signatures: tuple[str, ...]
    weights: tuple[tuple[float, ...], ...] | None
    segment: float | None


class LocalRepo:
    """The models and bags of a folder, found by name.

    A checksum in a file's name (`955717e8-8726e21a.th`) is not part of its signature. Raises UsageError if `root` is no folder,
    WeightsError if two files of one kind have the same signature.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise UsageError(f"{self.root}: --repo must be an existing folder")
        self.files: dict[str, Path] = {}
        for suffix in reversed(SUFFIXES):
            self.files.update(self._of_kind(suffix))
        self.bags = {path.stem: path for path in sorted(self.root.glob("*.yaml")) if not is_configuration(path)}

    def _of_kind(self, suffix: str) -> dict[str, Path]:
        found: dict[str, Path] = {}
        for path in sorted(self.root.glob(f"*{suffix}")):
            name, _ = signature(path)
            if name in found:
                raise WeightsError(f"{path} and {found[name]} are both of the signature {name}; delete all but one")
            found[name] = path
        return found

    def file(self, name: str) -> Path:
        """The file of a signature. Raises ModelError."""
        if name not in self.files:
            raise ModelError(f"{self.root} has no {name}.safetensors or {name}.th")
        return self.files[name]

    def bag(self, name: str) -> BagFile:
        """The bag of a name: the folder's own, or the published one whose files the folder has. Raises ModelError."""
        if name in self.bags:
            return read_bag(self.bags[name])
        if name in catalog.BAGS:
            published = catalog.BAGS[name]
            return BagFile(published.signatures, published.weights, published.segment)
        known = ", ".join(sorted({*self.files, *self.bags})) or "nothing"
        raise ModelError(f"{self.root} has neither a model nor a bag named {name!r}; it has {known}")


def read_bag(path: Path) -> BagFile:
    """Read a bag's `.yaml`: `models` (signatures), and optionally `weights` (per model a number per stem) and `segment` (seconds).

    Raises WeightsError naming the file.
    """
    content = read_yaml(path)
    if unknown := content.keys() - {"models", "weights", "segment"}:
        raise WeightsError(f"{path}: unknown entry {shown(sorted(map(str, unknown))[0])}; a bag has models, weights and segment")
    models, weights, segment = content.get("models"), content.get("weights"), content.get("segment")
    if not isinstance(models, list) or not models:
        raise WeightsError(f"{path}: 'models' must be a list of signatures")
    for model in models:
        if not isinstance(model, str):
            raise WeightsError(f"{path}: put the signature {shown(model)} in quotes, it reads as a number")
        if not re.fullmatch(r"[\w.+-]+", model) or model.strip(".") == "":
            raise WeightsError(f"{path}: {shown(model)} is no signature: it must be the name of a file in this folder")
    if weights is not None and not _is_table(weights):
        raise WeightsError(f"{path}: 'weights' must be a list of lists of numbers, one list per model")
    if segment is not None and not _is_number(segment):
        raise WeightsError(f"{path}: 'segment' must be a number of seconds")
    return BagFile(tuple(models), None if weights is None else tuple(tuple(map(float, row)) for row in weights), segment)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_table(value: Any) -> bool:
    rows: Sequence[Any] = value if isinstance(value, list) else [None]
    return all(isinstance(row, list) and all(_is_number(number) for number in row) for row in rows)
