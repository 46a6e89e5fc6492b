"""Compiled kernels on machines as they are: other users, read-only folders, full disks, damaged files, changed sources."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from demucs_np.kernels import cache

pytestmark = pytest.mark.skipif(cache.numba.config.DISABLE_JIT, reason="nothing is compiled")
PACKAGE = Path(cache.__file__).parents[1]
NOBODY = 54321  # an id that no user has
ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
needs_root = pytest.mark.skipif(
    not ROOT or not shutil.which("setpriv") or not shutil.which("unshare"), reason="needs root, setpriv and unshare, to be another user"
)

# One small kernel; prints how often it was compiled, its result and the warnings.
RUN = """
import sys, warnings
import numpy as np
with warnings.catch_warnings(record=True) as notes:
    warnings.simplefilter("always")
    from demucs_np.kernels import signal
    from demucs_np.threads import use_threads
    out = np.empty((1, 5, 2), np.float32)
    with use_threads(1):
        signal.transpose(np.arange(10, dtype=np.float32).reshape(2, 5), out)
misses = sum(signal._transpose_tiles.stats.cache_misses.values())
print(misses, out[0, 4].tolist() == [4.0, 9.0], *sorted({str(note.message) for note in notes}), sep="|")
"""


def run(folder: Path, *before: str, **environment: str) -> list[str]:
    """[compilations, "True", notes ...] of a process of its own that imports the package below `folder`."""
    done = subprocess.run(
        [*before, sys.executable, "-c", RUN], cwd=folder, capture_output=True, text=True, check=False,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().split("|")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the package, without compiled files."""
    for parent in (tmp_path, *tmp_path.parents):  # other users are to read it; the folders of pytest are private
        if parent.owner() == tmp_path.owner() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o055)
    copy = tmp_path / "package"
    shutil.copytree(PACKAGE, copy / "demucs_np", ignore=shutil.ignore_patterns("__pycache__", "*.safetensors", "*.flac"))
    return copy


# The temporary folder, and with it the package that a test copied there, for this process alone.
READ_ONLY_TMP = ["mount --bind /tmp /tmp", "mount -o remount,ro,bind /tmp"]


def nobody(*mounts: str) -> list[str]:
    """Another user without a home; `mounts` are seen by this process alone."""
    user = f'exec setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups "$@"'
    return ["unshare", "-m", "sh", "-c", " && ".join([*mounts, user]), "sh"]


def test_kept_and_found(folder: Path) -> None:
    assert run(folder) == ["1", "True"]
    assert run(folder) == ["0", "True"]
    files = list((folder / "demucs_np" / "kernels" / "__pycache__").glob("signal*"))
    assert {file.suffix for file in files} == {".nbi", ".nbc"}
    assert run(folder, DEMUCS_NP_LANES="4") == ["1", "True"]  # other code, in files of its own
    assert run(folder, DEMUCS_NP_LANES="4") == ["0", "True"]
    assert run(folder) == ["0", "True"]


def test_a_change_in_another_file_counts(folder: Path) -> None:
    """Kernels inline each other: Numba itself would go on with the old code."""
    assert run(folder)[0] == "1"
    with open(folder / "demucs_np" / "kernels" / "sums.py", "a") as file:
        file.write("# changed\n")
    assert run(folder) == ["1", "True"]


