"""This engine beside PyTorch and ONNX Runtime: one segment, the same weights and input, in turn.

Each engine runs in a process of its own (so memory is each one's own) and waits on a pipe while another works; after each run there
is a pause in which the threads that spin for work fall asleep, and the processor time that idle engines still use is reported. All
runs of one model and number of threads alternate in one session. Neighbours on the machine only ever add time: the ratio of the
minima counts, medians stand beside it.

    python bench/compare.py --upstream-python PATH    # an environment with torch, demucs, onnxruntime, onnx, onnxscript

Without --upstream-python, or for what that environment lacks, only the engines that are there run. ONNX Runtime runs HTDemucs alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import HERE, KNOWN, Engine, checkpoint, environment, folder, heading, markdown, megabytes, snr, tell, threads_text, write_mix

NEEDS = {"torch": ("torch", "demucs", "safetensors"), "onnx": ("onnxruntime",)}
TITLES = {"ours": "demucs_np", "torch": "PyTorch", "onnx": "ONNX Runtime"}
# dB: engines further from PyTorch than this do not compute the same. ONNX Runtime sums its norms' statistics in plain float32: a norm
# over the 8 million values of the outermost time layer alone is 73 dB from the truth there.
LIMITS = {"ours": 80.0, "onnx": 50.0}


def available(python: str | None) -> list[str]:
    """Engines that this machine can run."""
    engines = ["ours"]
    for engine, packages in NEEDS.items():
        if python and subprocess.run([python, "-c", f"import {', '.join(packages)}"], capture_output=True).returncode == 0:
            engines.append(engine)
    return engines


def exported(python: str, name: str, work: Path) -> bool:
    """Export the model to ONNX, if that has not been done and can be; whether it is there."""
    target = work / f"{name}.onnx"
    if not KNOWN[name][0].endswith(".HTDemucs"):
        return False
    if not target.exists():
        tell(f"{name}: exporting to ONNX")
        command = [python, str(HERE / "export_onnx.py"), name, str(work / f"{name}.safetensors"), str(target)]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True)
        if done.returncode:
            tell(f"{name}: cannot be exported, ONNX Runtime is left out:\n{done.stderr[-1500:]}")
            return False
    return True


def compare(name: str, threads: int, engines: list[str], options: argparse.Namespace, work: Path) -> list[dict[str, Any]]:
    """Measure all engines on one model and number of threads; a dict for each."""
    pythons = {engine: sys.executable if engine == "ours" else options.upstream_python for engine in engines}
    running: dict[str, Engine] = {}
    times: dict[str, list[float]] = {engine: [] for engine in engines}
    cores: list[float] = []
    idle = dict.fromkeys(engines, 0.0)
    waited = dict.fromkeys(engines, 0.0)
    try:
        for engine in engines:
            running[engine] = Engine(pythons[engine], engine, name, threads, work)
            for _ in range(options.warm_up):
                running[engine].ask("run")
            running[engine].ask("save", str(work / f"{engine}.npy"))
        outputs = {engine: np.load(work / f"{engine}.npy") for engine in engines}
        truth = outputs.get("torch")
        parity = {e: snr(truth, out) if truth is not None and e != "torch" else None for e, out in outputs.items()}
        for engine, ratio in parity.items():
            if ratio is not None and not ratio >= LIMITS[engine]:
                raise SystemExit(f"{name}: {TITLES[engine]} is {ratio:.1f} dB from PyTorch: not the same computation")
        for number in range(options.rounds):
            order = engines[number % len(engines) :] + engines[: number % len(engines)]  # nobody always follows the same neighbour
            for _ in range(options.repeats):
                for engine in order:
                    time.sleep(options.pause)
                    before = {other: running[other].processor_time() for other in engines if other != engine}
                    answer = running[engine].ask("run")
                    times[engine].append(answer["seconds"])
                    cores += [answer["core"]] if "core" in answer else []
                    for other, used in before.items():
                        idle[other] += running[other].processor_time() - used
                        waited[other] += answer["seconds"]
            best = ", ".join(f"{TITLES[engine]} {min(times[engine]):.2f} s" for engine in engines)
            tell(f"{name}, {threads_text(threads)}, round {number + 1} of {options.rounds}: {best}")
        memory = {engine: running[engine].ask("memory")["peak"] for engine in engines}
    finally:
        for engine in running.values():
            engine.close()
    return [
        {
            "model": name,
            "threads": threads,
            "engine": engine,
            "versions": running[engine].about["versions"],
            "times": times[engine],
            "core": min(cores) if engine == "onnx" else None,
            "memory": memory[engine],
            "snr": parity[engine],
            "idle": idle[engine] / waited[engine] if waited[engine] else 0.0,
        }
        for engine in engines
    ]


def fastest_ours(results: list[dict[str, Any]], beside: dict[str, Any]) -> float:
    """Our minimum on the same model and number of threads, seconds."""
    same = (r for r in results if r["engine"] == "ours" and (r["model"], r["threads"]) == (beside["model"], beside["threads"]))
    return float(min(next(same)["times"]))


def table(results: list[dict[str, Any]]) -> str:
    """Markdown: ratios are ours over the row's engine, below 1 where ours is faster."""
    rows = []
    for result in results:
        ours = next(r for r in results if r["engine"] == "ours" and (r["model"], r["threads"]) == (result["model"], result["threads"]))
        name = TITLES[result["engine"]]
        ratio = ratio_median = "" if result is ours else "?"
        if result is not ours:
            ratio = f"{min(ours['times']) / min(result['times']):.2f}"
            ratio_median = f"{statistics.median(ours['times']) / statistics.median(result['times']):.2f}"
        rows.append(
            [
                f"{result['model']}, {name}",
                result["threads"],
                f"{min(result['times']):.2f}",
                f"{statistics.median(result['times']):.2f}",
                ratio,
                ratio_median,
                megabytes(result["memory"]),
                "" if result["snr"] is None else f"{result['snr']:.0f}",
            ]
        )
    header = ["one segment", "threads", "min s", "median s", "ours / it (min)", "(median)", "peak MB", "dB from PyTorch"]
    return markdown(header, rows)


