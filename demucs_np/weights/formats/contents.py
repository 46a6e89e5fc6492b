"""What a file holds, before it is known to be a model: recognised by its first bytes, whatever its name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import WeightsError
from .archive import read_archive
from .safetensors import read_safetensors

ZIP = b"PK\x03\x04"
LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # the number that PyTorch before 1.6 begins a file with


@dataclass(frozen=True)
class Contents:
    """`value`: dicts, lists, numbers, texts, `Stored` tensors and `ClassName`s. `metadata`: those of a safetensors file."""

    path: Path
    value: Any
    metadata: Mapping[str, str] = field(default_factory=dict)


def read_contents(path: Path) -> Contents:
    """Read a file of any container. Raises WeightsError (its text without the path)."""
    try:
        with open(path, "rb") as file:
            start = file.read(512)
    except FileNotFoundError:
        raise WeightsError("no such file") from None
    except OSError as error:
        raise WeightsError(f"cannot be read: {error.strerror or error}") from None
    if start.startswith(ZIP):
        return Contents(path, read_archive(path))
    if start.startswith(LEGACY) or start[257:262] == b"ustar":
        raise WeightsError(
            "written by PyTorch before 1.6, in a format that cannot be read safely; load and save it with a newer PyTorch once"
        )
    if path.suffix == ".safetensors" or start[8:9] == b"{":
        metadata, tensors = read_safetensors(path)
        return Contents(path, tensors, metadata)
    raise WeightsError("not a PyTorch archive, nor a safetensors file")
