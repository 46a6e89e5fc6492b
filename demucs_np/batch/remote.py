"""Addresses that fsspec opens (`s3://`, `gs://`, `https://`): the `[remote]` extra. Nothing of it is imported for paths of this machine."""

from __future__ import annotations

import contextlib
import io
import posixpath
import re
from collections.abc import Callable, Iterator
from typing import Any, TextIO, TypeAlias
from urllib.parse import urlsplit

from ..errors import AudioError, DemucsError, UsageError, reason_of

SCHEME = re.compile(r"[a-z][a-z0-9+.-]+://")
STAMPS = ("ETag", "etag", "md5Hash", "LastModified", "last_modified", "mtime", "created")  # what stores tell of a change
Found: TypeAlias = tuple[str, str, int, str]  # address, place in the tree, bytes, stamp


def is_address(source: str) -> bool:
    """`s3://bucket/key` is; `C:/song.wav` and `song.wav` are not."""
    return bool(SCHEME.match(source))


def place_of(address: str) -> str:
    """A path in a tree for an address without a root: host and path."""
    parts = urlsplit(address)
    return f"{parts.netloc}{parts.path}"


@contextlib.contextmanager
def told(address: str) -> Iterator[None]:
    """Turns what stores raise into AudioErrors of one line."""
    try:
        yield
    except DemucsError:
        raise
    except Exception as error:
        name = type(error).__name__
        if name in ("NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError") or isinstance(error, PermissionError):
            raise AudioError(
                f"{address}: no credentials that open it; set them as the store's own tools want them ({reason_of(error)})"
            ) from None
        if isinstance(error, FileNotFoundError):
            cause = error.__cause__  # over HTTP fsspec says so of a host that cannot be reached, too
            if isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError):
                raise AudioError(f"{address}: cannot be reached ({reason_of(cause)}); check the address and the connection") from None
            raise AudioError(f"{address}: there is nothing") from None
        what = reason_of(error).splitlines()[0]
        raise AudioError(f"{address}: the store answers with {name} ({what}); check the address and the connection") from None


def system(address: str) -> tuple[Any, str]:
    """fsspec's file system for the address, and the path in it. Raises UsageError without fsspec or the scheme's package."""
    try:
        import fsspec
    except ImportError:
        raise UsageError(f'{address}: addresses need fsspec; install it with `pip install "demucs-np[remote]"`') from None
    try:
        with told(address):
            found: tuple[Any, str] = fsspec.core.url_to_fs(address)
            return found
    except AudioError as error:
        scheme = address.partition("://")[0]
        if "ImportError" in str(error) or "ValueError" in str(error):
            raise UsageError(
                f"{address}: fsspec has no file system for {scheme}:// ({error.args[0].rpartition('(')[2].rpartition(')')[0]})"
            ) from None
        raise


def find(address: str, wanted: Callable[[str], bool]) -> Iterator[Found]:
    """The file, or all below it whose names are wanted, in order. Raises AudioError."""
    files, root = system(address)
    files.invalidate_cache()
    with told(address):
        magic = any(sign in root for sign in "*?[") and address.split("://")[0] not in ("http", "https")
        if magic:
            listed = files.glob(root, detail=True)
            root = root[: min(root.index(sign) for sign in "*?[" if sign in root)].rpartition("/")[0]
        elif (info := files.info(root))["type"] != "directory":
            listed, root = {root: info}, posixpath.dirname(root)
        else:
            listed = files.find(root, detail=True)
    for path, info in sorted(listed.items()):
        relative = path[len(root) :].lstrip("/")
        if info["type"] == "file" and wanted(posixpath.basename(path)) and not any(part.startswith(".") for part in relative.split("/")):
            stamp = next((str(info[key]).strip('"') for key in STAMPS if info.get(key)), "")
            size = int(info.get("size") or 0)
            yield str(files.unstrip_protocol(path)), relative, size, f"{size}-{stamp}"


def fetch(address: str, path: str) -> None:
    """Into a file of this machine. Raises AudioError."""
    files, key = system(address)
    with told(address):
        files.get_file(key, path)


def send(path: str, address: str) -> None:
    """A file of this machine, complete or not at all. Raises AudioError."""
    files, key = system(address)
    with told(address):
        files.makedirs(posixpath.dirname(key), exist_ok=True)
        files.put_file(path, key)


@contextlib.contextmanager
def open_text(path: str) -> Iterator[TextIO]:
    """A text of this machine or elsewhere, to read."""
    if not is_address(path):
        with open(path, encoding="utf-8-sig", newline="") as file:
            yield file
        return
    files, key = system(path)
    with told(path):
        data = files.cat_file(key)
    yield io.StringIO(data.decode("utf-8-sig"), newline="")
