"""One segment on 1, 2, 4, 8, 16 threads: time, speed-up, efficiency, beside what the machine's matrix product gains.

    python bench/scaling.py
    python bench/scaling.py --predict    # what more cores than this machine has would gain, from what is measured on one and two threads

Numbers of threads alternate. More threads of arithmetic lower the clock of many processors, and share its memory: the last column is
the efficiency of a large matrix product alone, which no program can beat by much. The output must be the same bits on every number.

`--predict` takes the time of every call of a kernel on one thread, deals its tiles out to N threads as the scheduler does, and adds what
is done between calls, by one thread, and what each range of tiles costs under the interpreter's lock. Memory and clock that threads
share are not in it. On two threads, each held to a core of its own and not, it says how far it is from what is measured.
"""

from __future__ import annotations

import argparse
import hashlib
import heapq
import os
import statistics
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from common import KNOWN, checkpoint, folder, heading, markdown, tell, write_mix

import demucs_np as dn
from demucs_np.inspection.profiling import machine_rates
from demucs_np.kernels import tiles
from demucs_np.threads import default_threads, use_threads


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(KNOWN), default="htdemucs")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2, 4, 8, 16], help="those above the number of cores are left out")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", type=Path, help="keep the weights in this folder, for the next time")
    parser.add_argument("--predict", action="store_true", help="a model of more threads, from one and two")
    options = parser.parse_args()
    head = heading()
    if options.predict:
        print(f"{head}\n{predict(options)}")
        return
    counts = sorted(count for count in set(options.threads) | {1} if count <= default_threads())
    with folder(options.work) as work:
        model = dn.load_model(checkpoint(work / f"{options.model}.safetensors", options.model))
        mix = np.load(write_mix(work / "mix.npy", options.model))
    times: dict[int, list[float]] = {count: [] for count in counts}
    products = dict.fromkeys(counts, 0.0)
    digests = set()
    for number in range(options.rounds + 1):
        for count in counts:
            with use_threads(count):
                began = time.perf_counter()
                out = model(mix)
                seconds = time.perf_counter() - began
                digests.add(hashlib.sha256(out.tobytes()).hexdigest())
                if number:  # the first time is the warm-up
                    times[count].append(seconds)
                    products[count] = max(products[count], machine_rates(repeats=3).flop)
        if number:
            tell(f"round {number} of {options.rounds}: " + ", ".join(f"{count}: {times[count][-1]:.2f} s" for count in counts))
    if len(digests) > 1:
        raise SystemExit("the output depends on the number of threads")
    single = min(times[1])
    rows = [
        [
            count,
            f"{min(times[count]):.2f}",
            f"{statistics.median(times[count]):.2f}",
            f"{single / min(times[count]):.2f}",
            f"{single / min(times[count]) / count:.2f}",
            f"{products[count] / 1e9:.0f}",
            f"{products[count] / products[1] / count:.2f}",
        ]
        for count in counts
    ]
    header = ["threads", "min s", "median s", "speed-up", "efficiency", "GFLOP/s of a product", "its efficiency"]
    print(f"{head}\n{markdown(header, rows)}\n\n{options.model}, one segment; the same bits on every number of threads.")


class Call(NamedTuple):
    kernel: str
    tiles: int
    seconds: float


class Noting:
    """In place of the pool: its calls, and how long they took."""

    def __init__(self, pool: tiles.Pool) -> None:
        self.pool, self.calls = pool, list[Call]()
        self.noted: list[tuple[Any, int, tuple[Any, ...]]] = []

    def run(self, kernel: Any, count: int, scratch: int, *args: Any) -> None:
        began = time.perf_counter()
        self.pool.run(kernel, count, scratch, *args)
        self.calls.append(Call(kernel.__name__, count, time.perf_counter() - began))
        self.noted.append((kernel, scratch, args))

    def keep(self, array: np.ndarray) -> None:
        raise AssertionError("weights are packed before")


def segment(model: Any, mix: np.ndarray, threads: int) -> tuple[float, Noting]:
    """Seconds of one, and its calls."""
    with use_threads(threads):
        noting = Noting(tiles.pool())
        began = time.perf_counter()
        with tiles.recording(noting):
            model(mix)
        return time.perf_counter() - began, noting


