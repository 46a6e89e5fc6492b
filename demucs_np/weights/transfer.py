"""Download a file so that it is complete, checked and there once: resumed where it broke off, in this run or a later one."""

from __future__ import annotations

import contextlib
import http.client
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, TypeVar

from .. import __version__
from ..errors import WeightsError
from .files import CHUNK, sha256

T = TypeVar("T")

TIMEOUT = 20.0  # seconds without a byte
ATTEMPTS = 5
PAUSE = 1.0  # seconds before the second attempt, then twice as long each time
LONGEST_PAUSE = 20.0  # however long a server asks us to wait
FAULTS = (OSError, EOFError, http.client.HTTPException)  # what a network may do; HTTP errors and timeouts are OSErrors


def request(url: str, private: Mapping[str, str], **headers: str) -> urllib.request.Request:
    """A request; the `private` headers are not repeated to another address that it is redirected to."""
    result = urllib.request.Request(url, headers={"User-Agent": f"demucs-np/{__version__}", "Accept-Encoding": "identity", **headers})
    for name, value in private.items():
        result.add_unredirected_header(name, value)
    return result


def persist(action: Callable[[], T]) -> T:
    """The action's result, tried again after a pause if the server is busy or the connection breaks.

    A server that cannot be reached at all is not tried again. Raises the last of FAULTS.
    """
    for attempt in range(ATTEMPTS):
        pause = PAUSE * 2**attempt
        try:
            return action()
        except urllib.error.HTTPError as error:
            error.close()
            if attempt + 1 == ATTEMPTS or not (error.code in (408, 429) or error.code >= 500):
                raise
            asked = error.headers.get("Retry-After") or ""
            pause = float(asked) if asked.isdigit() else pause
        except FAULTS as error:
            if isinstance(error, urllib.error.URLError) and attempt == 0:
                raise
            if attempt + 1 == ATTEMPTS:
                raise OSError(f"the connection broke {ATTEMPTS} times: {error}") from error
        time.sleep(min(pause, LONGEST_PAUSE))
    raise AssertionError


def download(url: str, target: Path, lock: Path, checksum: str | None, private: Mapping[str, str] | None = None) -> None:
    """Fetch `url` into `target`, unless another process has just done so.

    `checksum` is the start of the file's SHA-256, if known. What a broken connection leaves, `<target>.incomplete`, is resumed.
    Raises one of FAULTS if the file cannot be had, WeightsError if it came corrupt (and was deleted).
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".incomplete")
    with _locked(lock):
        if target.exists():
            return
        persist(lambda: _append(url, part, private or {}))
        if checksum and not (actual := sha256(part)).startswith(checksum):
            part.unlink()
            raise WeightsError(f"{url} came corrupt (its SHA-256 starts with {actual[:8]}, not {checksum[:8]}) and was deleted; try again")
        os.replace(part, target)


def _append(url: str, part: Path, private: Mapping[str, str]) -> None:
    """Fetch what `part` lacks. Raises EOFError if the connection ends too early."""
    have = part.stat().st_size if part.exists() else 0
    range_header = {"Range": f"bytes={have}-"} if have else {}
    try:
        response = urllib.request.urlopen(request(url, private, **range_header), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        error.close()
        # Nothing follows: the part is complete, or of another file, which its checksum tells.
        if error.headers.get("Content-Range") == f"bytes */{have}":
            return
        part.unlink()
        raise EOFError(f"{have} bytes are more than the file has") from None
    with response:
        resumed = response.status == 206
        length = response.headers.get("Content-Length")
        total = (have if resumed else 0) + int(length) if length else None
        with open(part, "ab" if resumed else "wb") as file:
            _copy(response, file, total)
            if total is not None and file.tell() < total:
                raise EOFError(f"{file.tell()} of {total} bytes came")


def _copy(response: IO[bytes], file: IO[bytes], total: int | None) -> None:
    """Copy to the end, with a line of progress on a terminal."""
    terminal, shown = sys.stderr.isatty(), 0.0
    while chunk := response.read(CHUNK):
        file.write(chunk)
        if terminal and time.monotonic() - shown > 0.2:
            shown = time.monotonic()
            done = f"{file.tell() / 1e6:.0f}"
            text = f"{done} of {total / 1e6:.0f} MB ({100 * file.tell() // total}%)" if total else f"{done} MB"
            print(f"\r  {text} ", end="", file=sys.stderr, flush=True)
    if terminal and shown:
        print("\r" + " " * 40 + "\r", end="", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a file lock, so that of two processes one downloads and the other waits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b") as file:
        if sys.platform == "win32":
            import msvcrt

            while True:
                try:
                    msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)  # gives up after ten seconds
                    break
                except OSError:
                    time.sleep(0.1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield
