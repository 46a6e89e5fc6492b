"""Kernels compiled before they are needed: this process takes them as it needs them, a second one, the helper, the longest first.

Numba compiles one kernel at a time in a process, whatever its threads, so that the first run on two cores would leave one idle. The helper
puts what it compiles where this process looks for it, in the cache; where there is none it is not started. It reads the kernels' names
from a pipe, which closes when this process ends, however it does, and then ends itself at once. Whoever compiles a kernel, the bits are
the same, and a helper that is lost loses nothing: what it had is compiled here.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from numba import types

from ..threads import default_threads

# Those with the matrix product, then the others, the longest first, each with the types of its arguments after `tile0, tile1, scratch`.
KERNELS = {
    "conv._conv_tiles": "ffffffi",
    "winograd._winograd_tiles": "fffffi",
    "attention._attention_tiles": "fffi",
    "local_attention._local_attention_tiles": "ffi",
    "lstm._lstm_tiles": "fmifi",
    "feed_forward._feed_forward_tiles": "fffffi",
    "stft._istft_tiles": "ffffffidd",
    "wiener._wiener_tiles": "ffdfi",
    "stft._stft_tiles": "ffffi",
    "attention._pack_tiles": "fffi",
    "packing._pack_weights_tiles": "rrrrfi",
    "norm._mean_std_tiles": "ddi",
    "norm._projected_tiles": "ddfi",
    "norm._products_tiles": "fdi",
    "norm._scale_shift_tiles": "dfffi",
    "norm._affine_tiles": "fffi",
    "packing._winograd_weights_tiles": "rrdfi",
    "norm._table_tiles": "dfffi",
    "packing._project_weights_tiles": "rrdi",
    "norm._layer_norm_tiles": "ffffi",
    "resample._resample_tiles": "frfi",
    "norm._sums_tiles": "fdi",
    "packing._widen_weights_tiles": "hf",
    "norm._activate_tiles": "fi",
    "packing._scale_weights_tiles": "rdf",
    "signal._pad_tiles": "ffi",
    "signal._finite_tiles": "ff",
    "norm._norm_gelu_tiles": "ffi",
    "norm._normalize_tiles": "fdf",
    "norm._add_tiles": "ffi",
    "signal._transpose_tiles": "ffi",
    "signal._copy_tiles": "ff",
}
TYPES = {
    "f": types.float32[::1],
    "d": types.float64[::1],
    "i": types.int64[::1],
    "m": types.float32[:, ::1],
    "r": types.Array(types.float32, 1, "C", readonly=True),
    "h": types.Array(types.uint16, 1, "C", readonly=True),
}
WAITING, THERE, HERE, DONE = range(4)  # where a kernel is: in nobody's hands, in the helper's, in this process's, in the cache


def found(name: str) -> tuple[Any, tuple[Any, ...]]:
    """A kernel by its name, and the types of its arguments."""
    module, _, function = name.partition(".")
    kernel = getattr(importlib.import_module(f"{__package__}.{module}"), function)
    return kernel, (types.int64, types.int64, TYPES["f"], *(TYPES[code] for code in KERNELS[name]))


def compile_(name: str) -> None:
    """Compile a kernel, or read it from the cache. What fails here fails again, and is told, where the kernel is called."""
    kernel, signature = found(name)
    with contextlib.suppress(Exception):
        kernel.compile(signature)


class Plan:
    """The kernels that were not in the cache when they were first heard of, and where they are now."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._where: dict[str, int] = {}
        self._helper: subprocess.Popen[bytes] | None = None

    def progress(self) -> tuple[int, int]:
        """How many kernels somebody has taken, and of how many."""
        with self._changed:
            return sum(where != WAITING for where in self._where.values()), len(self._where)

    def add(self, kernels: Iterable[str], with_helper: bool) -> None:
        """Kernels that are going to be needed."""
        with self._changed:
            for name in sorted(kernels, key=list(KERNELS).index):
                self._where.setdefault(name, WAITING)
            if with_helper and self._helper is None and WAITING in self._where.values():
                with contextlib.suppress(OSError):  # no process can be started: all is compiled here
                    self._helper = _start()
                    threading.Thread(target=self._feed, args=(self._helper,), daemon=True, name="demucs-np compiler").start()

    def begin(self, name: str) -> bool:
        """A kernel is needed now. False: it is for the caller to compile; True: it is in the cache by now.

        Where the helper has it, others are compiled here meanwhile.
        """
        while True:
            with self._changed:
                where = self._where.setdefault(name, WAITING)
                if where in (WAITING, HERE):
                    self._where[name] = HERE
                    return False
                if where == DONE:
                    return True
                other = self._take(HERE)
                if other is None:
                    self._changed.wait(0.2)  # not for ever: Ctrl-C is heard between two waits
            if other is not None:
                compile_(other)

    def _take(self, where: int) -> str | None:
        """The next kernel that nobody has: the helper begins at one end, this process at the other, so that they seldom meet in a function
        that several kernels inline, the matrix product above all."""
        waiting = [name for name, at in self._where.items() if at == WAITING]
        if not waiting:
            return None
        name = waiting[0 if where == THERE else -1]
        self._where[name] = where
        return name

    def _feed(self, helper: subprocess.Popen[bytes]) -> None:
        """Give the helper one kernel after the other, until none is left or it is lost."""
        assert helper.stdin
        assert helper.stdout
        with helper.stdin, helper.stdout:
            while (name := self._next()) is not None:
                line = f"{name}\n".encode()
                try:
                    helper.stdin.write(line)
                    well = helper.stdout.readline() == line
                except OSError:  # it is lost
                    well = False
                with self._changed:
                    self._where[name] = DONE if well else WAITING
                    self._helper = self._helper if well else None
                    self._changed.notify_all()
        helper.wait()

    def _next(self) -> str | None:
        """The next kernel for the helper; where there is none, it is not needed any more."""
        with self._changed:
            name = self._take(THERE) if self._helper is not None else None
            if name is None:
                self._helper = None
            return name

    def forget_helper(self) -> None:
        """In a forked child, which has the parent's pipe but none of its threads: while it is open, the helper outlives the parent."""
        helper, self._helper = self._helper, None
        self._changed, self._where = threading.Condition(), {}
        if helper is not None:
            for pipe in (helper.stdin, helper.stdout):
                pipe.close()  # type: ignore[union-attr]
            helper.returncode = 0  # it is not this process's child


