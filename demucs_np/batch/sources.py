"""The tracks that a library consists of: files, folders, globs and manifests, each with its place in the tree of results."""

from __future__ import annotations

import glob
import os
import posixpath
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from ..errors import AudioError, reason_of
from . import manifest, remote

ENDINGS = frozenset([
    "aac", "ac3", "aif", "aifc", "aiff", "alac", "ape", "au", "caf", "dsf", "flac", "m4a", "m4b", "mka", "mkv", "mov", "mp2",
    "mp3", "mp4", "mpc", "mpga", "oga", "ogg", "ogv", "opus", "ra", "snd", "tta", "w64", "wav", "webm", "wma", "wv",
])  # fmt: skip
MAGIC = frozenset("*?[")


@dataclass(frozen=True)
class Source:
    """One track. `size` in bytes; `stamp` changes when the file does."""

    address: str  # path, or what fsspec opens
    relative: str  # its place in the tree, with slashes: album/song.mp3
    size: int
    stamp: str
    options: Mapping[str, str] = field(default_factory=dict)  # of its row in a manifest
    origin: str = ""  # the manifest and the row


def find(sources: Iterable[str], without: str | None = None) -> Iterator[Source]:
    """All tracks of `sources`, in a fixed order. Folders: their audio files at any depth, but for hidden and partial ones, and for
    what lies below `without` (the folder of results).

    Raises AudioError for a source that is not there or holds no track, UsageError for a bad row of a manifest.
    """
    banned = None if without is None or remote.is_address(without) else os.path.realpath(without)
    for source in sources:
        found = False
        for track in _of_one(source, banned):
            found = True
            yield track
        if not found:
            raise AudioError(f"{source}: no audio files are there; name a folder, a pattern in quotes, or a manifest (.txt, .csv, .jsonl)")


def _of_one(source: str, banned: str | None) -> Iterator[Source]:
    if PurePath(source).suffix in manifest.READERS:
        yield from _of_manifest(source)
    elif remote.is_address(source):
        yield from (Source(*found) for found in remote.find(source, is_track))
    elif os.path.isdir(source):
        yield from _below(source, banned)
    elif MAGIC & set(source) and not os.path.exists(source):
        yield from _matching(source, banned)
    else:
        yield _file(source, os.path.basename(source))


def is_track(name: str) -> bool:
    """By the name: known ending, not hidden, not half a download."""
    return not name.startswith(".") and name.rpartition(".")[2].lower() in ENDINGS and "." in name


def _below(folder: str, banned: str | None) -> Iterator[Source]:
    seen = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real == banned or real in seen:  # `seen`: links may run in a circle
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(filter(is_track, files)):
            path = os.path.join(place, name)
            yield _file(path, Path(path).relative_to(folder).as_posix())


def _matching(pattern: str, banned: str | None) -> Iterator[Source]:
    fixed = []
    for part in PurePath(pattern).parts:
        if MAGIC & set(part):
            break
        fixed.append(part)
    root = os.path.join("", *fixed)
    for path in sorted(glob.glob(pattern, recursive=True)):
        inside = banned is not None and os.path.commonpath([banned, os.path.realpath(path)]) == banned
        if not inside and os.path.isfile(path) and not os.path.basename(path).startswith("."):
            yield _file(path, Path(os.path.relpath(path, root or ".")).as_posix())


def _of_manifest(source: str) -> Iterator[Source]:
    folder = posixpath.dirname(source) if remote.is_address(source) else os.path.dirname(source)
    for row in manifest.read(source):
        if remote.is_address(row.track):
            (found,) = remote.find(row.track, lambda name: True)
            yield Source(found[0], remote.place_of(row.track), *found[2:], row.options, row.origin)
            continue
        if remote.is_address(folder):
            (found,) = remote.find(f"{folder}/{row.track}", lambda name: True)
            yield Source(found[0], row.track, *found[2:], row.options, row.origin)
            continue
        path = os.path.join(folder, row.track)
        place = os.path.relpath(path, folder or ".")
        if place.startswith(".."):  # of a file elsewhere, the path itself
            place = os.path.relpath(os.path.abspath(path), os.path.abspath(path)[: len(Path(path).absolute().anchor)])
        try:
            yield _file(path, Path(place).as_posix(), row.options, row.origin)
        except AudioError as error:
            raise AudioError(f"{row.origin}: {error}") from None


def _file(path: str, relative: str, options: Mapping[str, str] | None = None, origin: str = "") -> Source:
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        raise AudioError(f"{path}: cannot be read ({reason_of(error)})") from None
    return Source(path, relative, status.st_size, f"{status.st_size}-{status.st_mtime_ns}", options or {}, origin)
