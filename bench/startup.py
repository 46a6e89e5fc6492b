"""Start-up: `--help`, importing, opening a model, and the way from the command to the first work and the first finished segment.

    python bench/startup.py
    python bench/startup.py --kernels

Every figure is the best of several fresh processes, with the files in the page cache. "Cold" is an empty Numba
cache, which two processes fill where there are two cores; the processor time is that of both. With `--kernels`: how long each kernel
of each class of models takes to compile, in one process, and how much of that is LLVM's half; what several kernels share, and what Numba
does once, counts for the first that has it. The child that separates is this file again, with marks at the moments of interest; its clock
is the parent's (CLOCK_MONOTONIC).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from common import KNOWN, checkpoint, environment, folder, heading, markdown, run_command, tell, track


def separate(model: Path, wav: Path, out: Path, threads: int, cache: Path | None = None) -> dict[str, float]:
    """Run `demucs-np separate` in a process; seconds from its start to each mark."""
    env = environment(**({"NUMBA_CACHE_DIR": str(cache)} if cache else {}))
    began = time.monotonic()
    ran = run_command([sys.executable, str(Path(__file__).resolve()), "--child", str(model), str(wav), str(out), str(threads)], env)
    marks: dict[str, float] = json.loads(ran.output.splitlines()[-1])
    return {name: moment - began for name, moment in marks.items()} | {"end": ran.seconds, "processor": ran.processor}


def child(model: str, wav: str, out: str, threads: str) -> None:
    """The command, with a note of the time when the model is open, the first tile begins, and the first segment is done."""
    marks: dict[str, float] = {}

    def mark(name: str) -> None:
        marks.setdefault(name, time.monotonic())

    from demucs_np import weights
    from demucs_np.commands import main as cli
    from demucs_np.kernels import tiles
    from demucs_np.models.network import Network

    load, run, call = weights.load_model, tiles.Pool.run, Network.__call__

    def marked_load(*args: object, **kwargs: object) -> object:
        mark("load begins")
        loaded = load(*args, **kwargs)  # type: ignore[arg-type]
        mark("load ends")
        return loaded

    def marked_run(self: tiles.Pool, *args: object) -> None:
        if "load ends" in marks:
            mark("first tile")
        run(self, *args)  # type: ignore[arg-type]

    def marked_call(self: Network, mix: object) -> object:
        done = call(self, mix)  # type: ignore[arg-type]
        mark("first segment")
        return done

    weights.load_model, tiles.Pool.run, Network.__call__ = marked_load, marked_run, marked_call  # type: ignore[assignment, method-assign]
    words = ["separate", wav, "-n", model, "-o", out, "--shifts", "0", "--threads", threads]
    cli.main(words, standalone_mode=False)
    print(json.dumps(marks))


def compile_kernels(klass: str) -> None:
    """Compile what a class of models needs; prints name, seconds of processor time, and seconds of LLVM of each."""
    from demucs_np.kernels import _jit, ahead
    from demucs_np.models import needs

    rows = []
    for name in sorted(needs.KERNELS[klass], key=list(ahead.KERNELS).index):
        kernel, signature = ahead.found(name)
        kernel.targetctx.refresh()  # what Numba imports once
        began = time.process_time()
        library = _jit.emit(kernel, signature).library
        parts = library.parts()
        emitted = time.process_time()
        library.make(parts)
        end = time.process_time()
        rows.append((name, end - began, end - emitted))
    print(json.dumps(rows))


def kernel_tables(repeats: int) -> Iterator[str]:
    """A table for each class, of the fastest of so many runs."""
    for klass in ("HTDemucs", "HDemucs", "Demucs"):
        runs = []
        for _ in range(repeats):
            tell(f"compiling for {klass}")
            with folder(None) as cache:
                ran = run_command([sys.executable, __file__, "--compile", klass], environment(NUMBA_CACHE_DIR=str(cache)))
            runs.append(json.loads(ran.output.splitlines()[-1]))
        best = min(runs, key=lambda run: sum(seconds for _, seconds, _ in run))
        rows = [(name, f"{total:.2f}", f"{llvm:.2f}") for name, total, llvm in sorted(best, key=lambda row: -row[1])]
        sums = ("all", *(f"{sum(row[i] for row in best):.2f}" for i in (1, 2)))
        yield markdown([f"kernels of {klass}", "s", "of it LLVM"], [*rows, sums])


def fastest(command: list[str], repeats: int) -> float:
    return min(run_command(command, environment()).seconds for _ in range(repeats))


OPENING = """
import sys, time, demucs_np
for _ in range(2):
    began = time.perf_counter()
    demucs_np.load_model(sys.argv[1])
    print(time.perf_counter() - began)
