"""What a batch costs, and what it survives.

python bench/batch.py throughput    tables: tracks of 30 s with the demo model, and with a full-size random one, in turn; half an hour
python bench/batch.py faults        rounds of killed workers, clients and runs, each compared with an undisturbed run
python bench/batch.py jobs          ten thousand jobs with a stub in place of the model: time for one, and memory
python bench/batch.py simulate      1, 16 and 256 workers with failures, against the formula of docs/scale.md
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import json
import math
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from common import environment

from demucs_np.audio import Encoding
from demucs_np.batch.journal import open_journal
from demucs_np.batch.library import Plan, run
from demucs_np.batch.task import Outcome, Task
from demucs_np.batch.workers import LocalWorkers
from demucs_np.jobs import Job, Result
from demucs_np.separation.apply import Progress
from demucs_np.steps import Steps

BATCH = [sys.executable, "-m", "demucs_np", "batch"]
RATE = 44100


def noise(path: Path, seconds: float, seed: int) -> Path:
    """16 bits, stereo: as slow to separate as music."""
    rng = np.random.default_rng(seed)
    soundfile.write(path, (0.1 * rng.standard_normal((int(seconds * RATE), 2))).astype(np.float32), RATE)
    return path


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".jsonl"
    }


class Cluster:
    """A Dask scheduler and workers in processes of their own; a worker that was killed is started again by `mend`."""

    def __init__(self, folder: Path, workers: int) -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{port}"
        self._folder = folder
        self._scheduler = self._dask("scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard", "--no-jupyter")
        self.workers = [self._worker() for _ in range(workers)]

    def _dask(self, *words: str) -> subprocess.Popen[bytes]:
        env = environment(1, DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES="1")
        return subprocess.Popen(
            [sys.executable, "-m", "dask", *words], cwd=self._folder, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def _worker(self) -> subprocess.Popen[bytes]:
        return self._dask("worker", self.address, "--nthreads", "1", "--no-nanny", "--no-dashboard", "--local-directory", str(self._folder))

    def mend(self) -> None:
        self.workers = [self._worker() if worker.poll() is not None else worker for worker in self.workers]

    def close(self) -> None:
        for process in (*self.workers, self._scheduler):
            process.kill()
            process.wait()


def workers_of(pid: int) -> list[int]:
    """Children of the process that forks, which is a child of the client."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            if b"multiprocessing.forkserver" in (entry / "cmdline").read_bytes():
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    return [worker for worker, parent in parents.items() if parents.get(parent) == pid]


# ---- throughput


def throughput(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="demucs-np-bench-") as name:
        folder = Path(name)
        full = folder / "full.safetensors"
        subprocess.run([sys.executable, str(Path(__file__).with_name("common.py")), "checkpoint", str(full), options.model], check=True)
        cluster = Cluster(folder, options.workers)
        try:
            for title, model, tracks, seconds in (
                ("demo", "demo", options.tracks, options.seconds),
                (options.model, str(full), options.full_tracks, options.full_seconds),
            ):
                library = folder / title / "in"
                library.mkdir(parents=True)
                for number in range(tracks):
                    noise(library / f"{number:03}.wav", seconds, number)
                _table(title, model, library, options, cluster)
        finally:
            cluster.close()


