"""What became of every track, a line of JSON each, beside the results: `demucs-np.jsonl`, or one file for each shard.

A line is appended with one write. A torn last line, of a machine that lost power or a disk that was full, is passed over, and the next
line begins on a line of its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import posixpath
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from ..errors import AudioError, UsageError, reason_of
from . import remote

Record: TypeAlias = dict[str, Any]  # see `library.record`
Records: TypeAlias = dict[str, Record]  # by "key"
NAME = "demucs-np"


class Journal(Protocol):
    """Opened by `open_journal`; closed at the end of a run."""

    def append(self, record: Record) -> None:
        """Written down for good when this returns. Raises AudioError if it cannot be."""

    def close(self) -> None:
        """Let others write."""


def open_journal(out: str, shard: tuple[int, int] | None = None) -> Journal:
    """The journal of a folder or an address. Raises UsageError while another run writes it, AudioError where nothing can be written."""
    name = NAME if shard is None else f"{NAME}.{shard[0]}-of-{shard[1]}"
    return RemoteJournal(out, name) if remote.is_address(out) else FileJournal(Path(out), name)


def parse(lines: Iterable[bytes]) -> Iterator[Record]:
    """The whole records among lines."""
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("key"), str) and record.get("status") in ("done", "failed"):
            yield record


def merge(records: Iterable[Record]) -> Records:
    """Of every track the latest; of two at the same time the one that comes later."""
    latest: Records = {}
    for record in records:
        before = latest.get(record["key"])
        if before is None or record.get("at", 0) >= before.get("at", 0):
            latest[record["key"]] = record
    return latest


def read_journals(out: str) -> Records:
    """The last line of every track, of all shards, in a folder or at an address. Raises AudioError."""
    if remote.is_address(out):
        return _read_remote(out)
    try:
        return merge(record for path in sorted(Path(out).glob(f"{NAME}*.jsonl")) for record in parse(path.read_bytes().splitlines()))
    except OSError as error:
        raise AudioError(f"{error.filename or out}: cannot be read ({reason_of(error)})") from None


def _read_remote(out: str) -> Records:
    files, root = remote.system(out)
    root = root.rstrip("/")
    with remote.told(out):
        files.invalidate_cache()
        names = [*files.glob(f"{root}/{NAME}*.jsonl"), *files.glob(f"{root}/{NAME}*.parts/*.json")]
        contents = files.cat(names) if names else {}
    return merge(record for name in sorted(contents, reverse=True) for record in parse(contents[name].splitlines()))


class FileJournal:
    """In a folder of this machine, or one that machines share."""

    def __init__(self, out: Path, name: str) -> None:
        self._out, self.path = out, out / f"{name}.jsonl"
        try:
            out.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError as error:
            raise AudioError(f"{self.path}: cannot be written ({reason_of(error)}); choose another -o") from None
        try:
            self._lock()
            self._mend()
        except BaseException:
            self.close()
            raise

    def _lock(self) -> None:
        try:
            import fcntl
        except ImportError:  # Windows
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"{self.path}: another run writes it; wait for it to end, or give each a part with --shard I/N") from None
        except OSError:  # a file system that knows no locks
            return

    def _mend(self) -> None:
        """After a torn line begin a new one."""
        size = os.fstat(self._file).st_size
        if size and self.path.read_bytes()[-1:] != b"\n":
            os.write(self._file, b"\n")

    def append(self, record: Record) -> None:
        line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
        before = os.fstat(self._file).st_size
        try:
            written = os.write(self._file, line)
            if written < len(line):
                raise OSError(28, os.strerror(28))
            os.fsync(self._file)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, before)
            raise AudioError(f"{self.path}: cannot be written ({reason_of(error)}); put that right and run it again") from None

    def close(self) -> None:
        os.close(self._file)


class RemoteJournal:
    """In an object store, where nothing can be appended: an object for each track, joined to one file when a run begins or ends."""

    def __init__(self, out: str, name: str) -> None:
        self._out, self._name = out, name
        self._files, root = remote.system(out)
        self._root = root.rstrip("/")
        self._join()
        with remote.told(self._out):  # where there are folders; in a store of objects this does nothing
            self._files.makedirs(f"{self._root}/{self._name}.parts", exist_ok=True)

    def _own(self) -> list[str]:
        with remote.told(self._out):
            self._files.invalidate_cache()
            found: list[str] = self._files.find(f"{self._root}/{self._name}.parts")
            return found

    def _join(self) -> None:
        parts = self._own()
        if not parts:
            return
        path = f"{self._root}/{self._name}.jsonl"
        with remote.told(self._out):
            before = self._files.cat_file(path) if self._files.exists(path) else b""
            added = self._files.cat(parts)
            lines = sorted(added.values(), key=lambda line: json.loads(line).get("at", 0))
            self._files.pipe_file(path, before + b"".join(lines))
            self._files.rm(parts)

    def append(self, record: Record) -> None:
        name = f"{hashlib.sha256(record['key'].encode()).hexdigest()[:24]}-{time.time_ns()}.json"
        with remote.told(self._out):
            self._files.pipe_file(
                posixpath.join(self._root, f"{self._name}.parts", name), json.dumps(record, separators=(",", ":")).encode() + b"\n"
            )

    def close(self) -> None:
        self._join()