plan = Plan()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=plan.forget_helper)

# What the helper runs: with this process's path, and nothing of the current folder.
HELPER = f"import sys; sys.path[:] = sys.argv[1:]; from {__name__} import serve; serve()"


def _start() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-I", "-c", HELPER, *sys.path],
        bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
    )  # fmt: skip


def may_help() -> bool:
    """Whether a second process helps: there is a core for it, and an interpreter to be started that is one.

    Of several processes that share the cores, as those of a batch, none starts another.
    """
    process = sys.modules.get("multiprocessing.process")
    interpreter = Path(sys.executable or "").stem.lower().startswith(("python", "pypy")) and not getattr(sys, "frozen", False)
    return interpreter and default_threads() > 1 and (process is None or process.parent_process() is None)


@functools.cache
def expect(kernels: tuple[str, ...]) -> None:
    """These kernels are going to be needed: what of them is not in the cache is compiled from now on."""
    from .cache import KernelCache

    lacking, kept = [], True
    for name in kernels:
        kernel, signature = found(name)
        cache = kernel._cache
        if not isinstance(cache, KernelCache) or not cache.holds(signature, kernel.targetctx):
            lacking.append(name)
            kept = kept and isinstance(cache, KernelCache) and cache.writable()
    plan.add(lacking, kept and may_help())


def serve() -> None:
    """The helper: kernels by their names from standard input, each answered when it is in the cache."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    names: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            names.put(line.strip())
        os._exit(0)  # in the midst of a kernel, too

    threading.Thread(target=read, daemon=True).start()
    while True:
        name = names.get()
        compile_(name)
        os.write(1, f"{name}\n".encode())