def empty(content: bytes) -> bytes:
    return b""


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def turned(content: bytes) -> bytes:
    """One bit, in the middle: of code, it would be run."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    "damage", [lambda content: b"", cut, turned, lambda content: b"\x80" * 100], ids=["empty", "cut", "turned", "other"]
)
@pytest.mark.parametrize("ending", [".nbi", ".nbc"])
def test_damaged(folder: Path, ending: str, damage: Callable[[bytes], bytes]) -> None:
    kept = folder / "kept"
    run(folder, NUMBA_CACHE_DIR=str(kept))
    (file,) = kept.rglob(f"signal._transpose*{ending}")
    file.write_bytes(damage(file.read_bytes()))
    compiled, good, note = run(folder, NUMBA_CACHE_DIR=str(kept))
    assert (compiled, good) == ("1", "True")
    assert str(kept) in note
    assert "compiled kernels in it are damaged" in note
    assert run(folder, NUMBA_CACHE_DIR=str(kept)) == ["0", "True"]


@needs_root
def test_a_user_without_a_home(folder: Path) -> None:
    """A container that runs as a number, from an image that cannot be written."""
    own = nobody("mount -t tmpfs -o mode=1777 none /var/tmp", *READ_ONLY_TMP)
    compiled, good, note = run(folder, *own, TMPDIR="/var/tmp")
    assert (compiled, good) == ("1", "True")
    assert note.startswith(f"/var/tmp/demucs-np-kernels-{NOBODY}: compiled kernels are kept here")


@needs_root
def test_a_folder_of_somebody_else_is_not_used(folder: Path) -> None:
    """What lies in it would be run."""
    theirs = f"/var/tmp/demucs-np-kernels-{NOBODY}"
    own = nobody("mount -t tmpfs -o mode=1777 none /var/tmp", f"mkdir -m 777 {theirs}", *READ_ONLY_TMP)
    compiled, good, note = run(folder, *own, TMPDIR="/var/tmp")
    assert (compiled, good) == ("1", "True")
    assert "cannot be kept anywhere" in note


@needs_root
def test_nowhere_to_write(folder: Path) -> None:
    compiled, good, note = run(folder, *nobody("mount -t tmpfs -o ro none /var/tmp", *READ_ONLY_TMP))
    assert (compiled, good) == ("1", "True")
    assert "cannot be kept anywhere" in note


@needs_root
@pytest.mark.parametrize("given", [False, True], ids=["beside the sources", "NUMBA_CACHE_DIR"])
def test_an_image_with_kernels_in_it(folder: Path, given: bool) -> None:
    """Compiled when it was built, run by somebody who may only read it."""
    environment = {"NUMBA_CACHE_DIR": str(folder / "kept")} if given else {}
    assert run(folder, **environment)[0] == "1"
    assert run(folder, *nobody("mount -t tmpfs -o ro none /var/tmp", *READ_ONLY_TMP), **environment) == ["0", "True"]


@needs_root
def test_a_full_disk(folder: Path) -> None:
    kept = folder / "kept"
    kept.mkdir()
    full = ["unshare", "-m", "sh", "-c", f'mount -t tmpfs -o size=8k none {kept} && exec "$@"', "sh"]
    compiled, good, note = run(folder, *full, NUMBA_CACHE_DIR=str(kept))
    assert (compiled, good) == ("1", "True")
    assert "compiled kernels cannot be kept (no space left on device)" in note
    assert str(kept) in note


@needs_root
def test_a_command_without_a_home(folder: Path) -> None:
    done = subprocess.run(
        [*nobody(), sys.executable, "-m", "demucs_np", "models", "path", "htdemucs"],
        cwd=folder, capture_output=True, text=True, check=False,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "Error: there is no home folder, and so no place for models: set HF_HOME to a folder for them, or name a file\n"


# Separates sys.argv[1]; prints how many kernels were compiled and how many read.
SEPARATE = """
import sys
from demucs_np import Separator
from demucs_np.web.tape import every_kernel
Separator("demo").separate_audio_file(sys.argv[1])
print(*(sum(sum(getattr(k.stats, what).values()) for k in every_kernel().values()) for what in ("cache_misses", "cache_hits")))
"""


def test_after_warm_nothing_is_compiled(tmp_path: Path) -> None:
    """Not for a file at another rate than the model's either. Kernels that other tests compiled are only read here."""
    soundfile.write(tmp_path / "song.wav", np.random.default_rng(0).standard_normal((48000, 2)) / 10, 48000)
    warmed = subprocess.run([sys.executable, "-m", "demucs_np", "warm"], capture_output=True, text=True, check=True)
    assert "demo is ready" in warmed.stdout
    done = subprocess.run([sys.executable, "-c", SEPARATE, tmp_path / "song.wav"], capture_output=True, text=True, check=True)
    compiled, read = map(int, done.stdout.split())
    assert compiled == 0
    assert read > 10