"""


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:])
        return
    if sys.argv[1:2] == ["--compile"]:
        compile_kernels(sys.argv[2])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(KNOWN), default="htdemucs")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=Path, help="keep the weights in this folder, for the next time")
    parser.add_argument("--no-cold", action="store_true", help="leave out the run with an empty Numba cache")
    parser.add_argument("--kernels", action="store_true", help="nothing but the time that each kernel takes to compile")
    options = parser.parse_args()
    head = heading()
    if options.kernels:
        print(head, *kernel_tables(options.repeats), sep="\n\n")
        return
    python = [sys.executable, "-c"]
    rows: list[tuple[str, str, str]] = []
    with folder(options.work) as work:
        full = checkpoint(work / f"{options.model}.safetensors", options.model)
        half = checkpoint(work / f"{options.model}-half.safetensors", options.model, half=True)
        wav = track(work / "short.wav", 0.05)  # one segment

        tell("--help and imports")
        rows.append(("`demucs-np --help`", f"{fastest([sys.executable, '-m', 'demucs_np', '--help'], options.repeats):.2f} s", "0.5 s"))
        base = fastest([*python, "import numpy, numba"], options.repeats)
        ours = fastest([*python, "import numpy, numba, demucs_np"], options.repeats)
        rows.append(("`import demucs_np`, beyond `import numpy, numba`", f"{ours - base:.2f} s (of {ours:.2f})", "0.5 s"))

        tell("opening models")
        for path, title in ((full, "float32"), (half, "float16")):
            outputs = [run_command([*python, OPENING, str(path)], environment()).output.split() for _ in range(options.repeats)]
            first, again = (min(float(output[which]) for output in outputs) for which in (0, 1))
            measured = f"{again:.2f} s (and {first - again:.2f} to import)"
            rows.append((f"open {path.stat().st_size / 1e6:.0f} MB of {title}, ready to run", measured, "1.0 s"))

        tell("separating, warm caches")
        separate(full, wav, work / "out", options.threads)
        runs = [separate(full, wav, work / "out", options.threads) for _ in range(options.repeats)]
        tile = min(run["first tile"] for run in runs)
        beyond = min(run["first tile"] - (run["load ends"] - run["load begins"]) for run in runs)
        warm = min(run["first segment"] for run in runs)
        rows.append(("command to first tile of work", f"{tile:.2f} s", ""))
        rows.append(("  without loading the weights", f"{beyond:.2f} s", "1.5 s"))
        rows.append(("command to first finished segment", f"{warm:.2f} s", ""))
        if not options.no_cold:
            tell("separating, empty Numba cache")
            colds = []
            for _ in range(options.repeats):
                with folder(None) as cache:
                    colds.append(separate(full, wav, work / "out", options.threads, cache))
            cold = min(run["first segment"] for run in colds)
            spent = min(run["processor"] for run in colds) - min(run["processor"] for run in runs)
            rows.append(("  with an empty Numba cache", f"{cold:.2f} s", ""))
            rows.append(("  what that adds", f"{cold - warm:.2f} s (processor: {spent:.2f})", "5 s"))
    print(f"{head}\n{markdown([f'start-up, {options.model}', 'measured', 'at most'], rows)}")


if __name__ == "__main__":
    main()
