"""Fetch published weights: from the hub into the cache that upstream uses too, or else from their former address.

Where files lie (environment variables are read at every call):
- `HF_HUB_CACHE`, or `HF_HOME/hub`, by default `~/.cache/huggingface/hub`: `models--<owner>--<repository>/`, in the hub's layout;
- `TORCH_HOME/hub/checkpoints`, by default `~/.cache/torch/hub/checkpoints`: the `.th` files of the former address.
`HF_ENDPOINT` names another hub, `HF_TOKEN` is sent to it; with `HF_HUB_OFFLINE=1` nothing is fetched.

The hub's own client, `huggingface_hub`, downloads. It takes a second to import, so what is cached is found without it. It resumes where
a connection broke, but not what an earlier process left (its issue 4196): a download that was stopped starts anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

from .. import __version__
from ..errors import ModelError, WeightsError, shown
from . import catalog
from .files import check_named_checksum, sha256
from .patience import FetchError, printable, within

TIMEOUT = 5.0  # seconds for the hub's first answer, unless HF_HUB_ETAG_TIMEOUT says otherwise

Report = Callable[[str], None]


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
    try:
        return Path(os.path.expandvars(path)).expanduser()
    except RuntimeError as error:  # a user that the system does not know, as in a container
        raise ModelError("there is no home folder, and so no place for models: set HF_HOME to a folder for them, or name a file") from error


def endpoint() -> str:
    """The hub's address."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def offline() -> bool:
    """Whether the user forbids the network."""
    return any(os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE") for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))


def cached(repository: str, filename: str) -> Path | None:
    """A file of the hub that is in the cache already, without asking the hub for a newer one."""
    folder = hub_cache() / _folder(repository)
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


def fetch(signature: str, report: Report = to_stderr, asked: str | None = None) -> Path:
    """The file of a published signature, downloaded if it is not in the cache; `asked` is the name that stood for it.

    Raises ModelError, saying in three lines how to get the file, if it cannot be had.
    """
    if path := find(signature):
        return path
    repositories = catalog.homes(signature)
    if offline():
        raise ModelError(_remedy(signature, asked, "HF_HUB_OFFLINE forbids the network"))
    try:
        return from_hub(repositories[0], f"{signature}.safetensors", report)
    except ModelError as error:
        reasons = [error.reason if isinstance(error, FetchError) else str(error)]
        report(f"Not from the hub ({reasons[0]}); trying the former address")
    try:
        return from_legacy(signature, report)
    except ModelError as error:
        reasons.append(error.reason if isinstance(error, FetchError) else str(error))
    raise ModelError(_remedy(signature, asked, "; ".join(dict.fromkeys(reasons))))


def fetch_from(repository: str, filename: str, report: Report = to_stderr) -> Path:
    """A file of any repository of the hub, downloaded if it is not in the cache. Raises ModelError if it cannot be had."""
    if path := cached(repository, filename):
        return path
    if offline():
        raise ModelError(f"{repository} has no {filename} in {hub_cache()}, and HF_HUB_OFFLINE forbids the network")
    return from_hub(repository, filename, report)


def _remedy(signature: str, asked: str | None, reason: str) -> str:
    name = asked or signature
    return (
        f"{name} is not on this machine and cannot be fetched ({reason})\n"
        f"  with a network: demucs-np models download {name}\n"
        f"  without: carry {signature}.safetensors of {endpoint()}/{catalog.homes(signature)[0]} into a folder and add --repo FOLDER, "
        "or try -n demo, which knows synthesised music only"
    )


def from_hub(repository: str, filename: str, report: Report = to_stderr) -> Path:
    """Download a file of the hub into its cache and check its SHA-256.

    Raises ModelError if the hub does not answer or has no such file, WeightsError if what came is corrupt (and was deleted).
    """
    address = f"{endpoint()}/{repository}/resolve/main/{filename}"
    report(f"Downloading {filename} from {endpoint()}/{repository}")
    try:
        with _quiet_client():
            path, etag = within(lambda: _download(repository, filename), lambda: _arrived(repository))
    except Exception as error:  # the client's own errors, and those of the HTTP library beneath it: another one in each major release
        raise FetchError(address, _short(error)) from error
    good = _matches(path, etag)
    if good:
        return path
    _discard(path)
    if good is None:
        raise ModelError(f"{address} does not answer as the hub does (its ETag {shown(etag)} is no hash)")
    raise WeightsError(f"{address} came corrupt (its hash is not {etag}) and was deleted; try again")


def _arrived(repository: str) -> int:
    """Bytes of its files in the cache, whole or in part."""
    total = 0
    with contextlib.suppress(OSError):  # one may vanish between
        total = sum(file.stat().st_size for file in (hub_cache() / _folder(repository) / "blobs").glob("*"))
    return total


def _download(repository: str, filename: str) -> tuple[Path, str]:
    """A file of the hub, now in its cache, and the ETag, which is the hash that the hub has of it."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    hub, agent = endpoint(), f"demucs-np/{__version__}"
    timeout = constants.HF_HUB_ETAG_TIMEOUT if os.environ.get("HF_HUB_ETAG_TIMEOUT") else TIMEOUT

    def ask() -> str:
        url = hf_hub_url(repository, filename, endpoint=hub)
        return get_hf_file_metadata(url, timeout=timeout, endpoint=hub, user_agent=agent).etag or ""

    etag = ""
    # Asked once and not again: without a network, hf_hub_download would go on asking for half a minute.
    # A refusal is left to it: it knows which to take for an answer, and after which to wait and repeat.
    with contextlib.suppress(HfHubHTTPError):
        etag = ask()
    if etag and not re.fullmatch(r"[0-9A-Za-z_-]{1,128}", etag):  # the client makes files of that name
        raise ModelError(f"it does not answer as the hub does (its ETag {shown(etag)} is no hash)")
    path = hf_hub_download(repository, filename, cache_dir=hub_cache(), endpoint=hub, etag_timeout=timeout, user_agent=agent)
    return Path(path), etag or ask()


class _Settings:
    """The client's settings while it works for us."""

    lock = threading.Lock()  # held for an instant, not while a server is waited for
    users = 0
    before: ClassVar[dict[str, bool]] = {}


@contextlib.contextmanager
def _quiet_client() -> Iterator[None]:
    """The hub's client without telemetry, and with plain HTTP from the hub alone, which resumes.

    The client reads its settings from the environment once, when it is imported, perhaps by the caller's program: they are set where it
    keeps them by the first thread that comes in, and restored by the last one that goes.
    """
    from huggingface_hub import constants

    with _Settings.lock:
        if _Settings.users == 0:
            for name in ("HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_XET"):
                _Settings.before[name] = getattr(constants, name)
                setattr(constants, name, True)
        _Settings.users += 1
    try:
        yield
    finally:
        with _Settings.lock:
            _Settings.users -= 1
            if _Settings.users == 0:
                for name, value in _Settings.before.items():
                    setattr(constants, name, value)


def _folder(repository: str) -> str:
    return f"models--{repository.replace('/', '--')}"


def _short(error: BaseException) -> str:
    """What went wrong, on one line and without the client's wrapping."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    if isinstance(error, LocalEntryNotFoundError) and error.__cause__:
        error = error.__cause__
    if isinstance(error, HfHubHTTPError):
        return f"HTTP Error {error.response.status_code}"
    return printable(re.sub(r"^\[Errno -?\d+\] ", "", str(error)) or type(error).__name__)


def intact(path: Path) -> bool | None:
    """Whether a cached file still has the SHA-256 it was published with. None: the cache does not say what that is."""
    if path.suffix == ".th":
        try:
            check_named_checksum(path)
        except WeightsError:
            return False
        return True
    # The link's own target is named by the published hash; the target may be a link too, to a blob that repositories share.
    return _matches(path, Path(os.readlink(path)).name) if path.is_symlink() else None


def _matches(path: Path, etag: str) -> bool | None:
    """Whether a file's content has the hash that is its ETag at the hub. None: the ETag is no hash."""
    if re.fullmatch(r"[0-9a-f]{64}", etag):
        return sha256(path) == etag
    if re.fullmatch(r"[0-9a-f]{40}", etag):  # a small file, known by git's hash
        content = path.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest() == etag
    return None


def _discard(path: Path) -> None:
    """Delete a cached file: the link in the snapshot and what it leads to."""
    while path.is_symlink():
        target = path.parent / os.readlink(path)
        path.unlink()
        path = target
    path.unlink(missing_ok=True)


def from_legacy(signature: str, report: Report = to_stderr) -> Path:
    """Download a `.th` package from its former address into PyTorch's cache, and check its SHA-256.

    Raises ModelError if it cannot be had, WeightsError if what came is corrupt (and was deleted).
    """
    from .transfer import download

    url = catalog.LEGACY_ROOT + catalog.LEGACY[signature]
    target = legacy_cache() / Path(url).name
    report(f"Downloading {url}")
    download(url, target, target.stem.partition("-")[2])
    return target
