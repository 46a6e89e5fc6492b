"""Kernels compiled ahead, by two processes: the same sound, one complete cache, and no process left behind, whatever is killed."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from test_cache import READ_ONLY_TMP, folder, needs_root, nobody, run  # noqa: F401 - a fixture

from demucs_np.kernels import ahead
from demucs_np.kernels._jit import DISABLED
from demucs_np.threads import default_threads

pytestmark = pytest.mark.skipif(DISABLED, reason="nothing is compiled")
needs_two_cores = pytest.mark.skipif(default_threads() < 2, reason="one core: there is no helper")
needs_proc = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="no /proc, which lists a process's children")
SEPARATE = [sys.executable, "-m", "demucs_np", "separate", "-n", "demo", "--shifts", "0"]

# Runs the golden models and the demo; prints for each which kernels ran, and all signatures that were compiled or read.
RUN_MODELS = """
import importlib, json, pkgutil, sys
import numpy as np
from demucs_np import kernels, load_model
from demucs_np.kernels import ahead, cache, tiles
from demucs_np.parity.record import load_golden
from demucs_np.parity.seeded import seeded_model
run, used = tiles.Pool.run, set()
def noting(self, kernel, *args):
    used.add(cache.name_of(kernel.py_func))
    run(self, kernel, *args)
tiles.Pool.run = noting
ran = {}
for path in sys.argv[1:]:
    golden = load_golden(path)
    model = seeded_model(golden, "numba")
    model(golden.mix)
    ran[type(model).__name__] = sorted(used)
    used.clear()
model = load_model("demo")
model.models[0](np.zeros((1, 2, 88200), np.float32))
ran["HTDemucs"] = sorted(used)
names = [f"{module.name}.{name}" for module in pkgutil.iter_modules(kernels.__path__)
         for name, value in vars(importlib.import_module(f"demucs_np.kernels.{module.name}")).items()
         if name.endswith("_tiles") and value.__module__.endswith("." + module.name)]
other = [name for name in ahead.KERNELS for kernel, types in [ahead.found(name)] if set(kernel.overloads) - {types}]
print(json.dumps([ran, names, other]))
"""


def test_the_tables_are_what_models_run() -> None:
    """Each kernel has the one signature it is compiled ahead for; the published models of a class need no others, and all of these."""
    from demucs_np.models import needs

    goldens = [Path(__file__).parent / "golden" / f"{name}_published.safetensors" for name in ("hd", "td")]
    done = subprocess.run([sys.executable, "-c", RUN_MODELS, *goldens], capture_output=True, text=True, check=True)
    ran, names, other = json.loads(done.stdout)
    for klass, used in ran.items():
        assert {*used, "packing._widen_weights_tiles"} == set(needs.KERNELS[klass])  # published files are of float16, goldens of float32
    assert set(ran) == set(needs.KERNELS)
    assert set(ahead.KERNELS) == set(names)
    assert other == []


@pytest.fixture
def song(tmp_path: Path) -> Path:
    soundfile.write(tmp_path / "song.wav", np.random.default_rng(0).standard_normal((44100, 2)) / 10, 44100)
    return tmp_path / "song.wav"


def digests(out: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(out.rglob("*.wav"))}


def children(pid: int) -> list[int]:
    try:
        return [int(child) for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()]
    except OSError:  # it has ended
        return []


def until(what: object) -> None:
    """Wait for what `what()` is about."""
    end = time.monotonic() + 60
    while not what():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.02)


def gone(pid: int) -> bool:
    """Whether a process has ended; what nobody has asked about yet, a zombie, has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_two_commands_at_once_on_an_empty_cache(tmp_path: Path, song: Path) -> None:
    """The files of a run with kernels that one process compiled, and one cache in which nothing is missing."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "kept")}
    subprocess.run([*SEPARATE, song, "-o", tmp_path / "0"], check=True, capture_output=True)
    commands = [
        subprocess.Popen([*SEPARATE, song, "-o", tmp_path / str(i)], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        for i in (1, 2)
    ]
    for command in commands:
        assert command.communicate()[1] == b""
        assert command.returncode == 0
    assert len(digests(tmp_path / "0")) == 4
    assert digests(tmp_path / "0") == digests(tmp_path / "1") == digests(tmp_path / "2")
    kept = [path for path in (tmp_path / "kept").rglob("*") if path.is_file()]
    assert {path.suffix for path in kept} == {".nbi", ".nbc"}
    count = "import sys; from demucs_np.kernels import ahead; from demucs_np.models import needs; needs.expect('HTDemucs'); "
    count += "print(ahead.plan.progress())"
    done = subprocess.run([sys.executable, "-c", count], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "(0, 0)\n"


# Three small kernels, asked for when the helper has been killed or has done what it can; prints how many were compiled for the caller.
SMALL = """
import os, signal, sys, time
import numpy as np
from demucs_np.kernels import ahead, signal as small
from demucs_np.threads import use_threads
names = ("signal._pad_tiles", "signal._copy_tiles", "signal._transpose_tiles")
ahead.expect(names)
helper = ahead.plan._helper
if sys.argv[1] == "killed":
    helper.kill()
    helper.wait()
elif helper:
    while ahead.plan._helper:
        time.sleep(0.01)
x, out = np.arange(10, dtype=np.float32).reshape(2, 5), np.empty((2, 7), np.float32)
with use_threads(1):
    small.pad(x, 1, 1, out)
    small.copy(x, out[:, :5].copy())
    small.transpose(x, np.empty((1, 5, 2), np.float32))
