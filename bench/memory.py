"""Peak memory of whole tracks through the command, for every published model at its default options.

    python bench/memory.py                                     # all of them
    python bench/memory.py --models mdx_extra --minutes 10 --memory 2GB
    python bench/memory.py --models hdemucs --upstream-python PATH

Weights are drawn from a seed, in the published shapes and, as published, in half precision; that of `mdx_q` and `mdx_extra_q`, which are
quantised, has another size only on disk. What members of the bags of version 3 are is not in the catalogue: of `mdx` and its kin the first
two are time-domain Demucs and the others Hybrid Demucs, after the weights that they have for the stems; of `mdx_extra` all are hybrid.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from common import HERE, checkpoint, environment, folder, heading, markdown, megabytes, run_command, tell, track

from demucs_np.weights.catalog import BAGS

TIME_AND_HYBRID = ("demucs", "demucs", "hdemucs", "hdemucs")
MEMBERS = {  # the classes of `common.KNOWN` that a published name is made of
    "htdemucs": ("htdemucs",),
    "htdemucs_ft": ("htdemucs",) * 4,
    "htdemucs_6s": ("htdemucs_6s",),
    "hdemucs_mmi": ("hdemucs",),
    "mdx": TIME_AND_HYBRID,
    "mdx_extra": ("hdemucs",) * 4,
    "mdx_q": TIME_AND_HYBRID,
    "mdx_extra_q": ("hdemucs",) * 4,
    "repro_mdx_a": TIME_AND_HYBRID,
    "demucs": ("demucs",),  # a member of `mdx` alone
}
UPSTREAM = ("htdemucs", "hdemucs_mmi", "demucs")  # one of each class


def write_bag(repo: Path, name: str) -> str:
    """A bag's file and those of its members, which are one file of each class under several names. Returns its name there."""
    signatures = []
    for number, kind in enumerate(MEMBERS[name]):
        member = repo / f"{name}_{number}.safetensors"
        if not member.exists():
            os.link(checkpoint(repo.parent / f"{kind}.safetensors", kind, half=True), member)
        signatures.append(member.stem)
    bag = {"models": signatures} | ({"segment": BAGS[name].segment} if name in BAGS and BAGS[name].segment else {})
    if name in BAGS and BAGS[name].weights:
        bag["weights"] = [list(row) for row in BAGS[name].weights or ()]
    (repo / f"{name}.yaml").write_text(json.dumps(bag))  # which is YAML as well
    return name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(MEMBERS), default=list(MEMBERS), metavar="NAME")
    parser.add_argument("--minutes", type=float, default=3, help="of the track; what it takes to reach the peak is two segments")
    parser.add_argument("--memory", help="given to the command")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--upstream-python", help="the Python of an environment with demucs, for one model of each class")
    parser.add_argument("--work", type=Path, help="keep weights and tracks in this folder, for the next time")
    options = parser.parse_args()

    head = heading()
    rows = []
    with folder(options.work) as work:
        (repo := work / "repo").mkdir(exist_ok=True)
        wav = track(work / f"track{options.minutes:g}.wav", options.minutes)
        for name in options.models:
            words = [str(wav), "-n", write_bag(repo, name), "--repo", str(repo)]
            more = ["--threads", str(options.threads), *(["--memory", options.memory] if options.memory else [])]
            command = [sys.executable, "-m", "demucs_np", "separate", *words, *more, "-o", str(work / "ours")]
            ours = run_command(command, environment(options.threads))
            tell(f"{name}: {megabytes(ours.memory)} MB, {ours.seconds:.0f} s")
            theirs = None
            if options.upstream_python and name in UPSTREAM:
                package = repo / f"{name}_th.th"
                if not package.exists():
                    script = [options.upstream_python, str(HERE / "track.py"), "--package", MEMBERS[name][0]]
                    subprocess.run([*script, str(repo / f"{name}_0.safetensors"), str(package)], check=True, env=environment())
                words = [str(wav), "-n", package.stem, "--repo", str(repo), "-d", "cpu", "-o", str(work / "theirs")]
                theirs = run_command([options.upstream_python, "-m", "demucs", *words], environment(options.threads)).memory
                tell(f"{name}: PyTorch {megabytes(theirs)} MB")
            part = f"{ours.memory / theirs:.2f}" if ours.memory and theirs else ""
            rows.append([name, len(MEMBERS[name]), megabytes(ours.memory), megabytes(theirs) if theirs else "", part])
    print(f"{head}\n{markdown([f'{options.minutes:g} minutes', 'models', 'peak MB', 'PyTorch', 'ours / it'], rows)}")


if __name__ == "__main__":
    main()
