"""The real server in a process of its own, and songs for it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import soundfile

ROOT = Path(__file__).parents[2]


class Server:
    """`demucs-np serve FOLDER` at a free port."""

    def __init__(self, folder: Path, *options: str, env: dict[str, str] | None = None) -> None:
        self.folder = folder
        command = [sys.executable, "-m", "demucs_np", "serve", str(folder), "--port", "0", *options]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, env=os.environ | (env or {})
        )
        assert self.process.stdout is not None
        self.line = self.process.stdout.readline()
        address = re.search(r"(http://\S+:\d+)/", self.line)
        assert address, self.line + self.process.stdout.read()
        self.address = address[1]
        self.client = httpx.Client(base_url=self.address, timeout=120)
        wait_for(self._answers)

    def _answers(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return self.client.get("/api/health").status_code > 0
        return False

    def upload(self, content: bytes | Path, name: str = "song.wav", **query: str) -> dict[str, Any]:
        body = content.read_bytes() if isinstance(content, Path) else content
        answer = self.client.post("/api/tracks", params={"name": name, **query}, content=body)
        assert answer.status_code == 201, answer.text
        return answer.json()

    def wait(self, identity: str, *states: str) -> dict[str, Any]:
        """The track when it has reached one of the states; by default, when it is at rest."""
        track: dict[str, Any] = {}

        def reached() -> bool:
            track.update(self.client.get(f"/api/tracks/{identity}").json())
            return track["state"] in (states or ("done", "failed", "cancelled"))

        wait_for(reached, 600)  # the first one may compile
        return track

    def folders(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir() if path.is_dir())

    def kill(self) -> None:
        self.client.close()
        self.process.kill()
        self.process.communicate()

    def stop(self) -> str:
        """As Ctrl-C does; returns what the server said."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        said, _ = self.process.communicate(timeout=30)
        self.client.close()
        return said


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.03)


def make_song(path: Path, seconds: float, samplerate: int = 44100, channels: int = 2, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    clock = np.arange(round(seconds * samplerate)) / samplerate
    tones = [0.3 * np.sin(2 * np.pi * 110 * (k + 1) * clock) * (1 + np.sin(2 * np.pi * clock * (k + 1))) / 2 for k in range(channels)]
    soundfile.write(path, np.stack(tones, axis=1) + 0.05 * rng.uniform(-1, 1, (len(clock), channels)), samplerate)
    return path
