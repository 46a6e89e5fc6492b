"""Songs, a browser, and a static site for the tests of the page."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile

from demucs_np.demo.song import DEMO_FILE
from demucs_np.web import serving
from demucs_np.web.site import build

AXE = "axe-core@4.11.0"
RATE, SECONDS = 44100, 12


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an excerpt of the demo song, one in mono at 48 kHz, and a file that is no sound."""
    folder = tmp_path_factory.mktemp("songs")
    samples, _ = soundfile.read(DEMO_FILE, frames=SECONDS * RATE)
    soundfile.write(folder / "Sunday in June.wav", samples, RATE)
    soundfile.write(folder / "mono.flac", samples[: 3 * RATE, 0], 48000)
    (folder / "talk.m4a").write_text("these are words\n" * 10)
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from visiting import CHROMIUM, SOUND, sync_api

    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=SOUND)
        yield running
        running.close()


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The script of axe-core."""
    folder, npm = tmp_path_factory.mktemp("axe"), shutil.which("npm")
    if npm is None or subprocess.run([npm, "pack", "--silent", AXE], cwd=folder, capture_output=True, check=False).returncode:
        pytest.skip(f"needs {AXE}, from npm")
    with tarfile.open(next(folder.glob("*.tgz"))) as archive:
        content = archive.extractfile("package/axe.min.js")
        assert content is not None
        return content.read().decode()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a static site with the demo model."""
    folder = tmp_path_factory.mktemp("site")
    build(folder)
    with serving.server(folder, 0) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}/"
        running.shutdown()
