"""Kernels compiled before they are needed: this process turns them into LLVM's code, a second one, the helper, that into machine code.

Numba compiles one kernel at a time in a process, whatever its threads, so that the first run on two cores would leave one idle. The two
halves take about the same time, and nothing is done twice. While the model is downloaded and opened, a thread does this process's half.
Who needs a kernel goes on with that one, with others while it is made, and where none are left, with the helper's half. The helper gets
code through a pipe, which closes when this process ends, however it does, and then ends itself at once. What is made goes into the cache;
where there is none the helper is not started. Whoever does it, the bits are the same, and a helper that is lost loses nothing.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

from numba import types
from numba.core.compiler_lock import global_compiler_lock

from ..threads import default_threads, hear, undisturbed

# In the order in which they are compiled while none is asked for: what the helper has soon, then the longest first.
# Each has the types of its arguments after `tile0, tile1, scratch`.
KERNELS = {
    "packing._winograd_weights_tiles": "rrdfi",
    "packing._pack_weights_tiles": "rrrrfi",
    "stft._istft_tiles": "ffffffidd",
    "stft._stft_tiles": "ffffi",
    "conv._conv_tiles": "ffffffi",
    "winograd._winograd_tiles": "fffffi",
    "attention._attention_tiles": "fffi",
    "local_attention._local_attention_tiles": "ffi",
    "lstm._lstm_tiles": "fmifi",
    "feed_forward._feed_forward_tiles": "fffffi",
    "wiener._wiener_tiles": "ffdfi",
    "attention._pack_tiles": "fffi",
    "norm._mean_std_tiles": "ddi",
    "norm._projected_tiles": "ddfi",
    "norm._products_tiles": "fdi",
    "norm._scale_shift_tiles": "dfffi",
    "norm._affine_tiles": "fffi",
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
# Where a kernel is: nowhere yet, being emitted, emitted, with the helper or being made here, made, for the caller to compile, in the cache.
WAITING, EMITTING, EMITTED, MAKING, MADE, HERE, DONE = range(7)


def found(name: str) -> tuple[Any, tuple[Any, ...]]:
    """A kernel by its name, and the types of its arguments."""
    module, _, function = name.partition(".")
    kernel = getattr(importlib.import_module(f"{__package__}.{module}"), function)
    return kernel, (types.int64, types.int64, TYPES["f"], *(TYPES[code] for code in KERNELS[name]))


class Work:
    """A kernel on its way into the cache."""

    def __init__(self) -> None:
        self.at = WAITING
        self.emitted: Any = None
        self.parts: list[str] = []
        self.code = b""


class Plan:
    """The kernels that were not in the cache when they were first heard of, and where they are now."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._works: dict[str, Work] = {}
        self._helper: subprocess.Popen[bytes] | None = None
        self._thread: threading.Thread | None = None
        self._held = False

    def progress(self) -> tuple[int, int]:
        """How many kernels somebody has taken, and of how many."""
        with self._changed:
            return sum(work.at != WAITING for work in self._works.values()), len(self._works)

    def add(self, kernels: Iterable[str], with_helper: bool) -> None:
        """Kernels that are going to be needed."""
        with self._changed:
            for name in sorted(kernels, key=list(KERNELS).index):
                self._works.setdefault(name, Work())
            if with_helper and self._helper is None and self._some(WAITING):
                with contextlib.suppress(OSError):  # no process can be started: all is compiled here
                    self._helper = _start()
                    threading.Thread(target=self._feed, args=(self._helper,), daemon=True, name="demucs-np helper").start()
                    self._thread = threading.Thread(target=self._go_on, name="demucs-np compiler")
                    self._thread.start()

    def begin(self, name: str, tell: Callable[[], object] = lambda: None) -> bool:
        """A kernel is needed now, by a caller that has Numba's lock. False: it is for the caller to compile; True: it is in the cache.

        `tell` is called whenever something is begun meanwhile.
        """
        while True:
            hear()
            with self._changed:
                work = self._works.setdefault(name, Work())
                if work.at == DONE:
                    return True
                if work.at == HERE or (work.at == WAITING and self._helper is None) or name not in KERNELS:
                    work.at = HERE
                    return False
                job = self._take(name)
                if job is None:
                    self._changed.wait(0.2)  # not for ever: signals are heard between two waits
            if job is not None:
                tell()
                self._do(*job)

    def _some(self, *states: int) -> list[str]:
        return [name for name, work in self._works.items() if work.at in states]

    def _take(self, wanted: str | None) -> tuple[str, int] | None:
        """The next thing to do here: a kernel, and where it was."""
        for state, next_one in ((MADE, MAKING), (WAITING, EMITTING), (EMITTED, MAKING)):
            if names := self._some(state):
                name = wanted if wanted in names else names[0 if state != EMITTED else -1]
                if state != WAITING or self._helper is not None:
                    self._works[name].at = next_one
                    return name, state
        return None

    def _do(self, name: str, state: int) -> None:
        """Emit a kernel, make its machine code, or put it into the cache, with Numba's lock."""
        from . import _jit

        work, reached = self._works[name], state
        try:
            kernel, signature = found(name)
            if state == WAITING:
                work.emitted = _jit.emit(kernel, signature)
                work.parts = work.emitted.library.parts()
                reached = EMITTED
            elif state == EMITTED:
                work.code = work.emitted.library.make(work.parts)
                reached = MADE
            else:
                work.emitted.library.finish(work.code)
                kernel._cache.save_overload(signature, work.emitted)
                reached = DONE
                work.emitted, work.parts, work.code = None, [], b""
        except Exception:  # it fails again, and is told, where the kernel is called
            reached = HERE
        finally:
            with self._changed:
                work.at = reached
                self._changed.notify_all()

    def _go_on(self) -> None:
        """Do what there is to do while nobody waits for a kernel. No daemon: a process that ends in the midst of LLVM crashes."""
        while threading.main_thread().is_alive():
            with global_compiler_lock:
                with self._changed:
                    job = self._take(None)
                if job is not None:
                    self._do(*job)
            with self._changed:
                if self._helper is None and not self._some(EMITTED, MAKING, MADE):
                    return
                self._changed.wait(0.001 if job else 0.1)  # whoever waits for the lock gets it

    def _feed(self, helper: subprocess.Popen[bytes]) -> None:
        """Give the helper one kernel after the other, until none is left or it is lost."""
        from . import _jit

        assert helper.stdin
        assert helper.stdout
        with contextlib.suppress(OSError, ValueError), helper.stdin, helper.stdout:  # it is lost
            _write(helper.stdin, _jit.settings())
            while (name := self._next()) is not None:
                work, reached = self._works[name], EMITTED
                try:
                    _write(helper.stdin, work.parts)
                    size, work.code = int(helper.stdout.readline()), b""
                    while len(work.code) < size and (part := helper.stdout.read(size - len(work.code))):
                        work.code += part
                    if len(work.code) == size:
                        reached = MADE if size else HERE
                finally:
                    with self._changed:
                        work.at = reached
                        self._changed.notify_all()
        with self._changed:
            self._helper = None
            self._changed.notify_all()
        helper.wait()

    def _next(self) -> str | None:
        """The next kernel for the helper, which is waited for; None if there will be none."""
        with self._changed:
            while not (names := self._some(EMITTED)):
                if not self._some(WAITING, EMITTING) or self._helper is None:
                    return None
                self._changed.wait()
            self._works[names[0]].at = MAKING
            return names[0]

    def before_fork(self) -> None:
        """A child has none of the threads, and locks for ever what they have locked."""
        self._held = self._thread is not None
        if self._held:
            global_compiler_lock.acquire()

    def after_fork(self) -> None:
        if self._held:
            global_compiler_lock.release()

    def forget(self) -> None:
        """In a forked child: while it has the parent's pipe open, the helper outlives the parent."""
        self.after_fork()
        helper, self._helper = self._helper, None
        self._changed, self._works, self._thread = threading.Condition(), {}, None
        if helper is not None:
            for pipe in (helper.stdin, helper.stdout):
                pipe.close()  # type: ignore[union-attr]
            helper.returncode = 0  # it is not this process's child


plan = Plan()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=plan.before_fork, after_in_parent=plan.after_fork, after_in_child=plan.forget)

# What the helper runs: with this process's path, and nothing of the current folder.
HELPER = f"import sys; sys.path[:] = sys.argv[1:]; from {__package__}.machine import serve; serve()"


def _start() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-I", "-c", HELPER, *sys.path],
        bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
    )  # fmt: skip


def _write(pipe: IO[bytes], value: Any) -> None:
    """A line of JSON. The pipe has no buffer, whose lock a forked child would wait for, and so may take a part at a time."""
    line = memoryview(json.dumps(value).encode() + b"\n")
    while line:
        line = line[pipe.write(line) :]


def may_help() -> bool:
    """Whether a second process helps: there is a core for it, and an interpreter to be started that is one.

    Of several processes that share the cores, as those of a batch, none starts another.
    """
    process = sys.modules.get("multiprocessing.process")
    interpreter = Path(sys.executable or "").stem.lower().startswith(("python", "pypy")) and not getattr(sys, "frozen", False)
    return interpreter and default_threads() > 1 and (process is None or process.parent_process() is None)


@functools.cache
@undisturbed()
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
