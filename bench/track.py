"""A whole track through the command: wall time and peak memory, beside upstream's `demucs` command on the same file and weights.

    python bench/track.py --minutes 3 --upstream-python PATH     # time: each in turn, --rounds times
    python bench/track.py --minutes 10                            # memory alone: ours, once

Both read the same float32 weights through `--repo`, theirs from a `.th` package (which upstream's Python writes), ours from
safetensors. With `--shifts 0` the runs are deterministic and the files are compared as well.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from common import HERE, KNOWN, Ran, checkpoint, environment, folder, heading, markdown, megabytes, run_command, tell, threads_text, track

STEP = 1 / 32768


def write_package(name: str, weights: str, target: str) -> None:
    """A `.th` package as demucs stores its models. Runs in upstream's Python."""
    import torch
    from safetensors.torch import load_file

    from demucs_np.parity.upstream import build

    klass, arguments = KNOWN[name]
    model = build(klass, arguments, 0)
    torch.save({"klass": type(model), "args": (), "kwargs": arguments, "state": load_file(weights)}, target)


def differences(ours: Path, theirs: Path, stems: list[str]) -> str:
    """How far apart the 16-bit files are."""
    import soundfile

    worst = 0
    for stem in stems:
        a, _ = soundfile.read(ours / f"{stem}.wav", dtype="int16")
        b, _ = soundfile.read(theirs / f"{stem}.wav", dtype="int16")
        if a.shape != b.shape:
            return f"{stem}.wav: {a.shape} and {b.shape}"
        worst = max(worst, int(np.abs(a.astype(np.int32) - b).max()))
    return f"files differ by at most {worst} of 65536 steps"


def main() -> None:
    if sys.argv[1:2] == ["--package"]:
        write_package(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upstream-python", help="the Python of an environment with demucs")
    parser.add_argument("--model", choices=list(KNOWN), default="htdemucs")
    parser.add_argument("--minutes", type=float, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    parser.add_argument("--shifts", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--work", type=Path, help="keep weights and tracks in this folder, for the next time")
    parser.add_argument("--prepare", action="store_true", help="only write the weights and the track")
    options = parser.parse_args()

    head = heading()
    with folder(options.work) as work:
        repo = work / "repo"
        repo.mkdir(exist_ok=True)
        # A name of its own: a signature may not hold a dash, and underscores are as good.
        name = f"{options.model}_seeded"
        weights = checkpoint(repo / f"{name}.safetensors", options.model)
        wav = track(work / f"track{options.minutes:g}.wav", options.minutes)
        words = [str(wav), "-n", name, "--repo", str(repo), "--shifts", str(options.shifts)]
        commands = {"demucs_np": [sys.executable, "-m", "demucs_np", "separate", *words, "--threads", str(options.threads)]}
        if options.upstream_python:
            package = repo / f"{name}.th"
            if not package.exists():
                script = [options.upstream_python, str(HERE / "track.py"), "--package", options.model, str(weights), str(package)]
                subprocess.run(script, check=True, env=environment())
            commands["demucs (PyTorch)"] = [options.upstream_python, "-m", "demucs", *words, "-d", "cpu"]
        if options.prepare:
            return
        runs: dict[str, list[Ran]] = {title: [] for title in commands}
        for number in range(options.rounds):
            for title, command in commands.items():
                out = work / title.split()[0]
                runs[title].append(run_command([*command, "-o", str(out)], environment(options.threads)))
                tell(f"round {number + 1}: {title} {runs[title][-1].seconds:.1f} s, {megabytes(runs[title][-1].memory)} MB")
        best = {title: min(ran.seconds for ran in many) for title, many in runs.items()}
        rows = [
            [
                title,
                f"{best[title]:.1f}",
                f"{60 * options.minutes / best[title]:.2f}",
                f"{best['demucs_np'] / best[title]:.2f}" if title != "demucs_np" else "",
                megabytes(max((ran.memory for ran in many if ran.memory), default=None)),
            ]
            for title, many in runs.items()
        ]
        title = f"{options.minutes:g} minutes, {options.model}, shifts {options.shifts}, {threads_text(options.threads)}"
        print(f"{head}\n{markdown([title, 's', 'times real time', 'ours / it', 'peak MB'], rows)}")
        if options.upstream_python and options.shifts == 0:
            stems = KNOWN[options.model][1]["sources"]
            print(f"\n{differences(*(work / folder / name / wav.stem for folder in ('demucs_np', 'demucs')), stems)}.")


if __name__ == "__main__":
    main()
