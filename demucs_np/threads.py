"""How many threads operations run on: a setting of the calling Python thread, which every room may ask for and none owns.

And signals that wait, since what they raise may leave a lock locked that other threads need.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

from .errors import check_whole

_current = threading.local()
_handlers: dict[int, Any] = {}  # of the signals that wait
_waiting: dict[int, None] = {}  # those that have come


def default_threads() -> int:
    """The number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def current_threads() -> int:
    """Of the innermost `use_threads` of this Python thread, or `default_threads()`."""
    return getattr(_current, "threads", None) or default_threads()


def check_threads(threads: int | None) -> None:
    """Raise UsageError for what is no number of threads (None: all)."""
    if threads is not None:
        check_whole("threads", threads, 1)


@contextlib.contextmanager
def use_threads(threads: int | None) -> Iterator[None]:
    """Within the block, run operations on this many threads (None: leave it as it is).

    Raises UsageError for a number below 1.
    """
    check_threads(threads)
    before = getattr(_current, "threads", None)
    if threads is not None:
        _current.threads = threads
    try:
        yield
    finally:
        _current.threads = before


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Within the block of the main thread signals wait for its end, or for `hear`, if Python answers them.

    Ctrl-C may raise KeyboardInterrupt anywhere in Python's code, also between the moment when a lock is taken and the one when a `with`
    knows of it, as in LLVM's: it is never released, and the first thread that needs it waits for ever.
    """
    if _handlers or threading.current_thread() is not threading.main_thread():
        yield
        return
    try:
        for signum in signal.valid_signals():
            if callable(handler := signal.getsignal(signum)):
                _handlers[signum] = handler
                signal.signal(signum, lambda number, frame: _waiting.setdefault(number))
        yield
    finally:
        for number, handler in _handlers.items():
            signal.signal(number, handler)
        _handlers.clear()
        while _waiting:
            signal.raise_signal(_waiting.popitem()[0])


def hear() -> None:
    """Answer the signals that wait: here they disturb nothing."""
    while _waiting and threading.current_thread() is threading.main_thread():
        number, _ = _waiting.popitem()
        _handlers[number](number, sys._getframe())
