"""Fetch published weights: from the hub into the cache that the reference uses too, or else from their former address.

Where files lie (environment variables are read at every call):
- `HF_HUB_CACHE`, or `HF_HOME/hub`, by default `~/.cache/huggingface/hub`: `models--<owner>--<repository>/`, in the hub's layout;
- `TORCH_HOME/hub/checkpoints`, by default `~/.cache/torch/hub/checkpoints`: the `.th` files of the former address.
`HF_ENDPOINT` names another hub, `HF_TOKEN` is sent to it; with `HF_HUB_OFFLINE=1` nothing is fetched.

The hub's own client is not used: it brings a dozen packages, starts an interrupted download from the beginning (release 2.4), and
needs half a minute to notice that there is no network. Its file routes are simple: `HEAD <owner>/<repository>/resolve/main/<file>`
answers with the commit and the file's SHA-256, and redirects to the file.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from email.message import Message
from pathlib import Path
from typing import IO

from ..errors import ModelError, WeightsError
from . import catalog
from .files import check_named_checksum, sha256, written_whole
from .transfer import FAULTS, TIMEOUT, download, persist, request

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
    return Path(os.path.expandvars(path)).expanduser()


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
    """Download a file of the hub into its cache and check its SHA-256. Interrupted downloads resume.

    Raises ModelError if the hub does not answer or has no such file, WeightsError if what came is corrupt (and was deleted).
    """
    address = f"{endpoint()}/{repository}/resolve/main/{filename}"
    report(f"Downloading {filename} from {endpoint()}/{repository}")
    try:
        headers = persist(lambda: _head(address))
        commit = headers.get("X-Repo-Commit") or ""
        etag = (headers.get("X-Linked-Etag") or headers.get("ETag") or "").removeprefix("W/").strip('"')
        if not re.fullmatch(r"[0-9a-f]{40}", commit) or not re.fullmatch(r"[0-9a-f]{40,64}", etag):
            raise ModelError(f"{address} does not answer as the hub does")
        folder = hub_cache() / _folder(repository)
        blob = folder / "blobs" / etag
        lock = hub_cache() / ".locks" / _folder(repository) / f"{etag}.lock"  # the hub's client holds the same one
        download(address, blob, lock, etag if len(etag) == 64 else None, _token())
        path = folder / "snapshots" / commit / filename
        _link(path, blob)
        with written_whole(folder / "refs" / "main") as file:
            file.write(commit.encode())
    except FAULTS as error:
        raise ModelError(f"{address} cannot be fetched ({_short(error)})") from error
    return path


def _folder(repository: str) -> str:
    return f"models--{repository.replace('/', '--')}"


def _token() -> dict[str, str]:
    token = os.environ.get("HF_TOKEN")
    return {"Authorization": f"Bearer {token}"} if token else {}


class _WithinHost(urllib.request.HTTPRedirectHandler):
    """Follows redirects within the hub (a renamed repository), but not the one to where the file lies."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> urllib.request.Request | None:
        if urllib.parse.urlsplit(newurl).netloc != req.host:
            return None  # the redirect itself is the answer
        following = request(newurl, _token())
        following.method = "HEAD"
        return following


def _head(url: str) -> Message:
    """The headers of the hub's answer."""
    asking = request(url, _token())
    asking.method = "HEAD"
    try:
        with urllib.request.build_opener(_WithinHost()).open(asking, timeout=TIMEOUT) as response:
            headers: Message = response.headers
    except urllib.error.HTTPError as error:
        if not 300 <= error.code < 400:
            raise
        error.close()
        headers = error.headers
    return headers


def _link(path: Path, blob: Path) -> None:
    """Let `path` in a snapshot be the blob: a relative link, or the file itself where the system has none."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        os.symlink(os.path.relpath(blob, path.parent), temporary)
    except OSError:
        shutil.copyfile(blob, temporary)
    os.replace(temporary, path)


def _short(error: BaseException) -> str:
    """What went wrong, without Python's wrapping."""
    if isinstance(error, urllib.error.URLError) and not isinstance(error, urllib.error.HTTPError) and isinstance(error.reason, OSError):
        error = error.reason
    text = (isinstance(error, OSError) and error.strerror) or " ".join(str(error).split()) or type(error).__name__
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


def from_legacy(signature: str, report: Report = to_stderr) -> Path:
    """Download a `.th` package from its former address into PyTorch's cache, and check its SHA-256. Interrupted downloads resume.

    Raises ModelError if it cannot be had, WeightsError if what came is corrupt (and was deleted).
    """
    url = catalog.LEGACY_ROOT + catalog.LEGACY[signature]
    target = legacy_cache() / Path(url).name
    report(f"Downloading {url}")
    try:
        download(url, target, hub_cache() / ".locks" / f"{target.name}.lock", target.stem.partition("-")[2])
    except FAULTS as error:
        raise ModelError(f"{url} cannot be fetched ({_short(error)})") from error
    return target


def files(signatures: Sequence[str]) -> dict[str, Path | None]:
    """Signature -> its cached file, or None; each signature once."""
    return {signature: find(signature) for signature in dict.fromkeys(signatures)}
