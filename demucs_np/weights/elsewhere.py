"""Models that others publish: kept beside what PyTorch downloads, checked by their SHA-256."""

from __future__ import annotations

from pathlib import Path

from ..errors import ModelError, WeightsError
from . import catalog, hub
from .files import sha256


def find(name: str) -> Path | None:
    """The file on this machine, if it is here."""
    path = hub.legacy_cache() / f"{name}.th"
    return path if path.is_file() else None


def fetch(name: str, report: hub.Report) -> Path:
    """The file, downloaded if it is not here. Raises ModelError, saying how to get it, if it cannot be had."""
    if path := find(name):
        return path
    url, checksum = catalog.ELSEWHERE[name]
    target = hub.legacy_cache() / f"{name}.th"
    if url is None:
        bag = next(bag for bag in catalog.OTHERS.values() if name in bag.signatures)
        raise ModelError(
            f"{bag.name} cannot be fetched by a program: put {name}.th, which its author offers ({bag.about}), into {target.parent}"
        )
    if hub.offline():
        raise ModelError(f"{name}.th is not on this machine, and HF_HUB_OFFLINE forbids the network: carry {url} to {target}")
    from .transfer import download

    report(f"Downloading {url}")
    download(url, target, checksum)
    return target


def intact(path: Path) -> bool | None:
    """Whether the file has the SHA-256 it was published with. None: it is no such file."""
    if path.stem not in catalog.ELSEWHERE or path.parent != hub.legacy_cache():
        return None
    return sha256(path).startswith(catalog.ELSEWHERE[path.stem][1])


def checked(name: str, report: hub.Report) -> Path:
    """As `fetch`; a file that was put there by hand is compared as well. Raises WeightsError if it is another."""
    path = fetch(name, report)
    if catalog.ELSEWHERE[name][0] is None and not intact(path):
        raise WeightsError(f"{path}: not the file of that name that was published: its SHA-256 is another")
    return path
