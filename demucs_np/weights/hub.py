"""Fetch published weights: from the hub into the cache that the reference uses too, or else from their former address.

Where files lie (environment variables are read at every call):
- `HF_HUB_CACHE`, or `HF_HOME/hub`, by default `~/.cache/huggingface/hub`: `models--<owner>--<repository>/`, in the hub's layout;
- `TORCH_HOME/hub/checkpoints`, by default `~/.cache/torch/hub/checkpoints`: the `.th` files of the former address.
`HF_ENDPOINT` names another hub; with `HF_HUB_OFFLINE=1` nothing is fetched.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

from .. import __version__
from ..errors import ModelError, WeightsError
from . import catalog
from .files import CHUNK, check_named_checksum, sha256

Report = Callable[[str], None]

TIMEOUT = 20.0  # seconds without a byte
ATTEMPTS = 5
PAUSE = 1.0  # seconds before the second attempt, then twice as long each time
LONGEST_PAUSE = 20.0  # however long a server asks us to wait


def to_stderr(text: str) -> None:
    """The default report."""
    print(text, file=sys.stderr, flush=True)


def hub_cache() -> Path:
    """Where the hub's files are kept."""
    if explicit := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return _expanded(explicit)
    home = os.environ.get("HF_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    return _expanded(home) / "hub"


def legacy_cache() -> Path:
    """Where PyTorch keeps what it downloads."""
    home = os.environ.get("TORCH_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "torch")
    return _expanded(home) / "hub" / "checkpoints"


def _expanded(path: str) -> Path:
    return Path(os.path.expandvars(path)).expanduser()


def endpoint() -> str:
    """The hub's address."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def offline() -> bool:
    """Whether the user forbids the network."""
    return any(os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE") for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))


def cached(repository: str, filename: str) -> Path | None:
    """A file of the hub that is in the cache already, without asking the hub for a newer one."""
    folder = hub_cache() / f"models--{repository.replace('/', '--')}"
    snapshots = []
    with contextlib.suppress(OSError):
        snapshots.append(folder / "snapshots" / (folder / "refs" / "main").read_text().strip())
    with contextlib.suppress(OSError):  # a folder carried here by hand may lack the reference
        snapshots += sorted((folder / "snapshots").iterdir())
    return next((snapshot / filename for snapshot in snapshots if (snapshot / filename).is_file()), None)


def find(signature: str) -> Path | None:
    """The cached file of a published signature: the hub's, or else the former address's."""
    for repository in catalog.homes(signature):
        if path := cached(repository, f"{signature}.safetensors"):
            return path
    legacy = legacy_cache() / Path(catalog.LEGACY[signature]).name
    return legacy if legacy.is_file() else None


def fetch(signature: str, report: Report = to_stderr) -> Path:
    """The file of a published signature, downloaded if it is not in the cache.

    Raises ModelError, saying how to get the file, if it cannot be had.
    """
    if path := find(signature):
        return path
    repositories = catalog.homes(signature)
    if offline():
        raise ModelError(_remedy(signature, "HF_HUB_OFFLINE forbids the network"))
    try:
        return from_hub(repositories[0], f"{signature}.safetensors", report)
    except ModelError as error:
        report(f"{error}; trying the former address")
        reasons = [str(error)]
    try:
        return from_legacy(signature, report)
    except ModelError as error:
        reasons.append(str(error))
    raise ModelError(_remedy(signature, "; ".join(reasons)))


def _remedy(signature: str, reason: str) -> str:
    repository = catalog.homes(signature)[0]
    return (
        f"the weights {signature} are not on this machine and cannot be fetched ({reason}). With a network, run `demucs-np models download "
        f"{signature}`; or carry {endpoint()}/{repository}/resolve/main/{signature}.safetensors into a folder here and add `--repo FOLDER`"
    )


def from_hub(repository: str, filename: str, report: Report = to_stderr) -> Path:
    """Download a file of the hub into its cache and check its SHA-256. Partial downloads resume.

    Raises ModelError if the hub does not answer or has no such file, WeightsError if what came is corrupt (and is deleted).
    """
    report(f"Downloading {filename} from {endpoint()}/{repository}")
    try:
        # Imported here: it takes longer than everything else that loading a cached model does.
        from huggingface_hub import hf_hub_download

        path = Path(
            hf_hub_download(
                repository,
                filename,
                cache_dir=hub_cache(),
                endpoint=endpoint(),
                etag_timeout=TIMEOUT,
                library_name="demucs-np",
                library_version=__version__,
            )
        )
    except Exception as error:  # the library's, its HTTP client's and the system's errors share no base
        raise ModelError(f"{endpoint()}/{repository} gave no {filename} ({_short(error)})") from error
    if not intact(path):
        discard(path)
        raise WeightsError(f"{filename} from {endpoint()} came corrupt and was deleted")
    return path


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else text[:157] + "..."


def intact(path: Path) -> bool | None:
    """Whether a cached file still has the SHA-256 it was published with. None: the cache does not say what that is."""
    if path.suffix == ".th":
        try:
            check_named_checksum(path)
        except WeightsError:
            return False
        return True
    blob = path.resolve()
    if re.fullmatch(r"[0-9a-f]{64}", blob.name):
        return sha256(blob) == blob.name
    if re.fullmatch(r"[0-9a-f]{40}", blob.name):  # a small file, named by git's hash
        content = blob.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest() == blob.name
    return None


def discard(path: Path) -> None:
    """Delete a cached file, and the blob it links to."""
    blob = path.resolve()
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    with contextlib.suppress(FileNotFoundError):
        blob.unlink()


def from_legacy(signature: str, report: Report = to_stderr) -> Path:
    """Download a `.th` package from its former address into PyTorch's cache, and check its SHA-256. Partial downloads resume.

    Raises ModelError if it cannot be had, WeightsError if what came is corrupt (and is deleted).
    """
    url = catalog.LEGACY_ROOT + catalog.LEGACY[signature]
    target = legacy_cache() / Path(url).name
    report(f"Downloading {url}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target.with_name(target.name + ".lock")):
            if not target.exists():
                _download(url, target)
    except OSError as error:
        raise ModelError(f"{url} cannot be fetched ({_short(error)})") from error
    return target


def _download(url: str, target: Path) -> None:
    """Fetch `url` into `target.part`, as often as it takes, and rename it once its checksum is right."""
    part = target.with_name(target.name + ".part")
    for attempt in range(ATTEMPTS):
        try:
            _append(url, part)
            break
        except urllib.error.HTTPError as error:
            error.close()
            if attempt + 1 == ATTEMPTS or not (error.code in (408, 416, 429) or error.code >= 500):
                raise
            if error.code == 416:  # more bytes here than there: a part of another file
                part.unlink(missing_ok=True)
            asked = error.headers.get("Retry-After") or ""
            time.sleep(min(float(asked) if asked.isdigit() else PAUSE * 2**attempt, LONGEST_PAUSE))
        except (OSError, EOFError) as error:
            if attempt + 1 == ATTEMPTS:
                raise OSError(f"the connection broke {ATTEMPTS} times: {_short(error)}") from error
            time.sleep(min(PAUSE * 2**attempt, LONGEST_PAUSE))
    _, _, expected = target.stem.partition("-")
    if (actual := sha256(part)[: len(expected)]) != expected:
        part.unlink()
        raise WeightsError(f"{url} came corrupt (its SHA-256 starts with {actual}, not {expected}) and was deleted")
    os.replace(part, target)


def _append(url: str, part: Path) -> None:
    """Fetch what `part` lacks. Raises EOFError if the connection ends too early."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": f"demucs-np/{__version__}"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        resumed = response.status == 206
        length = response.headers.get("Content-Length")
        total = (have if resumed else 0) + int(length) if length else None
        with open(part, "ab" if resumed else "wb") as file:
            _copy(response, file, total)
            if total is not None and file.tell() < total:
                raise EOFError(f"{file.tell()} of {total} bytes")


def _copy(response: IO[bytes], file: IO[bytes], total: int | None) -> None:
    """Copy to the end, with a line of progress on a terminal."""
    shown = time.monotonic()
    while chunk := response.read(CHUNK):
        file.write(chunk)
        if sys.stderr.isatty() and time.monotonic() - shown > 0.5:
            shown = time.monotonic()
            part = f" of {total / 1e6:.0f}" if total else ""
            print(f"\r{file.tell() / 1e6:.0f}{part} MB", end="\r", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a file lock, so that of two processes one downloads and the other waits."""
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


def files(signatures: Sequence[str]) -> dict[str, Path | None]:
    """Signature -> its cached file, or None; each signature once."""
    return {signature: find(signature) for signature in dict.fromkeys(signatures)}
