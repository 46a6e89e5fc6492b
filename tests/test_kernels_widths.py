"""The kernels as on machines with other vectors: right everywhere, and the same bits wherever there is fused multiply-add."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from kernel_results import hashes

from demucs_np.kernels._jit import DISABLED
from demucs_np.kernels.gemm import FMA

HERE = Path(__file__).parent
MACHINES = {
    "4 lanes, no fused multiply-add": {"DEMUCS_NP_LANES": "4", "DEMUCS_NP_FMA": "0"},
    "4 lanes": {"DEMUCS_NP_LANES": "4"},
    "8 lanes": {"DEMUCS_NP_LANES": "8"},
}
if platform.machine() in ("x86_64", "AMD64"):  # not the matrix product alone: everything compiled for such a processor
    MACHINES["4 lanes, no fused multiply-add"] |= {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": ""}
    MACHINES["8 lanes"] |= {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": ""}

pytestmark = pytest.mark.skipif(DISABLED, reason="nothing is compiled: there are no vectors")


@pytest.fixture(scope="module")
def programs():
    """`kernel_results.py` for each machine. They compile everything again, all at the same time."""
    running = {}
    for name, forced in MACHINES.items():
        command = [sys.executable, str(HERE / "kernel_results.py")]
        environment = os.environ | forced
        running[name] = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    yield running
    for process in running.values():
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def ours():
    return hashes()


@pytest.mark.parametrize("name", MACHINES)
def test_other_machines(name, programs, ours):
    output, _ = programs[name].communicate(timeout=500)
    assert programs[name].returncode == 0, output
    theirs = json.loads(output.splitlines()[-1])
    assert theirs.keys() == ours.keys()
    if FMA and "no fused" not in name:
        assert [key for key in ours if theirs[key] != ours[key]] == []
