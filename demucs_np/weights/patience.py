"""How long a server is waited for, and what is said of it."""

from __future__ import annotations

import contextlib
import ctypes
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

from ..errors import ModelError

SLOWEST, PATIENCE = 10_000, 60.0  # bytes a second that must come on the whole, after so many seconds
T = TypeVar("T")


class _Abandoned(BaseException):
    """Ends a thread whose work nobody waits for; no library takes it for a fault of the network to be tried again."""


class FetchError(ModelError):
    """A file that a server does not give, and why."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(f"{address} cannot be fetched ({reason})")
        self.reason = reason


def within(work: Callable[[], T], have: Callable[[], int]) -> T:
    """What `work` gives, or TimeoutError where it has had too few bytes for its time: a server may send one byte a second for ever.

    `work` runs in a thread of its own. If it is not waited for any longer, for this or another reason (Ctrl-C), that is ended when it next
    runs a line of Python, at the latest after its socket's own timeout, so that it gives back the locks and files it holds.
    """
    results: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()

    def run() -> None:
        with contextlib.suppress(_Abandoned):
            try:
                results.put((True, work()))
            except BaseException as error:
                results.put((False, error))

    began = time.monotonic()
    thread = threading.Thread(target=run, name="demucs-np download", daemon=True)
    thread.start()
    try:
        good, result = _wait(results, began, have)
    except BaseException:
        if thread.is_alive():
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(_Abandoned))
        raise
    if good:
        return cast(T, result)
    raise result


def _wait(results: queue.SimpleQueue[tuple[bool, Any]], began: float, have: Callable[[], int]) -> tuple[bool, Any]:
    while True:
        with contextlib.suppress(queue.Empty):
            return results.get(timeout=0.2)
        seconds = time.monotonic() - began
        if seconds > PATIENCE and have() < SLOWEST * (seconds - PATIENCE):
            raise TimeoutError(f"the server sends next to nothing: {have()} bytes in {seconds:.0f} s")


def printable(text: str) -> str:
    """What a server said, fit for a terminal: one line, no control characters."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))[:160]
