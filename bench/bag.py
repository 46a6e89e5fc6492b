"""A bag of four models with one stem wanted: what it costs of the whole bag.

    python bench/bag.py

The bag is shaped as htdemucs_ft: each member makes one stem. Whole and part alternate; the result must be the same samples.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from pathlib import Path

import numpy as np
from common import KNOWN, checkpoint, folder, heading, markdown, tell

import demucs_np as dn
from demucs_np.parity.recipe import draw_mix


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(KNOWN), default="htdemucs")
    parser.add_argument("--seconds", type=float, default=7.8, help="of audio")
    parser.add_argument("--threads", type=int, help="default: all cores")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--work", type=Path, help="keep the weights in this folder, for the next time")
    options = parser.parse_args()
    head = heading()
    with folder(options.work) as work:
        model = dn.load_model(checkpoint(work / f"{options.model}.safetensors", options.model)).only
    # One network four times: as much work as four, with the memory of one.
    count = len(model.sources)
    bag = dn.BagOfModels([copy.copy(model) for _ in range(count)], np.eye(count).tolist())
    mix = draw_mix(0, model.audio_channels, int(options.seconds * model.samplerate), model.samplerate)
    wanted = model.sources[-1]

    def run(stems: list[str] | None) -> tuple[float, np.ndarray]:
        began = time.perf_counter()
        out = dn.apply_model(bag, mix, stems=stems, threads=options.threads)
        return time.perf_counter() - began, out

    run([wanted])
    times: dict[str, list[float]] = {"all": [], "one": []}
    for number in range(options.repeats):
        whole, everything = run(None)
        part, single = run([wanted])
        times["all"].append(whole)
        times["one"].append(part)
        tell(f"{number + 1}: all {whole:.2f} s, {wanted} {part:.2f} s")
        if not np.array_equal(everything[-1:], single):
            raise SystemExit(f"{wanted} alone has other samples than with all stems")
    rows = [
        [f"all {count} stems", f"{min(times['all']):.2f}", f"{statistics.median(times['all']):.2f}", ""],
        [
            f"{wanted} alone",
            f"{min(times['one']):.2f}",
            f"{statistics.median(times['one']):.2f}",
            f"{min(times['one']) / min(times['all']):.2f}",
        ],
    ]
    print(f"{head}\n{markdown([f'bag of {count}, {options.seconds:g} s of audio', 'min s', 'median s', 'of all'], rows)}")


if __name__ == "__main__":
    main()