compiled = sum(sum(ahead.found(name)[0].stats.cache_misses.values()) for name in names)
print(bool(helper), "-" if sys.argv[1] == "killed" else compiled, out[1].tolist() == [0, 5, 6, 7, 8, 9, 0])
"""


@needs_two_cores
@pytest.mark.parametrize(("fate", "here"), [("killed", "-"), ("done", "0")])
def test_the_helper(tmp_path: Path, fate: str, here: str) -> None:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", SMALL, fate], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"True {here} True\n"
    assert done.stderr == ""
    assert len(list(tmp_path.rglob("*.nbc"))) == 3


@needs_root
def test_no_helper_where_nothing_can_be_kept(folder: Path) -> None:  # noqa: F811
    user = nobody("mount -t tmpfs -o ro none /var/tmp", *READ_ONLY_TMP)
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [*user, sys.executable, "-W", "ignore", "-c", SMALL, "done"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("False 3 True\n", "")


@needs_two_cores
@needs_proc
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_helper_outlives_the_command(tmp_path: Path, song: Path, how: signal.Signals) -> None:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "kept")}
    command = subprocess.Popen([*SEPARATE, song, "-o", tmp_path / "out"], env=environment, stderr=subprocess.PIPE)
    until(lambda: children(command.pid))
    (helper,) = children(command.pid)
    until(lambda: any((tmp_path / "kept").rglob("*.nbc")))  # both are at work
    command.send_signal(how)
    _, told = command.communicate(timeout=60)
    assert command.returncode == (-9 if how == signal.SIGKILL else 128 + how)
    assert told == (b"" if how == signal.SIGKILL else b"Interrupted.\n")
    until(lambda: gone(helper))
    assert not list(tmp_path.rglob("*.wav"))[1:]  # the song alone


# Ctrl-C in the moment when this thread has LLVM's lock, which Python's `with` does not know of yet.
WORST = """
import os, signal, sys, threading
import numpy as np
from llvmlite.binding import ffi
from demucs_np.kernels import ahead, signal as kernels
came = []
def locked():
    if threading.current_thread() is threading.main_thread() and not came:
        came.append(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
ahead.expect(("signal._copy_tiles", "conv._conv_tiles"))
ffi.register_lock_callback(locked, lambda: None)
try:
    kernels.copy(np.ones((2, 5), np.float32), np.zeros((2, 5), np.float32))
except KeyboardInterrupt:
    print(len(came), signal.getsignal(signal.SIGINT) is signal.default_int_handler)
ahead.plan._thread.join(40)
print(ahead.plan._thread.is_alive(), flush=True)
os._exit(0)
"""


@needs_two_cores
def test_an_interruption_leaves_no_lock_locked(tmp_path: Path) -> None:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", WORST], env=environment, capture_output=True, text=True, check=True, timeout=60)
    assert (done.stdout, done.stderr) == ("1 True\nFalse\n", "")


# Asks for kernels and forks while a thread is at work on them; both processes then need one.
FORK = """
import os, sys
import numpy as np
from demucs_np.kernels import ahead, signal
from demucs_np.threads import use_threads
ahead.expect(("conv._conv_tiles", "signal._copy_tiles"))
child = os.fork()
out = np.zeros((2, 5), np.float32)
with use_threads(1):
    signal.copy(np.ones((2, 5), np.float32), out)
if not child:
    os._exit(int(out.min() != 1))
print(bool(ahead.plan._helper), out.min(), os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@needs_two_cores
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_fork_while_kernels_are_compiled(tmp_path: Path) -> None:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.endswith(" 1.0 0\n")
    assert done.stderr == ""


def test_an_end_while_kernels_are_compiled(tmp_path: Path) -> None:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    code = "from demucs_np.models import needs; needs.expect('HTDemucs')"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=60)
    assert (done.stdout, done.stderr) == ("", "")


def test_what_the_helper_runs() -> None:
    """It does without Numba, which takes time to import, and says so when it can make nothing of what it is given."""
    from demucs_np.kernels import _jit

    code = ahead.HELPER.replace("serve()", "print('numba' in sys.modules, flush=True); serve()")
    lines = [json.dumps(_jit.settings()), json.dumps(["nonsense"]), json.dumps(["define void @f() { ret void }"])]
    command = [sys.executable, "-I", "-c", code, *sys.path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as helper:
        assert helper.stdin
        assert helper.stdout
        helper.stdin.write("".join(f"{line}\n" for line in lines).encode())
        helper.stdin.flush()
        assert helper.stdout.readline() == b"False\n"
        assert helper.stdout.readline() == b"0\n"
        size = int(helper.stdout.readline())
        assert len(helper.stdout.read(size)) == size > 0
        helper.stdin.close()
        assert helper.wait(60) == 0


def test_who_gets_no_helper(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interpreter inside another program, whose executable is that program, and processes of which there are several."""
    monkeypatch.setattr(ahead, "default_threads", lambda: 2)
    assert ahead.may_help()
    for executable in ("", "/opt/studio/studio", "C:\\host.exe"):
        monkeypatch.setattr(sys, "executable", executable)
        assert not ahead.may_help()
    monkeypatch.undo()
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert not ahead.may_help()
    import multiprocessing

    with multiprocessing.get_context("spawn").Pool(1) as pool:
        monkeypatch.undo()
        assert not pool.apply(ahead.may_help)
