"""Ctrl-C, a polite `kill` and the hang-up of the terminal: one of them unwinds the command once, and what it made is removed."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Iterator
from types import FrameType

PATIENCE = 3.0  # seconds that the command may take to tidy up, before another Ctrl-C counts

_first: tuple[int, float] | None = None  # the signal that is being answered, and when it came


class Interrupted(KeyboardInterrupt):
    """A signal that ends the command. `status` is what a shell expects of one that ended so: 128 and the signal's number."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.status = 128 + number


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Within the block the signals raise Interrupted, once; in a thread that may not handle signals nothing changes."""
    global _first
    _first = None
    before = {}
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows knows no hang-up
        if number is None or signal.getsignal(number) is signal.SIG_IGN:  # `nohup`, or a job in the background
            continue
        try:
            before[number] = signal.signal(number, _answer)
        except ValueError:  # not the main thread: a test, or someone who embeds the command
            break
    unraisable = sys.unraisablehook
    sys.unraisablehook = lambda what: None if isinstance(what.exc_value, Interrupted) else unraisable(what)
    try:
        yield
    finally:
        sys.unraisablehook = unraisable
        for number, handler in before.items():
            signal.signal(number, handler)


def _answer(number: int, frame: FrameType | None) -> None:
    global _first
    now = time.monotonic()
    if _first is None or now - _first[1] > PATIENCE:
        _first = number, now
        raise Interrupted(number)


def check() -> None:
    """Raise what a callback of a library may have swallowed: Python drops exceptions that come while C calls back."""
    if _first is not None:
        raise Interrupted(_first[0])
