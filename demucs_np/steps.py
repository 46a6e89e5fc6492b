"""Work in steps: between two of them whoever drives it may do something else, and what is left after its mark another thread may do.

So a track is written while the network is busy with the next one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, Generic, TypeAlias, TypeVar

Task = TypeVar("Task")
Done = TypeVar("Done")
Steps: TypeAlias = Generator[bool, None, Done]  # True, once: the mark. What is left needs neither the network nor this thread
Tell: TypeAlias = Callable[[Any], object]  # of progress; what it raises ends the work

PATIENCE = 5.0  # seconds for the other thread to end after an interruption; it hears of it with every block that it writes


def finished(steps: Steps[Done]) -> Done:
    """What they return, all of them made here."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            done: Done = end.value
            return done


def whole(function: Callable[[Task, Tell | None], Steps[Done]], task: Task) -> Done:
    """`function`'s steps at `task`, all made here: what a process of its own is given."""
    return finished(function(task, None))


class StoppedError(BaseException):
    """Ends what another thread works at, when nobody wants it any more."""


class _Work(Generic[Task, Done]):
    """A task in work."""

    def __init__(self, task: Task, steps: Steps[Done]) -> None:
        self.task = task
        self.marked = False
        self._steps = steps
        self._thread: threading.Thread | None = None
        self._done: list[Done] = []
        self._error: BaseException | None = None

    @property
    def ended(self) -> bool:
        return bool(self._done) or self._error is not None

    def step(self) -> bool:
        """Make the next one here. False: there was none."""
        try:
            self.marked = next(self._steps)
        except StopIteration as end:
            self._done.append(end.value)
            return False
        return True

    def go_on_elsewhere(self) -> None:
        """Let another thread make the steps that are left."""
        self._thread = threading.Thread(target=self._elsewhere, name="demucs-np writing", daemon=True)
        self._thread.start()

    def _elsewhere(self) -> None:
        try:
            self._done.append(finished(self._steps))
        except BaseException as error:
            self._error = error

    def result(self) -> tuple[Task, Done]:
        """Waits for it. Raises what the steps raised."""
        while self._thread is not None and self._thread.is_alive():
            self._thread.join(0.5)
        if self._error is not None:
            raise self._error
        return self.task, self._done[0]

    def close(self) -> None:
        """Give it up: what it has made is removed."""
        if self._thread is not None:
            self._thread.join(PATIENCE)
        if self._thread is None or not self._thread.is_alive():
            self._steps.close()


def overlapped(
    function: Callable[[Task, Tell], Steps[Done]], tasks: Iterable[Task], progress: Tell | None = None
) -> Iterator[tuple[Task, Done]]:
    """Do tasks here, one after the other, but for what is left of each after its mark: that another thread does, while this one works at
    the next. One at most is left so, and the last task is done here to its end.

    Gives (task, what its steps return), in order, when it is done, or after the next step of what is in work here. What steps raise is
    raised here. `progress` hears of what this thread does.
    """
    here, stop = threading.get_ident(), threading.Event()

    def tell(event: Any) -> None:
        if threading.get_ident() != here:
            if stop.is_set():
                raise StoppedError
        elif progress is not None:
            progress(event)

    left: _Work[Task, Done] | None = None  # to the other thread
    work: _Work[Task, Done] | None = None
    try:
        for task, last in _with_last(tasks):
            work = _Work(task, function(task, tell))
            while work.step() and not (work.marked and not last):
                if left is not None and left.ended:
                    done, left = left.result(), None
                    yield done
            if left is not None:
                done, left = left.result(), None
                yield done
            if work.ended:
                yield work.result()
            else:
                work.go_on_elsewhere()
                left = work
            work = None
    finally:
        stop.set()
        for unfinished in (left, work):
            if unfinished is not None:
                unfinished.close()


def _with_last(tasks: Iterable[Task]) -> Iterator[tuple[Task, bool]]:
    """Each, and whether it is the last."""
    upcoming = iter(tasks)
    for task in upcoming:
        for following in upcoming:
            yield task, False
            task = following
        yield task, True
