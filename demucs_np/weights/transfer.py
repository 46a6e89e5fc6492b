"""Download from a plain web server: a file is there complete and checked, or not at all."""

from __future__ import annotations

import hashlib
import http.client
import re
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import BinaryIO

from .. import __version__
from ..errors import WeightsError, shown
from .files import CHUNK, written_whole
from .patience import FetchError, printable, within

TIMEOUT = 10.0  # seconds without a byte
ATTEMPTS = 5
MAX_SIZE = 4 << 30  # bytes of a file
PAUSE = 1.0  # seconds before the second attempt, then twice as long each time
FAULTS = (OSError, EOFError, http.client.HTTPException)  # what a network may do; HTTP errors and timeouts are OSErrors


def download(url: str, target: Path, checksum: str) -> None:
    """Fetch `url` into `target`; `checksum` is the start of its SHA-256. A broken connection is resumed.

    Two processes may do so at once: each writes a file of its own, and renames it.
    Raises ModelError if the file cannot be had, WeightsError if it came corrupt (and was deleted).
    """
    with written_whole(target) as file:
        try:
            actual = within(lambda: _receive(url, file, target.name), file.tell)
        except FAULTS as error:
            raise FetchError(url, _short(error)) from error
        if not actual.startswith(checksum):
            raise WeightsError(f"{url} came corrupt (its SHA-256 starts with {actual[:8]}, not {checksum}) and was deleted; try again")


def _receive(url: str, file: BinaryIO, name: str) -> str:
    """Write what `url` holds to `file`. Returns its SHA-256; raises the last of FAULTS."""
    from huggingface_hub.utils.tqdm import tqdm

    digest = hashlib.sha256()
    with tqdm(desc=name, unit="B", unit_scale=True, disable=None) as bar:  # None: shown on a terminal only
        for attempt in range(ATTEMPTS):
            have = file.tell()
            headers = {"User-Agent": f"demucs-np/{__version__}", **({"Range": f"bytes={have}-"} if have else {})}
            try:
                with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT) as response:
                    if have and response.status != 206:  # not the rest, but all again
                        file.seek(0)
                        file.truncate()
                        digest, have = hashlib.sha256(), 0
                    length = response.headers.get("Content-Length")
                    if length is not None and not re.fullmatch(r"[0-9]{1,18}", length):
                        raise http.client.HTTPException(f"its Content-Length is {shown(length)}")
                    bar.total, bar.n = (have + int(length) if length else None), have
                    while chunk := response.read(CHUNK):
                        file.write(chunk)
                        if file.tell() > MAX_SIZE:
                            raise http.client.HTTPException(f"it is larger than {MAX_SIZE / 1e9:g} GB, which no model is")
                        digest.update(chunk)
                        bar.update(len(chunk))
                if bar.total and file.tell() < bar.total:
                    raise EOFError(f"{file.tell()} of {bar.total} bytes came")
                return digest.hexdigest()
            except FAULTS as error:
                if attempt + 1 == ATTEMPTS or not _may_pass(error, started=file.tell() > 0):
                    raise
            time.sleep(PAUSE * 2**attempt)
    raise AssertionError


def _may_pass(error: BaseException, started: bool) -> bool:
    """Whether it is worth trying again: a busy server, or a connection that broke; not a server that was never reached."""
    if isinstance(error, urllib.error.HTTPError):
        error.close()
        return error.code in (408, 429) or error.code >= 500
    return started or not isinstance(error, urllib.error.URLError)


def _short(error: BaseException) -> str:
    """What went wrong, without Python's wrapping."""
    if isinstance(error, urllib.error.URLError) and not isinstance(error, urllib.error.HTTPError) and isinstance(error.reason, OSError):
        error = error.reason
    text = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
    return printable(text)
