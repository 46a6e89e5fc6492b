"""The progress line on a terminal. Where the output is not a terminal, nothing is printed."""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, TextIO

import click

from .interrupts import check

if TYPE_CHECKING:
    from ..separation.apply import Event

VERBS = {"read": "reading", "separate": "separating", "write": "writing"}
INTERVAL = 0.1  # seconds between two drawings, at least


class Bar:
    """Called with events; draws `title  separating  ━━━━━━──────  52%  0:41 left` over the same line again and again."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._on = stream.isatty()
        self._drawn = 0.0
        self._told = False
        self.title = ""  # what is being worked on
        fancy = (stream.encoding or "").lower().startswith("utf")
        self._full, self._empty = ("━", "─") if fancy else ("#", ".")

    def __call__(self, event: Event) -> None:
        check()
        now = time.monotonic()
        if not self._on or (event.done not in (0, event.total) and now - self._drawn < INTERVAL):
            return
        self._drawn = now
        part = min(1.0, event.done / event.total) if event.total else 1.0
        end = f" {part:4.0%}"
        if event.seconds_left is not None and event.done < event.total:
            end += f"  {clock(event.seconds_left)} left"
        third = shutil.get_terminal_size().columns // 3
        title = self.title if len(self.title) <= third else self.title[: third - 1] + "…"
        self._draw(f"{title}  {VERBS.get(event.stage, event.stage)}  ", part, end)

    def _draw(self, begin: str, part: float, end: str) -> None:
        columns = shutil.get_terminal_size().columns - 1
        width = max(0, min(40, columns - len(begin) - len(end) - len("  0:00:00 left")))
        full = round(part * width)
        line = (begin + self._full * full + self._empty * (width - full) + end)[:columns]
        self._stream.write("\r" + line + "\x1b[K")
        self._stream.flush()

    def compiling(self, begun: int, total: int) -> None:
        """A kernel is about to be compiled: it is said, once, what takes so long before anything moves."""
        if not self._told:
            self._told = True
            self.line("Compiling the kernels for this machine, which is kept: later runs begin at once")
        if self._on:
            self._draw("compiling  ", begun / total, f"  kernel {begun} of {total}")

    @contextlib.contextmanager
    def telling(self) -> Iterator[None]:
        """Within the block kernels that are compiled are told of."""
        from ..kernels import cache

        cache.listeners.append(self.compiling)
        try:
            yield
        finally:
            cache.listeners.remove(self.compiling)

    def line(self, text: str) -> None:
        """Print a line of its own above the progress."""
        if self._on:
            self.clear()
            self._stream.write(text + "\n")
            self._stream.flush()

    def clear(self) -> None:
        """Remove the progress, so that something else can be printed."""
        if self._on:
            self._stream.write("\r\x1b[K")
            self._stream.flush()


def say(text: str) -> None:
    """What takes a while now, on a terminal."""
    if sys.stderr.isatty():
        click.echo(f"{text} …", err=True)


def clock(seconds: float) -> str:
    """0:41, 12:05 or 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
