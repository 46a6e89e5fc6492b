"""The one scheduler: an operation is a fixed number of tiles, and threads take the next tile until none is left.

The number and the bounds of tiles follow from shapes alone, never from the number of threads, and every tile writes its
own part of the output: the bits are the same for any number of threads. A kernel is a serial `nogil` call for a range of tiles.
"""

from __future__ import annotations

import contextlib
import functools
import os
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..threads import current_threads
from .arena import apart

LONGEST = 32  # tiles in a range: Ctrl-C is heard between ranges


def evenly(rows: int, most: int) -> int:
    """Rows of a tile, at most `most`: so that a few tiles are shared evenly by 2 or 4 threads, and more by 8 or 16."""
    tiles = -(-rows // most)
    if rows >= 192:
        group = 4 if tiles <= 4 else 16
        tiles = -(-tiles // group) * group
    return -(-rows // tiles)


@functools.lru_cache(maxsize=1024)
def shares(tiles: int, threads: int) -> tuple[tuple[int, int], ...]:
    """Ranges of tiles for the threads to take in turn: each half of an even share of what is left, so that all end together.

    A call for each tile would take some microseconds under the GIL, which many threads wait for.
    """
    ranges, at = [], 0
    while at < tiles:
        end = at + max(1, min(LONGEST, (tiles - at) // (2 * threads)))
        ranges.append((at, end))
        at = end
    return tuple(ranges)


_listening = threading.local()


def listen(to: Callable[[], object] | None) -> None:
    """`to` is called before every operation that this Python thread runs (None: nothing is). What it raises ends the operation."""
    _listening.to = to


class Pool:
    """`threads - 1` waiting threads and the caller's own. Worker `w` passes its own scratch buffer to the kernel."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._scratch = [np.empty(0, np.float32) for _ in range(threads)]
        self._lock = threading.Lock()
        for _ in range(threads - 1):
            threading.Thread(target=self._work, daemon=True, name="demucs-np tile worker").start()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
            del job  # with the arrays that it was for: of packing, those are a mapped file

    def run(self, kernel: Callable[..., Any], tiles: int, scratch: int, *args: Any) -> None:
        """Call `kernel(tile0, tile1, scratch, *args)` for ranges of tiles that make up 0 ... tiles; each thread has a `scratch` of its own,
        float32, of at least that many elements.

        An exception in any range, Ctrl-C included, stops all threads after the range they are in and is raised here.
        """
        if (listener := getattr(_listening, "to", None)) is not None:
            listener()
        with self._lock:  # one operation at a time: the scratch buffers are shared
            workers = min(self.threads, tiles)
            if workers == 1:
                buffer = self._buffer(0, scratch)
                for tile in shares(tiles, 1):
                    kernel(*tile, buffer, *args)
                return
            failures: list[BaseException] = []
            finished: list[int] = []
            ranges = iter(shares(tiles, workers))
            done: queue.SimpleQueue[None] = queue.SimpleQueue()

            def take(worker: int) -> None:
                buffer = self._buffer(worker, scratch)
                while not failures and (tile := next(ranges, None)):
                    kernel(*tile, buffer, *args)

            def guarded(worker: int) -> None:
                try:
                    take(worker)
                except BaseException as error:
                    failures.append(error)
                finally:
                    finished.append(worker)
                    done.put(None)

            started = 0
            try:
                for worker in range(1, workers):
                    self._jobs.put(functools.partial(guarded, worker))
                    started += 1
                take(0)
            except BaseException as error:
                failures.append(error)
            while len(finished) < started:
                try:
                    done.get(timeout=1)  # a Ctrl-C at the wrong moment takes one away: look again
                except queue.Empty:
                    pass
                except BaseException as error:  # a second Ctrl-C: the other threads still hold the buffers
                    failures.append(error)
            if failures:
                raise failures[0]

    def _buffer(self, worker: int, size: int) -> np.ndarray:
        if self._scratch[worker].size < size:
            self._scratch[worker] = apart(size)
        return self._scratch[worker]

    def close(self) -> None:
        """Let the threads end."""
        for _ in range(self.threads - 1):
            self._jobs.put(None)


_pools: dict[int, Pool] = {}
_pools_lock = threading.Lock()
_alone = threading.local()  # each Python thread has a pool of one thread to itself: those that want no more wait for nobody


_instead = threading.local()


@contextlib.contextmanager
def recording(recorder: Any) -> Iterator[None]:
    """Within the block, operations of this Python thread are given to `recorder.run`, which has the arguments of `Pool.run`."""
    before = getattr(_instead, "recorder", None)
    _instead.recorder = recorder
    try:
        yield
    finally:
        _instead.recorder = before


def _forget_pools() -> None:
    """A forked child has none of its parent's threads, and perhaps its locks as another thread held them."""
    global _pools_lock
    _pools.clear()
    _pools_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pools)


def kept(size: int, dtype: type = np.float32) -> np.ndarray:
    """A flat array that kernels fill once and that stays: packed weights."""
    array = apart(size, dtype)
    if (recorder := getattr(_instead, "recorder", None)) is not None:
        recorder.keep(array)
    return array


def pool() -> Any:
    """The pool of `current_threads()` threads, or what stands in for it."""
    if (recorder := getattr(_instead, "recorder", None)) is not None:
        return recorder
    threads = current_threads()
    if threads == 1:
        if not hasattr(_alone, "pool"):
            _alone.pool = Pool(1)
        return _alone.pool
    with _pools_lock:
        if threads not in _pools:
            _pools[threads] = Pool(threads)
        return _pools[threads]