def per_range(noted: Sequence[tuple[Any, int, tuple[Any, ...]]]) -> float:
    """Seconds under the lock for a range of tiles: calls of a segment's kernels for no tile at all, the mean."""
    scratch = np.empty(max(size for _, size, _ in noted), np.float32)
    times = []
    for _ in range(20):
        began = time.perf_counter()
        for kernel, _, args in noted:
            kernel(0, 0, scratch, *args)
        times.append(time.perf_counter() - began)
    return min(times) / len(noted)


def dealt(call: Call, threads: int, lock: float) -> float:
    """Seconds of a call on so many threads: the next range to whoever is free, one after the other through the lock."""
    free, gate = [0.0] * min(threads, call.tiles), 0.0
    for first, last in tiles.shares(call.tiles, len(free)):
        at = heapq.heappop(free)
        gate = max(gate, at) + lock
        heapq.heappush(free, gate + (last - first) * call.seconds / call.tiles)
    return max(free)


def pinned(threads: int) -> None:
    """Hold each thread of the pool to a core of its own."""
    cores, barrier = iter(sorted(os.sched_getaffinity(0))), threading.Barrier(threads)

    def hold(*_: Any) -> None:
        barrier.wait()  # so that no thread takes two of these tiles
        os.sched_setaffinity(threading.get_native_id(), {next(cores)})
        barrier.wait()

    with use_threads(threads):
        tiles.pool().run(hold, threads, 0)


def predict(options: argparse.Namespace) -> str:
    with folder(options.work) as work:
        model = dn.load_model(checkpoint(work / f"{options.model}.safetensors", options.model))
        mix = np.load(write_mix(work / "mix.npy", options.model))
    measured: dict[str, list[float]] = {"1": [], "2": [], "2, pinned": []}
    runs: list[list[Call]] = []
    segment(model, mix, 1)
    for _ in range(options.rounds):
        seconds, noting = segment(model, mix, 1)
        measured["1"].append(seconds)
        runs.append(noting.calls)
        measured["2"].append(segment(model, mix, 2)[0])
    lock = per_range(noting.noted)
    pinned(2)
    for _ in range(options.rounds):
        measured["2, pinned"].append(segment(model, mix, 2)[0])
    calls = [Call(several[0].kernel, several[0].tiles, min(call.seconds for call in several)) for several in zip(*runs, strict=True)]
    between = min(seconds - sum(call.seconds for call in run) for seconds, run in zip(measured["1"], runs, strict=True))
    single = between + sum(call.seconds for call in calls)
    rows = []
    for threads in (1, 2, 4, 8, 16, 32):
        even = between + sum(call.seconds for call in calls) / threads
        uneven = between + sum(dealt(call, threads, 0.0) for call in calls)
        total = between + sum(dealt(call, threads, lock) for call in calls)
        few = [call.seconds for call in calls if call.tiles < 4 * threads]
        rows.append([
            threads, f"{total:.2f}", f"{single / total:.1f}", f"{single / total / threads:.2f}", f"{between / total:.1%}",
            f"{(uneven - even) / total:.1%}", f"{(total - uneven) / total:.1%}", f"{len(few)} ({sum(few) / single:.1%})",
        ])  # fmt: skip
    few_tiles = "calls of less than 4 tiles a thread (of the time)"
    header = ["threads", "s", "speed-up", "efficiency", "between calls", "uneven ends", "the lock", few_tiles]
    narrow = sorted({(call.kernel, call.tiles) for call in calls if call.tiles < 64 and call.seconds > 0.002})
    told = [
        f"{options.model}, one segment. Measured: " + ", ".join(f"{min(values):.2f} s on {name}" for name, values in measured.items()),
        f"A range of tiles costs {lock * 1e6:.2f} us under the lock",
        "Calls of 2 ms and more with less than 64 tiles: " + (", ".join(f"{kernel} {count}" for kernel, count in narrow) or "none"),
    ]
    return f"{markdown(header, rows)}\n\n" + ".\n".join(told) + "."


if __name__ == "__main__":
    main()
