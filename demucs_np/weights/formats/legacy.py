"""Read what PyTorch before 1.6 wrote, and newer ones on request: pickles one after the other, and after them the storages' numbers.

In order: a magic number, the version, a dict about the writing machine, the object, the list of the storages' keys, and for each of these
the count of its numbers (int64) and the numbers.
"""

from __future__ import annotations

import mmap
import pickletools
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from ...errors import WeightsError
from .archive import MAX_PICKLE
from .machine import Machine
from .stored import DTYPES

MAGIC = 0x1950A86A20F9469CFC6C
VERSION = 1001


def read_legacy(path: Path) -> Any:
    """As `read_archive`; the numbers stay in the memory-mapped file. Raises WeightsError (its text without the path)."""
    try:
        with open(path, "rb") as opened:
            # Read as a file as well: it gives no more than there is, where a file would make room for all that a pickle asks for.
            file = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
            data = memoryview(file)
            if _run(file) != MAGIC or _run(file) != VERSION:
                raise WeightsError("not a file of PyTorch's legacy format, or of another version of it")
            machine = _run(file)
            order = "<" if not isinstance(machine, dict) or machine.get("little_endian", True) else ">"
            program = _pickle(file)
            keys = _run(file)
            if not isinstance(keys, list):
                raise WeightsError("damaged file: it does not list its storages")
            widths = _widths(program, len(data))
            storages, position = {}, file.tell()
            for key in keys:
                if key not in widths:
                    raise WeightsError(f"damaged file: storage {str(key)[:40]!r} belongs to no tensor")
                count = int.from_bytes(data[position : position + 8], "little" if order == "<" else "big")
                position += 8
                end = position + count * DTYPES[widths[key]].itemsize
                if end > len(data):
                    raise WeightsError("truncated file: a storage reaches beyond its end; fetch the file again")
                storages[key] = data[position:end]
                position = end
    except (OSError, ValueError) as error:
        raise WeightsError(f"cannot be read: {getattr(error, 'strerror', None) or str(error)[:120]}") from None

    def numbers(dtype: str, key: str, count: int) -> np.ndarray:
        kind = DTYPES[dtype].newbyteorder(order)  # type: ignore[arg-type]
        if key not in storages or count * kind.itemsize > len(storages[key]):
            raise WeightsError(f"truncated or damaged file: storage {key!r} is missing or too short")
        return np.frombuffer(storages[key], kind, count)

    return Machine(numbers).run(program)


def _run(file: mmap.mmap) -> Any:
    """A pickle without tensors."""

    def none(dtype: str, key: str, count: int) -> np.ndarray:
        raise WeightsError("damaged file: a tensor where none belongs")

    return Machine(none).run(file)


def _pickle(file: mmap.mmap) -> bytes:
    """The next pickle, not run."""
    start = file.tell()
    try:
        for _ in pickletools.genops(cast(IO[bytes], file)):
            pass
    except ValueError as error:
        raise WeightsError(f"damaged or foreign pickle ({str(error)[:120]})") from None
    end = file.tell()
    if end - start > MAX_PICKLE:
        raise WeightsError("its pickle is too large for a package of weights")
    file.seek(start)
    return file.read(end - start)


def _widths(program: bytes, size: int) -> dict[str, str]:
    """Type of every storage that the object's tensors name. Nothing is read for that."""
    found: dict[str, str] = {}

    def note(dtype: str, key: str, count: int) -> np.ndarray:
        if count * DTYPES[dtype].itemsize > size:
            raise WeightsError("truncated file: a tensor needs more than there is; fetch the file again")
        if found.setdefault(key, dtype) != dtype:
            raise WeightsError("damaged file: a storage of two types")
        return np.empty(count, DTYPES[dtype])

    Machine(note).run(program)
    return found
