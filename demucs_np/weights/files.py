"""Files that appear complete or not at all, and their checksums."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ..errors import DemucsError, WeightsError, reason_of

CHUNK = 1 << 20


def open_plain(path: Path) -> BinaryIO:
    """A file to read. Raises OSError, as for what is not there, for a pipe or a device: opening or reading those may never end."""
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError(errno.EINVAL, "a pipe or a device, not a plain file")
    return open(path, "rb")


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
    with open_plain(path) as file:
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
    try:
        actual = sha256(path)[: len(expected)] if expected else None
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror or error}") from None
    if actual != expected:
        raise WeightsError(f"{path}: its SHA-256 starts with {actual}, not with {expected} as its name says; fetch the file again")
