"""How many threads operations run on: a setting of the calling Python thread, which every room may ask for and none owns."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

from .errors import check_whole

_current = threading.local()


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
