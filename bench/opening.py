"""How long model files take to open from the page cache, and what memory loading one takes, by format.

    python bench/opening.py [--large]

Files of random weights are written to a temporary folder: a full-size HTDemucs (168 MB) in either container, with `--large` a
second-generation Demucs of 1.06 GB as well. Each is opened in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import packages

HTDEMUCS: dict[str, Any] = {"sources": ["a", "b", "c", "d"], "bottom_channels": 512, "dconv_mode": 3, "segment": 10}
SECOND: dict[str, Any] = {"sources": ["drums", "bass", "other", "vocals"]}


def write(folder: Path, klass: str, kwargs: dict[str, Any], size: str) -> Iterator[Path]:
    """One file after the other, so that no two are in memory."""
    tensors = {name: np.asarray(array, np.float32) for name, array in packages.draw(klass, kwargs).items()}
    yield packages.write(folder / f"{size}.safetensors", tensors, packages.metadata(klass, kwargs))
    archive = packages.Archive()
    if klass.endswith("model.Demucs"):
        yield archive.write(folder / f"{size} state.th", {name: archive.tensor(array) for name, array in tensors.items()})
    else:
        yield archive.write(folder / f"{size} package.th", packages.package(archive, tensors, klass, kwargs))


def measure(path: str) -> None:
    from demucs_np.weights.resolve import build, read_model

    with open(path, "rb") as file:  # into the page cache
        while file.read(1 << 20):
            pass
    before = anonymous()
    began = time.perf_counter()
    checkpoint = read_model(path)
    opened, read = time.perf_counter() - began, anonymous()
    model = build(checkpoint, "numba")
    del checkpoint
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    built = time.perf_counter() - began - opened
    print(json.dumps({"open": opened, "build": built, "read": read - before, "all": anonymous() - before, "peak": peak}))
    del model


def anonymous() -> float:
    """MB of this process that are no file's."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")]
    return int(line.split()[1]) / 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--measure")
    options = parser.parse_args()
    if options.measure:
        measure(options.measure)
        return
    print(f"{'file':28}  open s  build s  MB held after open  after build  peak RSS MB")
    with tempfile.TemporaryDirectory() as folder:
        sizes = [("demucs.htdemucs.HTDemucs", HTDEMUCS, "168 MB")] + [("demucs.model.Demucs", SECOND, "1 GB")] * options.large
        for klass, kwargs, size in sizes:
            for path in write(Path(folder), klass, kwargs, size):
                command = [sys.executable, __file__, "--measure", str(path)]
                found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                times = f"{path.name:28}  {found['open']:6.3f}  {found['build']:7.2f}"
                print(f"{times}  {found['read']:18.0f}  {found['all']:11.0f}  {found['peak']:11.0f}", flush=True)
                path.unlink()


if __name__ == "__main__":
    main()
