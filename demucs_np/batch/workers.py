"""Processes of this machine that separate side by side."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from multiprocessing.connection import wait
from typing import Any, TypeVar

Done = TypeVar("Done")

# Forked off a process that has imported everything and does nothing else, workers share its memory and begin at once.
BLAS = "OPENBLAS_NUM_THREADS"
METHOD = "forkserver" if sys.platform == "linux" else "spawn"


def get_ready() -> None:
    """Let that process begin and import, while the caller does something else."""
    if METHOD == "forkserver":
        from multiprocessing import forkserver

        multiprocessing.set_forkserver_preload(["demucs_np.batch.task"])
        # NumPy's library begins threads when it is imported, which do not survive a fork. And Ctrl-C is the client's to answer, at once.
        before, masked = os.environ.get(BLAS), signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            os.environ[BLAS] = "1"
            forkserver.ensure_running()
        finally:
            if before is None:
                del os.environ[BLAS]
            else:
                os.environ[BLAS] = before
            signal.pthread_sigmask(signal.SIG_SETMASK, masked)


class LocalWorkers(Executor):
    """`count` processes, each a pool of its own: one that is killed takes no other's work with it, and is replaced.

    It holds as many tasks as it has workers: submit no more than `count` at a time (`jobs.spread` with that window), so that the task that
    a lost worker had is the one that is to blame.
    """

    def __init__(self, count: int) -> None:
        get_ready()
        self.count = count
        self._pools: list[ProcessPoolExecutor | None] = [None] * count
        self._busy: dict[int, Future[Any]] = {}
        self._lock = threading.Lock()

    def submit(self, fn: Callable[..., Done], /, *args: Any, **kwargs: Any) -> Future[Done]:
        with self._lock:
            place = next(place for place in range(self.count) if place not in self._busy or self._busy[place].done())
            try:
                future = self._pool(place).submit(fn, *args, **kwargs)
            except BrokenExecutor:  # lost while it had nothing to do
                self._drop(place)
                future = self._pool(place).submit(fn, *args, **kwargs)
            self._busy[place] = future
        return future

    def _pool(self, place: int) -> ProcessPoolExecutor:
        pool = self._pools[place]
        if pool is None:
            context = multiprocessing.get_context(METHOD)
            pool = ProcessPoolExecutor(1, context, initializer=_begin, initargs=(dict(os.environ),))
            self._pools[place] = pool
        return pool

    def _drop(self, place: int) -> None:
        pool, self._pools[place] = self._pools[place], None
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)

    @property
    def processes(self) -> list[int]:
        """Their identities, of those that have begun."""
        return [pid for pool in self._pools if pool is not None for pid in (getattr(pool, "_processes", None) or {})]

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """With `cancel_futures` the tasks in work are ended too; they tidy up."""
        if cancel_futures:
            for future in self._busy.values():
                future.cancel()
            for pid in self.processes:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
        for pool in self._pools:
            if pool is not None:
                pool.shutdown(wait=wait, cancel_futures=cancel_futures)


def _begin(environment: Mapping[str, str]) -> None:
    """In the worker: its environment is the client's, Ctrl-C is the client's to answer, a polite `kill` unwinds the task in work, and no
    worker outlives its client."""
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _unwind)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _unwind(*_: object) -> None:
    raise SystemExit(143)


def _end_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
