"""One segment on 1, 2, 4, 8, 16 threads: time, speed-up, efficiency, beside what the machine's matrix product gains.

    python bench/scaling.py

Numbers of threads alternate. More threads of arithmetic lower the clock of many processors, and share its memory: the last column is
the efficiency of a large matrix product alone, which no program can beat by much. The output must be the same bits on every number.
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import time
from pathlib import Path

import numpy as np
from common import KNOWN, checkpoint, folder, heading, markdown, tell, write_mix

import demucs_np as dn
from demucs_np.inspection.profiling import machine_rates
from demucs_np.threads import default_threads, use_threads


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(KNOWN), default="htdemucs")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2, 4, 8, 16], help="those above the number of cores are left out")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", type=Path, help="keep the weights in this folder, for the next time")
    options = parser.parse_args()
    head = heading()
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


if __name__ == "__main__":
    main()
