"""A model as a file has it, and as the model code takes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import WeightsError
from ...models.config import Config, DemucsConfig
from ...models.layout import expected_tensors
from ...models.recipe import Recipe
from . import diffq
from .stored import FLOATS, Stored, as_float32, forget_pages

SMALL = 2**14  # elements
ENOUGH = 2**25  # bytes of the file that are in memory at a time


@dataclass(frozen=True)
class Checkpoint:
    """A model's configuration with exactly its tensors, float32, in the layout's order."""

    path: Path
    config: Config
    tensors: Mapping[str, np.ndarray]
    recipe: Recipe = Recipe()  # noqa: RUF009 - frozen


class Tensors(Mapping[str, np.ndarray]):
    """Tensors of a file as float32, each made when it is asked for, so that none is held twice while a model packs them. Large ones are
    read-only views of the memory-mapped file where it holds float32.

    Models pack the large ones and keep the others as they are: views of those would keep the whole file in memory.
    """

    def __init__(self, stored: Mapping[str, Stored]) -> None:
        self._stored, self._read = stored, 0

    def __getitem__(self, name: str) -> np.ndarray:
        stored = self._stored[name]
        if self._read > ENOUGH:  # what was read lies in the system's cache of the file, if it is needed once more
            self._read = 0
            forget_pages(stored.array)
        self._read += stored.array.nbytes
        tensor = as_float32(stored)
        return tensor.copy() if tensor is stored.array and tensor.size <= SMALL else tensor

    def __contains__(self, name: object) -> bool:
        return name in self._stored

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)


@dataclass(frozen=True)
class ModelFile:
    """A model as its file has it: the constructor's arguments, training-only ones included, and the tensors in their own types."""

    path: Path
    config: Config
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    stored: dict[str, Stored]
    recipe: Recipe = Recipe()  # noqa: RUF009 - frozen

    def checkpoint(self) -> Checkpoint:
        """With float32 tensors."""
        return Checkpoint(self.path, self.config, Tensors(self.stored), self.recipe)


def exact_tensors(config: Config, state: Mapping[str, Any]) -> dict[str, Stored]:
    """The tensors of a state, plain (name -> Stored) or quantised, checked to be exactly those of the configuration.

    Raises WeightsError naming the tensors that are missing, extra, misshapen or not of a float type.
    """
    shapes = expected_tensors(config)
    if state.get("__quantized"):
        return {name: Stored("F32", array) for name, array in diffq.restore(state, shapes).items()}
    if isinstance(config, DemucsConfig) and config.second == 3:
        names = _renamed(config, state, shapes)
    else:
        names = {name: name for name in state}
    if missing := [name for name in shapes if name not in names]:
        raise WeightsError(f"{_listed(missing, 'tensor')} missing")
    if extra := [name for name in names if name not in shapes]:
        raise WeightsError(f"{_listed(extra, 'tensor')} unknown to the model")
    tensors = {}
    for name, shape in shapes.items():
        stored = state[names[name]]
        if not isinstance(stored, Stored):
            raise WeightsError(f"{name} is not a tensor")
        if stored.array.shape != shape:
            raise WeightsError(f"tensor {name} has shape {stored.array.shape}, the model needs {shape}")
        if stored.dtype not in FLOATS:
            raise WeightsError(f"tensor {name} holds {stored.dtype}, not floating-point numbers")
        tensors[name] = stored
    return tensors


def _renamed(config: DemucsConfig, state: Mapping[str, Any], shapes: Mapping[str, Any]) -> dict[str, str]:
    """Name in the model -> name in the state. Checkpoints from before DConv call `.2.` what is now `.3.`."""
    names = {name: name for name in state}
    for index in range(config.depth):
        for side in ("encoder", "decoder"):
            for part in ("weight", "bias"):
                old, new = f"{side}.{index}.2.{part}", f"{side}.{index}.3.{part}"
                if old in names and old not in shapes and new in shapes and new not in state:
                    names[new] = names.pop(old)
    return names


def _listed(names: list[str], noun: str, most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    plural = "s" if len(names) > 1 else ""
    return f"{noun}{plural} {', '.join(name[:60] for name in names[:most])}{more} {'are' if plural else 'is'}"
