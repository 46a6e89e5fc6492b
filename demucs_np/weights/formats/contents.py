"""What a file holds, before it is known to be a model: recognised by its first bytes, whatever its name."""

from __future__ import annotations

import io
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import WeightsError
from ..files import open_plain
from .archive import read_archive
from .legacy import read_legacy
from .safetensors import read_safetensors

ZIP = b"PK\x03\x04"
MAX_UNPACKED = 1 << 30  # bytes
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
        with open_plain(path) as file:
            start = file.read(512)
    except FileNotFoundError:
        raise WeightsError("no such file") from None
    except OSError as error:
        raise WeightsError(f"cannot be read: {error.strerror or error}") from None
    if start.startswith(ZIP):
        return Contents(path, _unpacked(read_archive(path)))
    if start.startswith(LEGACY):
        return Contents(path, _unpacked(read_legacy(path)))
    if start[257:262] == b"ustar":
        raise WeightsError("written by PyTorch before 0.2, in a format that is not read here; load and save it with a newer one once")
    if start.startswith(b"\x1f\x8b"):
        raise WeightsError("packed with gzip: unpack it first")
    if b"onnx" in start[:64] or path.suffix == ".onnx":
        raise WeightsError("an ONNX program, not weights of a Demucs model")
    if path.suffix == ".safetensors" or start[8:9] == b"{":
        metadata, tensors = read_safetensors(path)
        return Contents(path, tensors, metadata)
    raise WeightsError("not a PyTorch archive, nor a safetensors file")


def _unpacked(value: Any) -> Any:
    """What was saved, if it is a saved file inside a file, packed with zlib: the second generation's quantised states are."""
    if not (isinstance(value, dict) and value.keys() == {"compressed"} and isinstance(value["compressed"], bytes)):
        return value
    inflate = zlib.decompressobj()
    try:
        data = inflate.decompress(value["compressed"], MAX_UNPACKED)
    except zlib.error as error:
        raise WeightsError(f"damaged: what is packed in it cannot be unpacked ({error})") from None
    if inflate.unconsumed_tail or not inflate.eof:
        raise WeightsError(f"what is packed in it is cut off, or larger than {MAX_UNPACKED >> 20} MB")
    return read_archive(io.BytesIO(data))
