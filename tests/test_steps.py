"""Work in steps: what is left of a task is done beside the next, in order, once, and not at all when nobody wants it any more."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from demucs_np.steps import Steps, Tell, finished, overlapped, whole

HERE = threading.get_ident()


class Tasks:
    """Each takes three steps, then waits for `allowed` and ends; `log` says what happened where."""

    def __init__(self) -> None:
        self.log: list[tuple[int, str, bool]] = []  # task, what, whether here
        self.allowed = threading.Event()
        self.allowed.set()
        self.closed: list[int] = []

    def _note(self, task: int, what: str) -> None:
        self.log.append((task, what, threading.get_ident() == HERE))

    def __call__(self, task: int, tell: Tell | None) -> Steps[int]:
        try:
            for number in range(3):
                self._note(task, f"step {number}")
                yield False
            yield True
            self._note(task, "writing")
            while not self.allowed.wait(0.01):
                if tell is not None:
                    tell(task)
            self._note(task, "written")
            return 10 * task
        finally:
            self.closed.append(task)


def until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_what_is_left_is_done_beside_the_next() -> None:
    tasks = Tasks()
    tasks.allowed.clear()
    results = overlapped(tasks, range(3))

    def allow() -> None:  # once task 1 has made all its steps, and task 0 waits all the time
        until(lambda: (1, "step 2", True) in tasks.log)
        tasks.log.append((-1, "allowed", True))
        tasks.allowed.set()

    threading.Thread(target=allow).start()
    assert list(results) == [(0, 0), (1, 10), (2, 20)]
    begun, end = tasks.log.index((0, "writing", False)), tasks.log.index((0, "written", False))
    assert begun < tasks.log.index((1, "step 2", True)) < end < tasks.log.index((2, "step 0", True))
    assert (1, "written", False) in tasks.log
    assert (2, "written", True) in tasks.log, "the last is done here"
    assert tasks.closed == [0, 1, 2]


def test_results_come_between_two_steps() -> None:
    tasks = Tasks()
    results = overlapped(lambda task, tell: _slow(tasks, task, tell), range(2))
    assert next(results) == (0, 0)
    assert (1, "step 2", True) not in tasks.log, "the second is still in work"
    assert list(results) == [(1, 10)]


def _slow(tasks: Tasks, task: int, tell: Tell) -> Steps[int]:
    steps = tasks(task, tell)
    if task:
        next(steps)
        yield False
        until(lambda: (0, "written", False) in tasks.log and 0 in tasks.closed)
        time.sleep(0.05)
    return (yield from steps)


def test_progress_is_of_what_is_done_here() -> None:
    heard: list[int] = []

    def told(task: int, tell: Tell) -> Steps[int]:
        tell(task)
        yield True
        tell(task + 100)
        return task

    assert list(overlapped(told, range(2), heard.append)) == [(0, 0), (1, 1)]
    assert heard == [0, 1, 101]


@pytest.mark.parametrize("where", ["here", "there"])
def test_what_steps_raise_is_raised_here_and_ends_the_others(where: str) -> None:
    tasks = Tasks()

    def fails(task: int, tell: Tell) -> Steps[int]:
        if where == "here" and task == 1:
            tasks.allowed.clear()
            until(lambda: (0, "writing", False) in tasks.log)
            raise OSError("no space")
        if where == "there" and task == 0:
            yield True
            raise OSError("no space")
        return (yield from tasks(task, tell))

    if where == "here":
        tasks.allowed.clear()
    with pytest.raises(OSError, match="no space"):
        list(overlapped(fails, range(3)))
    assert tasks.closed == ([0] if where == "here" else [1]), "what was in work is given up, and nothing more begun"
    assert not any(what == "written" for _, what, _ in tasks.log)


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit])
def test_an_interruption_ends_both_threads(interruption: type[BaseException]) -> None:
    tasks = Tasks()
    tasks.allowed.clear()

    def progress(task: int) -> None:
        until(lambda: (0, "writing", False) in tasks.log)
        raise interruption

    def told(task: int, tell: Tell) -> Steps[int]:
        if task == 1:
            tell(task)
        return (yield from tasks(task, tell))

    with pytest.raises(interruption):
        list(overlapped(told, range(3), progress))
    assert tasks.closed == [0]
    assert not any(thread.name == "demucs-np writing" for thread in threading.enumerate())


def test_who_has_enough_results_ends_the_work() -> None:
    tasks = Tasks()
    results = overlapped(tasks, range(5))
    next(results)
    results.close()  # type: ignore[attr-defined]
    until(lambda: sorted(tasks.closed) == list(range(len(tasks.closed))))
    assert not any(thread.name == "demucs-np writing" for thread in threading.enumerate())


def test_alone() -> None:
    tasks = Tasks()
    assert finished(tasks(4, None)) == whole(tasks, 4) == 40
    assert all(here for *_, here in tasks.log)
    assert list(overlapped(tasks, [])) == []
