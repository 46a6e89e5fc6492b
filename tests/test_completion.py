"""What a real bash offers after a Tab."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BASH = shutil.which("bash")
pytestmark = pytest.mark.skipif(BASH is None or sys.platform == "win32", reason="bash is not installed")

ASK = """
eval "$(_DEMUCS_NP_COMPLETE=bash_source demucs-np)"
compopt() { printf 'files\n'; }  # it works only while readline completes
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
_demucs_np_completion demucs-np
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One with the command in it, and a model file of one's own."""
    folder = tmp_path_factory.mktemp("completion")
    command = folder / "demucs-np"
    run = "from demucs_np.commands.main import main; main(prog_name='demucs-np')"
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c {shlex.quote(run)} "$@"\n')
    command.chmod(0o755)
    models = folder / "models"
    models.mkdir()
    (models / "mine.safetensors").touch()
    return folder


def offered(folder: Path, *words: str) -> list[str]:
    assert BASH is not None
    root = str(Path(__file__).parents[1])
    done = subprocess.run(
        [BASH, "-c", ASK, "bash", "demucs-np", *words],
        cwd=folder, env={"PATH": f"{folder}:/usr/bin:/bin", "PYTHONPATH": root}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert not done.stderr
    return done.stdout.split("\n")[:-1]


FILES = "files"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["mod"], [FILES, "models"]),
        (["so"], [FILES, ""]),
        (["song.mp3", "so"], [FILES, ""]),
        (["song.mp3", "-n", "htdemucs_"], ["htdemucs_ft", "htdemucs_6s"]),
        (["-n", "./mo"], [FILES, ""]),
        (["--repo", "models", "-n", "m"], ["mine"]),
        (
            ["separate", "-n", "htdemucs_6s", "--stems", "guitar,"],
            [f"guitar,{stem}" for stem in ("drums", "bass", "other", "vocals", "piano")],
        ),
        (["song.mp3", "--two-stems", "v"], ["vocals"]),
        (["models", "info", "demo"], ["demo"]),
        (["seperate", "x"], [FILES, ""]),
        (["song.mp3", "--two"], ["--two-stems"]),
    ],
    ids=" ".join,
)
def test_bash(folder: Path, words: list[str], expected: list[str]) -> None:
    assert offered(folder, *words) == expected
