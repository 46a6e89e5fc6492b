"""What docs/studio.md says of the HTTP API: its lines of shell, run as they stand."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import soundfile
from studio_server import ROOT, make_song


def test_the_lines_of_curl(tmp_path: Path) -> None:
    if shutil.which("curl") is None or shutil.which("bash") is None:
        pytest.skip("needs bash and curl")
    found = re.search(r"```sh\n(.*?)```", (ROOT / "docs" / "studio.md").read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    make_song(tmp_path / "song.wav", 4)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "demucs-np").write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m demucs_np "$@"\n')
    (tmp_path / "bin" / "demucs-np").chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    script = "set -em\n" + found[1].replace("8765", port)
    ended = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    assert '"state":"done"' in ended.stdout.replace(" ", "")
    for name, frames in (("vocals.wav", 4 * 44100), ("second.wav", 44100), ("karaoke.mp3", None)):
        with soundfile.SoundFile(tmp_path / name) as file:
            assert frames in (None, file.frames)
    assert (tmp_path / "header.bin").read_bytes() == (tmp_path / "vocals.wav").read_bytes()[:100]
    assert zipfile.ZipFile(tmp_path / "stems.zip").namelist() == ["song - drums.flac", "song - bass.flac"]
    assert [path.name for path in (tmp_path / "songs").iterdir() if path.is_dir()] == []
