"""The models that the studio offers, and fetching those that are not on this computer yet."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import DemucsError, ModelError
from ..weights import catalog, hub, own
from ..weights.formats import read_model_file
from ..weights.resolve import resolve
from .pace import Pace

LICENCE = "MIT, by Meta Platforms; trained on music whose terms you should know before you sell what comes out"
POLL = 0.2  # seconds


def offered(pace: Pace) -> list[dict[str, Any]]:
    """Name, stems, what it is, megabytes to fetch (0: here already), and pace."""
    demo = {
        "name": catalog.DEMO.name, "stems": list(catalog.DEMO.stems), "about": "small, bundled; knows synthesised music only", "fetch": 0,
        "licence": "MIT", "pace": pace.of(catalog.DEMO.name),
    }  # fmt: skip
    return [demo, *_own(pace)] + [
        {
            "name": bag.name, "stems": list(bag.stems), "about": bag.about, "fetch": missing(bag), "licence": LICENCE,
            "pace": pace.of(bag.name),
        }
        for bag in catalog.BAGS.values()
    ]  # fmt: skip


def _own(pace: Pace) -> list[dict[str, Any]]:
    """The user's own models and bags, those that can be read."""
    mine, found = own.catalogue(), []
    for name in [*sorted(mine.files), *sorted(mine.bags)] if mine else ():
        with contextlib.suppress(DemucsError):
            path = next(path for member in resolve(name).members if (path := member.path))
            stems = list(read_model_file(path).config.sources)
            found.append({"name": name, "stems": stems, "about": "your own", "fetch": 0, "licence": "your own", "pace": pace.of(name)})
    return found


def missing(bag: catalog.Bag) -> int | None:
    """Megabytes that are not in the cache; None where that is not known."""
    absent = _absent(bag)
    if not absent:
        return 0
    return None if bag.megabytes is None else bag.megabytes * len(absent)


def _absent(bag: catalog.Bag) -> list[str]:
    """Signatures of the files that are not in the cache."""
    return [signature for signature in dict.fromkeys(bag.signatures) if hub.find(signature) is None]


def known(name: str) -> bool:
    return name == catalog.DEMO.name or name in catalog.BAGS or own.has(name)


def fetch(name: str, tell: Callable[[float], object]) -> None:
    """Download what is missing of a published model; `tell` is given the part that is there, and what it raises ends the waiting.

    Raises ModelError if it cannot be had.
    """
    if not known(name):
        raise ModelError(f"there is no model {name!r} here; choose one of the list")
    bag = catalog.BAGS.get(name)
    if bag is None or missing(bag) == 0:
        return
    absent = _absent(bag)
    for number, signature in enumerate(absent):
        failure: list[BaseException] = []

        def run(signature: str = signature, failure: list[BaseException] = failure) -> None:
            try:
                hub.fetch(signature, lambda _: None)
            except BaseException as error:
                failure.append(error)

        before = _arriving()
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        while thread.is_alive():
            arrived = max(0, _arriving() - before) / (1e6 * (bag.megabytes or 100))
            tell((number + min(0.99, arrived)) / len(absent))
            thread.join(POLL)
        if failure:
            raise failure[0]


def _arriving() -> int:
    """Bytes of the files that are being downloaded."""
    folders: list[tuple[Path, str]] = [(hub.hub_cache(), "models--*/blobs/*.incomplete"), (hub.legacy_cache(), "*.part")]
    total = 0
    for folder, pattern in folders:
        for path in folder.glob(pattern):
            try:
                total += path.stat().st_size
            except OSError:  # it has just got its name
                continue
    return total