def _table(title: str, model: str, library: Path, options: argparse.Namespace, cluster: Cluster) -> None:
    workers, out = options.workers, library.parent / "out"
    hours = sum(soundfile.info(path).duration for path in library.iterdir()) / 3600
    print(f"\n{title}: {len(list(library.iterdir()))} tracks, {hours * 60:.1f} minutes; {os.cpu_count()} cores", flush=True)
    warm = library.parent / "warm"
    warm.mkdir()
    noise(warm / "warm.wav", 1.0, 0)

    def batch(*more: str) -> Callable[[list[str]], float]:
        return lambda sources: _batch(sources, model, out, more)

    bare = "bare network, {}"
    cases: dict[str, tuple[Callable[[list[str]], float], str]] = {  # how it is measured, and beside what
        bare.format("1 thread"): (lambda sources: _bare(Path(sources[0]), model, 1), ""),
        "batch, one process, 1 thread": (batch("--threads", "1"), bare.format("1 thread")),
        bare.format(f"{workers} threads"): (lambda sources: _bare(Path(sources[0]), model, workers), bare.format("1 thread")),
        f"batch, one process, {workers} threads": (batch("--threads", str(workers)), bare.format(f"{workers} threads")),
        bare.format(f"{workers} processes"): (lambda sources: _bare(Path(sources[0]), model, 1, workers), bare.format("1 thread")),
        f"batch, {workers} workers": (batch("--workers", str(workers)), "batch, one process, 1 thread"),
        f"batch, {workers} Dask workers": (batch("--dask", cluster.address), f"batch, {workers} workers"),
    }
    times: dict[str, list[float]] = {case: [] for case in cases}
    start, trees = {}, {}
    for case, (measure, _) in cases.items():  # kernels are in the cache, and cluster's workers have loaded the model, from here on
        for _ in range(2):
            start[case] = measure([str(warm)]) if case.startswith("batch") else 0.0  # of the bare network nothing of it is counted
            shutil.rmtree(out, ignore_errors=True)
    for number in range(options.rounds):
        for case, (measure, _) in cases.items():
            times[case].append(measure([str(library)]))
            print(f"round {number + 1} of {options.rounds}: {case} {times[case][-1]:.1f} s", file=sys.stderr, flush=True)
            if out.exists():
                trees[case] = tree(out)
                lines = [json.loads(line) for line in (out / "demucs-np.jsonl").read_text().splitlines()]
                shutil.rmtree(out)
    print(f"\n| {'what':<30} | least s | median s | of it start | audio hours / hour | {'throughput beside':<28} | ratio |")
    print(f"| {'-' * 30} | ------: | -------: | ----------: | -----------------: | {'-' * 28} | ----: |")
    for case, (_, beside) in cases.items():
        least = min(times[case])
        ratio = f"{min(times[beside]) / least:5.2f}" if beside else ""
        row = f"| {case:<30} | {least:7.1f} | {statistics.median(times[case]):8.1f} | {start[case]:11.1f} | {hours / least * 3600:18.1f} |"
        print(f"{row} {beside:<28} | {ratio:>5} |", flush=True)
    assert all(found == next(iter(trees.values())) for found in trees.values()), "the files differ"
    peak = max(line["memory"] for line in lines) / 1e6
    disk = sum(map(len, next(iter(trees.values())).values())) / hours / 1e9
    busy = statistics.fmean(line["seconds"] / line["audio_seconds"] for line in lines)
    print(f"\nA worker holds at most {peak:.0f} MB; an hour of audio takes {busy:.3f} h of a worker, and {disk:.2f} GB of WAV.", flush=True)


BARE = """
import sys, time
import soundfile
from demucs_np import Separator
from demucs_np.separation.apply import apply_model
from demucs_np.weights import load_model
folder, name, threads, place, processes = sys.argv[1:]
from pathlib import Path
paths = sorted(Path(folder).iterdir())[int(place) :: int(processes)]
tracks = [soundfile.read(path, dtype="float32")[0].T.copy() for path in paths]
model = load_model(name)
apply_model(model, tracks[0][None, :, :44100], shifts=1, threads=int(threads))
print("ready", flush=True)
sys.stdin.readline()
began = time.perf_counter()
for track in tracks:
    apply_model(model, track[None], shifts=1, threads=int(threads))
print(time.perf_counter() - began)
"""