def notes(results: list[dict[str, Any]], options: argparse.Namespace) -> str:
    """What a reader must know of the table."""
    versions: dict[str, str] = {}
    for result in results:
        versions |= result["versions"]
    lines = [", ".join(f"{name} {version}" for name, version in sorted(versions.items())) + "."]
    lines.append(
        f"Each of {options.rounds} rounds: {options.repeats} times every engine in turn, after {options.warm_up} runs that are not counted."
    )
    lines.append(f"Processor time of an engine while another ran: at most {max(r['idle'] for r in results):.1%} of a core.")
    for result in results:
        if result["core"] is not None:
            outside, ratio = min(result["times"]) - result["core"], fastest_ours(results, result) / result["core"]
            lines.append(
                f"ONNX Runtime's time on {threads_text(result['threads'])} holds about {outside:.2f} s of transforms in NumPy; "
                f"its session alone takes {result['core']:.2f} s, and ours / that is {ratio:.2f}."
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upstream-python", help="the Python of an environment with the peers")
    parser.add_argument("--models", nargs="+", choices=list(KNOWN), default=["htdemucs", "hdemucs", "demucs"], metavar="MODEL")
    parser.add_argument("--engines", nargs="+", choices=list(TITLES), default=list(TITLES))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--warm-up", type=int, default=2, help="runs before the first that counts")
    parser.add_argument("--pause", type=float, default=0.3, help="seconds between runs")
    parser.add_argument("--work", type=Path, help="keep weights and export in this folder, for the next time")
    parser.add_argument("--json", type=Path, help="write all times here")
    parser.add_argument("--prepare", action="store_true", help="only write the weights and the export")
    options = parser.parse_args()

    head = heading()
    present = [engine for engine in available(options.upstream_python) if engine in options.engines]
    for engine in options.engines:
        if engine not in present:
            tell(f"{TITLES[engine]} is not installed and is left out")
    results = []
    with folder(options.work) as work:
        for name in options.models:
            checkpoint(work / f"{name}.safetensors", name)
            write_mix(work / "mix.npy", name)
            engines = [e for e in present if e != "onnx" or exported(options.upstream_python, name, work)]
            if options.prepare:
                continue
            for threads in options.threads:
                results += compare(name, threads, engines, options, work)
                if options.json:
                    options.json.write_text(json.dumps({"about": head, "results": results}, indent=1))
    if results:
        print(f"{head}\n{table(results)}\n\n{notes(results, options)}")


if __name__ == "__main__":
    main()
