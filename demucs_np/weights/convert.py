"""Convert official `.th` packages to safetensors, in the layout that demucs publishes (and loads)."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DemucsError, UsageError, WeightsError
from ..models.config import config_from_arguments
from ..models.recipe import Recipe
from .files import check_named_checksum, signature, written_whole
from .formats import read_model_file
from .formats.checkpoint import ModelFile
from .formats.described import Described
from .formats.stored import DTYPES, Stored, as_float32


def convert_file(
    source: str | os.PathLike[str], target: str | os.PathLike[str], described: Described | None = None, stems: Sequence[str] | None = None
) -> Path:
    """Convert the model in `source` to `target`, a `.safetensors` file (or a folder, for a file named by the model's signature).

    float16, bfloat16 and float32 tensors keep their type and bits; quantised states become float32. A checksum in the
    source's name is checked. `described`: see `read_model_file`; `stems`: other names for the stems, in the file's order. Returns the
    path written. Raises WeightsError naming the file.
    """
    source, target = Path(source), Path(target)
    if target.is_dir():
        target = target / f"{signature(source)[0]}.safetensors"
    if target.suffix != ".safetensors":
        raise UsageError(f"{target}: the converted file must be named *.safetensors")
    if not source.exists():
        raise WeightsError(f"{source}: no such file")
    if source.suffix == ".th":
        check_named_checksum(source)
    model = read_model_file(source, described)
    write_model(target, model if stems is None else _renamed(model, stems))
    return target


def _renamed(model: ModelFile, stems: Sequence[str]) -> ModelFile:
    """The model with other names for its stems."""
    if len(stems) != len(model.config.sources):
        count = len(model.config.sources)
        raise UsageError(f"{model.path}: has the stems {', '.join(model.config.sources)}: give {count} names, not {len(stems)}")
    kwargs = {**model.kwargs, "sources": list(stems)}
    args: Sequence[Any] = model.args
    if args:  # the stems are the first
        del kwargs["sources"]
        args = [list(stems), *args[1:]]
    config = config_from_arguments(model.config.klass, args, kwargs)
    return dataclasses.replace(model, config=config, args=args, kwargs=kwargs)


def convert_directory(
    source: str | os.PathLike[str], target: str | os.PathLike[str], report: Callable[[Path, Path | DemucsError], None]
) -> bool:
    """Convert every `.th` file of a folder into another folder, named by signature, and copy its `.yaml` bags.

    `report` is called for each file with what was written or why nothing was. Returns whether all went well.
    """
    source, target = Path(source), Path(target)
    files = sorted(source.glob("*.th"))
    if not files:
        raise WeightsError(f"{source}: no .th file in this folder")
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WeightsError(f"{target}: cannot be made a folder: {error.strerror or error}") from None
    _check_duplicates(files)
    complete = True
    for file in files:
        try:
            report(file, convert_file(file, target))
        except DemucsError as error:
            report(file, error)
            complete = False
    for bag in sorted(source.glob("*.yaml")):
        if not (target / bag.name).exists():
            shutil.copyfile(bag, target / bag.name)
    return complete


def _check_duplicates(files: list[Path]) -> None:
    seen: dict[str, Path] = {}
    for file in files:
        name, _ = signature(file)
        if name in seen:
            raise WeightsError(f"{file} and {seen[name]} are both of the signature {name}; delete all but one")
        seen[name] = file


def write_model(path: Path, model: ModelFile) -> None:
    """Write a model in the published safetensors layout."""
    metadata = {
        "klass": model.config.klass,
        "args": json.dumps(_encoded(model.args, model.path)),
        "kwargs": json.dumps(_encoded(model.kwargs, model.path)),
    }
    if model.recipe != Recipe():
        fields = dataclasses.asdict(model.recipe)
        metadata["recipe"] = json.dumps(_encoded(fields, model.path))
    write_safetensors(path, metadata, model.stored)


def _encoded(value: Any, source: Path) -> Any:
    """Constructor arguments as JSON, a fraction as demucs writes it."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Fraction):
        return {"_type": "fraction", "numerator": value.numerator, "denominator": value.denominator}
    if isinstance(value, (list, tuple)):
        return [_encoded(item, source) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _encoded(item, source) for key, item in value.items()}
    raise WeightsError(f"{source}: its arguments hold a {type(value).__name__}, which safetensors metadata cannot")


def write_safetensors(path: Path, metadata: dict[str, str], tensors: dict[str, Stored]) -> None:
    """Write a safetensors file, complete or not at all; the same input gives the same bytes.

    Raises DemucsError if it cannot be written.
    """
    tensors = {name: Stored("F32", as_float32(stored)) if stored.dtype == "F64" else stored for name, stored in tensors.items()}
    header: dict[str, Any] = {"__metadata__": metadata}
    # Wide types first, so that every tensor lies at a multiple of its item's size.
    order = sorted(tensors, key=lambda name: -DTYPES[tensors[name].dtype].itemsize)
    position = 0
    for name in order:
        stored = tensors[name]
        end = position + stored.array.size * DTYPES[stored.dtype].itemsize
        header[name] = {"dtype": stored.dtype, "shape": stored.array.shape, "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with written_whole(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            file.write(np.ascontiguousarray(tensors[name].array, DTYPES[tensors[name].dtype]).data)
