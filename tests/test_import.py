"""What an import brings with it: no machine-learning runtime, and nothing compiled."""

import json
import subprocess
import sys

from demucs_np.kernels._jit import DISABLED

FOREIGN = {"torch", "torchaudio", "onnxruntime", "scipy", "librosa", "matplotlib", "huggingface_hub"}

EVERYTHING = """
import importlib, json, pkgutil, sys
import demucs_np
for name in demucs_np.__all__:
    getattr(demucs_np, name)
from demucs_np import kernels
from numba.core.dispatcher import Dispatcher
found = []
for info in pkgutil.iter_modules(kernels.__path__, "demucs_np.kernels."):
    module = importlib.import_module(info.name)
    found += [value for value in vars(module).values() if isinstance(value, Dispatcher)]
compiled = sorted({value.__name__ for value in found if value.signatures})
print(json.dumps([sorted({name.partition(".")[0] for name in sys.modules}), len(found), compiled]))
"""


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_the_package_alone_imports_no_library() -> None:
    modules = json.loads(run("import sys, json, demucs_np; print(json.dumps(sorted(sys.modules)))"))
    assert {name.partition(".")[0] for name in modules} & (FOREIGN | {"numpy", "numba", "llvmlite", "soundfile"}) == set()
    assert [name for name in modules if name.startswith("demucs_np")] == ["demucs_np", "demucs_np.errors"]


def test_all_that_runs_a_model_imports_numpy_and_numba_and_compiles_nothing() -> None:
    modules, kernels, compiled = json.loads(run(EVERYTHING))
    assert {"numpy", "numba"} <= set(modules)
    assert FOREIGN & set(modules) == set()
    assert kernels > 20 or DISABLED
    assert compiled == []
