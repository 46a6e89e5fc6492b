"""The recipe of docs/scale.md for MPI, as it stands there."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from files import song

ROOT = Path(__file__).parents[1]
SPEC = importlib.util.find_spec("mpi4py")
PLACES = [
    os.environ.get("PATH", ""),
    str(Path(sys.executable).parent),
    *([str(Path(SPEC.origin).parents[4] / "bin")] if SPEC and SPEC.origin else []),
]
MPIEXEC = shutil.which("mpiexec", path=os.pathsep.join(PLACES))


@pytest.mark.skipif(SPEC is None or MPIEXEC is None, reason="mpi4py and mpiexec not installed")
def test_jobs_run_on_mpi(tmp_path: Path) -> None:
    (recipe,) = [
        block
        for block in re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "scale.md").read_text(encoding="utf-8"), flags=re.DOTALL)
        if "MPIPoolExecutor" in block
    ]
    (tmp_path / "library.py").write_text(recipe)
    (tmp_path / "in").mkdir()
    for number in range(3):
        song(tmp_path / "in" / f"{number}.wav", samples=44100, samplerate=44100, seed=number)
    assert MPIEXEC is not None
    settings = {
        "PYTHONPATH": str(ROOT), "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    }  # fmt: skip
    done = subprocess.run(
        [MPIEXEC, "-n", "3", sys.executable, "-m", "mpi4py.futures", "library.py", "in", "out"],
        cwd=tmp_path, env={**os.environ, **settings}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert sorted(re.findall(r"in/\d.wav \w+", done.stdout)) == [f"in/{number}.wav done" for number in range(3)]
    assert len(list((tmp_path / "out").rglob("*.wav"))) == 12
