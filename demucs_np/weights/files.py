"""Files that appear complete or not at all, and their checksums."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ..errors import DemucsError, WeightsError, reason_of

CHUNK = 1 << 20


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write, under a temporary name beside `path` and renamed to it at the end; removed if an exception comes.

    Raises DemucsError if the folder or the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    except OSError as error:
        raise _unwritable(path, error) from None
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        raise _unwritable(path, error) from None
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def check_writable(path: Path) -> None:
    """Raise DemucsError before work that takes minutes, if `written_whole` would raise it afterwards."""
    try:
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        with contextlib.suppress(FileNotFoundError):
            path.lstat()  # a name that is too long is found here
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _unwritable(path, error) from None


def _unwritable(path: Path, error: OSError) -> DemucsError:
    return DemucsError(f"{path}: cannot be written ({reason_of(error)}); choose another place or free some space")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def sha256(path: Path) -> str:
    """SHA-256 of a file, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def signature(path: Path) -> tuple[str, str | None]:
    """The model's signature and the checksum in a file's name: `955717e8-8726e21a.th` -> ("955717e8", "8726e21a")."""
    name, dash, checksum = path.stem.rpartition("-")
    if dash and re.fullmatch(r"[0-9a-f]{6,64}", checksum):
        return name, checksum
    return path.stem, None


def check_named_checksum(path: Path) -> None:
    """Raises WeightsError if the file's name holds the start of a SHA-256 that is not the file's."""
    _, expected = signature(path)
    if expected and (actual := sha256(path)[: len(expected)]) != expected:
        raise WeightsError(f"{path}: its SHA-256 starts with {actual}, not with {expected} as its name says; fetch the file again")
