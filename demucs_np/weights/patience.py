"""How long a server is waited for, and what is said of it."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

from ..errors import ModelError

SLOWEST, PATIENCE = 10_000, 60.0  # bytes a second that must come on the whole, after so many seconds
T = TypeVar("T")


class FetchError(ModelError):
    """A file that a server does not give, and why."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(f"{address} cannot be fetched ({reason})")
        self.reason = reason


def within(work: Callable[[], T], have: Callable[[], int]) -> T:
    """What `work` gives, or TimeoutError where it has had too few bytes for its time: a server may send one byte a second for ever.

    `work` then goes on in a thread of its own, which ends with the program.
    """
    results: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()

    def run() -> None:
        try:
            results.put((True, work()))
        except BaseException as error:
            results.put((False, error))

    began = time.monotonic()
    threading.Thread(target=run, daemon=True).start()
    while True:
        try:
            good, result = results.get(timeout=0.2)
        except queue.Empty:
            seconds = time.monotonic() - began
            if seconds > PATIENCE and have() < SLOWEST * (seconds - PATIENCE):
                raise TimeoutError(f"the server sends next to nothing: {have()} bytes in {seconds:.0f} s") from None
            continue
        if good:
            return cast(T, result)
        raise result


def printable(text: str) -> str:
    """What a server said, fit for a terminal: one line, no control characters."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))[:160]
