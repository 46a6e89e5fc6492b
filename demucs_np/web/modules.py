"""The two WebAssembly modules: every kernel that a tape may name, lowered in a process of its own and linked.

`kernels.wasm` runs wherever there is SIMD, and computes what the native engine computes with 4 lanes and nothing fused or reordered, bit
by bit. `kernels-relaxed.wasm` has fused multiply-adds where the processor has them: faster, and the last bits are the machine's.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import UsageError
from ..kernels import ahead
from ..models import needs

FILES = {"plain": "kernels.wasm", "relaxed": "kernels-relaxed.wasm"}
TRIED = {"numba": ("0.68.1",), "llvmlite": ("0.50.0",), "ziglang": ("0.17.1",)}  # versions that the modules were built with
# Of every tape that can be recorded, and for what is done around it: name -> types of the arrays (`tape.TYPES`).
KERNELS = {
    name.partition(".")[2]: ahead.KERNELS[name].replace("r", "f") for name in (*needs.KERNELS["HTDemucs"], "resample._resample_tiles")
}
LANES = 4
STACK, MOST_PAGES = 65536, 65536

# Registers of a WebAssembly engine hold 4 x 2 sums, not 6 x 2.
ENVIRONMENT = {"DEMUCS_NP_LANES": str(LANES), "DEMUCS_NP_ROWS": "4,2", "DEMUCS_NP_FETCH": "0"}


def environment(kind: str) -> dict[str, str]:
    """Of a process that compiles for, or computes like, one of the modules."""
    return (
        dict(os.environ) | ENVIRONMENT | ({"DEMUCS_NP_FMA": "1"} if kind == "relaxed" else {"DEMUCS_NP_FMA": "0", "DEMUCS_NP_REASSOC": "0"})
    )


def versions() -> dict[str, str]:
    """Of what the build leans on; raises UsageError where the linker is missing."""
    try:
        return {name: importlib.metadata.version(name) for name in TRIED}
    except importlib.metadata.PackageNotFoundError as error:
        raise UsageError(f"{error.name} is not installed: it links the kernels; run `pip install demucs-np[web]`") from None


def build(folder: Path, kernels: Mapping[str, str] = KERNELS) -> None:
    """Write both modules into `folder`.

    Raises UsageError without the linker, RuntimeError if a kernel cannot be lowered: other versions than `TRIED` may do that.
    """
    versions()
    with tempfile.TemporaryDirectory(prefix="demucs-np-wasm-") as name:
        work = Path(name)
        (work / "kernels.json").write_text(json.dumps(kernels))
        processes = {}
        for kind in FILES:
            (work / kind).mkdir()
            command = [sys.executable, "-m", "demucs_np.web.lowering", str(work / kind), kind, str(work / "kernels.json")]
            processes[kind] = subprocess.Popen(command, env=environment(kind), stderr=subprocess.PIPE, text=True)
        for kind, process in processes.items():
            _, errors = process.communicate()
            if process.returncode:
                raise RuntimeError(f"the kernels cannot be lowered ({kind}): {errors.strip().splitlines()[-1]}")
            _link([work / kind / f"{kernel}.o" for kernel in kernels], folder / FILES[kind], kernels)


def _link(objects: Sequence[Path], out: Path, kernels: Mapping[str, str]) -> None:
    from .lowering import PREFIX

    command = [
        sys.executable, "-m", "ziglang", "wasm-ld", "--no-entry", "--import-memory", "--shared-memory", "--gc-sections", "-s",
        f"--initial-memory={32 * 65536}", f"--max-memory={MOST_PAGES * 65536}", "-z", f"stack-size={STACK}",
        "--export=__stack_pointer", "--export=__heap_base", *[f"--export={PREFIX}{name}" for name in kernels],
        *map(str, objects), "-o", str(out),
    ]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(f"the kernels cannot be linked: {result.stderr.strip()[:500]}")