def _bare(library: Path, model: str, threads: int, processes: int = 1) -> float:
    """Seconds for the network and the cross-fades alone, of tracks in memory, each process with its part of them at the same time."""
    commands = [[sys.executable, "-c", BARE, str(library), model, str(threads), str(place), str(processes)] for place in range(processes)]
    with contextlib.ExitStack() as stack:
        running = [
            stack.enter_context(
                subprocess.Popen(command, env=environment(threads), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            for command in commands
        ]
        for process in running:
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
        for process in running:
            assert process.stdin
            process.stdin.write("\n")
            process.stdin.flush()
        return max(float(process.communicate()[0]) for process in running)


def _batch(sources: Sequence[str], model: str, out: Path, more: Sequence[str]) -> float:
    """Seconds for the whole command, its start and the loading of the model too."""
    began = time.perf_counter()
    subprocess.run([*BATCH, *sources, "-n", model, "-o", str(out), *more], env=environment(), capture_output=True, check=True)
    return time.perf_counter() - began


# ---- faults


def faults(options: argparse.Namespace) -> None:
    rng, counts = random.Random(options.seed), Counter[str]()
    with tempfile.TemporaryDirectory(prefix="demucs-np-bench-") as name:
        folder = Path(name)
        library = folder / "in"
        library.mkdir()
        for number in range(options.tracks):
            noise(library / f"{number}.wav", options.seconds, number)
        cluster = Cluster(folder, 2)
        try:
            _batch(
                [str(library)], "demo", folder / "expected", ["--dask", cluster.address]
            )  # the cluster's workers have compiled and loaded
            took = {
                "local": _batch([str(library)], "demo", folder / "local", ["--workers", "2"]),
                "dask": _batch([str(library)], "demo", folder / "dask", ["--dask", cluster.address]),
            }
            expected = tree(folder / "expected")
            for number in range(options.rounds):
                kind = ("worker", "run", "dask worker", "dask client")[number % 4]
                counts.update(
                    _round(kind, library, folder / f"out{number}", cluster, rng, took["dask" if "dask" in kind else "local"], expected)
                )  # += drops zeros
                print(f"round {number + 1:2}: {kind:<11}  {dict(counts)}", flush=True)
        finally:
            cluster.close()
    print(f"\n{options.rounds} rounds: " + ", ".join(f"{count} {what}" for what, count in counts.items()))
    assert not counts["tracks lost"]
    assert not counts["trees that differ"]


def _round(
    kind: str, library: Path, out: Path, cluster: Cluster, rng: random.Random, took: float, expected: dict[str, bytes]
) -> Counter[str]:
    """One run with a kill at a random moment, started again where nobody else goes on."""
    counts = Counter(
        {"kills": 0, "kills after the end": 0, "runs started again": 0, "tracks lost": 0, "tracks done twice": 0, "trees that differ": 0}
    )
    more = ["--dask", cluster.address] if kind.startswith("dask") else ["--workers", "2"]
    command = [*BATCH, str(library), "-n", "demo", "-o", str(out), *more]
    with subprocess.Popen(command, env=environment(), stderr=subprocess.DEVNULL) as process:
        time.sleep(rng.uniform(0.15, 0.8) * took)
        while kind == "worker" and process.poll() is None and not workers_of(process.pid):
            time.sleep(0.05)
        if process.poll() is not None:
            counts["kills after the end"] += 1
        elif kind == "worker" and (workers := workers_of(process.pid)):
            os.kill(rng.choice(workers), signal.SIGKILL)
            counts["kills"] += 1
        elif kind == "dask worker":
            rng.choice(cluster.workers).kill()
            counts["kills"] += 1
            time.sleep(0.5)
            cluster.mend()
        else:
            process.kill()
            counts["kills"] += 1
        status = process.wait()
    tries = 0
    while status and tries < 3:
        tries += 1
        counts["runs started again"] += 1
        status = subprocess.run(command, env=environment(), stderr=subprocess.DEVNULL, check=False).returncode
    done = Counter(
        record["key"] for line in (out / "demucs-np.jsonl").read_bytes().splitlines() if (record := json.loads(line))["status"] == "done"
    )
    counts["tracks lost"] += len(list(library.iterdir())) - len(done)
    counts["tracks done twice"] += sum(count - 1 for count in done.values())
    counts["trees that differ"] += tree(out) != expected
    return counts


# ---- ten thousand jobs


def stub(task: Task, progress: Progress | None) -> Steps[Outcome]:
    """In place of a model."""
    yield True
    return Outcome(Result(task.job, "done", 0.0, None), 1.0)


def jobs(options: argparse.Namespace) -> None:
    def tasks(count: int) -> list[Task]:
        return [
            Task(
                Job(f"/music/{number}.wav", "/out", "demo", encoding=Encoding()),
                f"demo/{number}/stem.wav",
                f"{number}.wav",
                "1-1",
                1,
                "s",
                "/out",
            )
            for number in range(count)
        ]

    def resident() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

    print(f"{'where':<12} {'jobs':>6} {'ms a job':>9} {'MB before':>10} {'at half':>8} {'at the end':>11}")
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="demucs-np-bench-")))
        workers = stack.enter_context(LocalWorkers(2))
        cluster = Cluster(folder, 2)
        stack.callback(cluster.close)
        cases: list[tuple[str, Any]] = [("one process", (None, 1)), ("2 workers", (workers, 2))]
        from batch import stub  # sent by its name, as the real one is

        from demucs_np.batch.cluster import connected, executor_of

        client = stack.enter_context(connected(cluster.address))
        cases.append(("2 Dask", executor_of(client)))
        for title, (executor, window) in cases:
            journal = open_journal(str(folder / title))
            plan = Plan(tasks(options.count))
            for _ in run(Plan(tasks(10)), journal, executor, window, stub):
                pass
            marks, began = [resident()], time.perf_counter()
            for number, _ in enumerate(run(plan, journal, executor, window, stub), 1):
                if number in (options.count // 2, options.count):
                    marks.append(resident())
            spent = (time.perf_counter() - began) / options.count * 1e3
            journal.close()
            print(f"{title:<12} {options.count:>6} {spent:>9.2f} {marks[0]:>10.0f} {marks[1]:>8.0f} {marks[2]:>11.0f}", flush=True)


# ---- simulation


def simulate(options: argparse.Namespace) -> None:
    print(f"{'workers':>7} {'failures':>8} {'hours':>8} {'formula':>8} {'ratio':>6} {'busy':>6}")
    for workers in (1, 16, 256, 1024, 4096):
        hours, failures, busy = _simulated(workers, options)
        formula = predicted(workers, options)
        print(f"{workers:>7} {failures:>8} {hours:>8.2f} {formula:>8.2f} {hours / formula:>6.3f} {busy:>6.1%}")


def lengths(options: argparse.Namespace) -> list[float]:
    """Seconds of the songs: 4 minutes in the mean, some of half an hour."""
    rng = random.Random(options.seed)
    return [min(1800.0, rng.lognormvariate(math.log(options.song) - 0.125, 0.5)) for _ in range(options.songs)]


def predicted(workers: int, options: argparse.Namespace) -> float:
    """Hours: the work and half a song more for each failure, on all workers, but never faster than the one that hands it out; then the last
    songs, when others have nothing to do; and the start."""
    songs = lengths(options)
    work = sum(songs) * options.cost
    rate = 1 / (options.mtbf * 3600)
    lost = work * rate * (statistics.fmean(length**2 for length in songs) / statistics.fmean(songs) * options.cost / 2 + options.restart)
    tail = min(max(songs) * options.cost, statistics.fmean(songs) * options.cost * (0.5 if workers == 1 else math.log(workers) / 2))
    return (options.start + max((work + lost) / workers, len(songs) * options.dispatch) + tail * (1 - 1 / workers)) / 3600


def _simulated(workers: int, options: argparse.Namespace) -> tuple[float, int, float]:
    """Event by event: one client hands out a song at a time, workers die at random and come back, their song is done again."""
    rng = random.Random(options.seed + workers)
    waiting = [length * options.cost for length in reversed(lengths(options))]
    free = [(options.start, worker) for worker in range(workers)]
    heapq.heapify(free)
    client = end = busy = 0.0
    failures = 0
    while waiting:
        now, worker = heapq.heappop(free)
        now = client = max(now, client) + options.dispatch
        seconds = waiting.pop()
        life = rng.expovariate(1 / (options.mtbf * 3600))
        if life < seconds:
            failures += 1
            waiting.append(seconds)
            busy += life
            heapq.heappush(free, (now + life + options.restart, worker))
        else:
            busy += seconds
            end = max(end, now + seconds)
            heapq.heappush(free, (now + seconds, worker))
    return end / 3600, failures, busy / workers / end


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)

    def command(function: Callable[[argparse.Namespace], None], **defaults: Any) -> None:
        sub = commands.add_parser(function.__name__)
        for name, value in defaults.items():
            sub.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
        sub.set_defaults(function=function)

    command(throughput, model="htdemucs", tracks=40, seconds=30.0, full_tracks=6, full_seconds=30.0, workers=2, rounds=2)
    command(faults, rounds=30, tracks=5, seconds=4.0, seed=0)
    command(jobs, count=10_000)
    command(simulate, songs=100_000, song=240.0, cost=0.5, mtbf=24.0, restart=30.0, start=10.0, dispatch=0.005, seed=0)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the cluster's processes are ended too
    options.function(options)


if __name__ == "__main__":
    main()
