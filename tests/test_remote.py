"""The batch on an object store: moto's S3 server on the loopback address, reached through s3fs."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from files import song
from test_batch import tree

missing = [name for name in ("fsspec", "s3fs", "moto", "flask") if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(missing), reason=f"{' and '.join(missing)} not installed")
COMMAND = [sys.executable, "-m", "demucs_np", "batch"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    log = open(tmp_path_factory.mktemp("moto") / "log", "wb")  # noqa: SIM115
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        url = f"http://127.0.0.1:{port}"
        for _ in range(300):
            try:
                urllib.request.urlopen(url).close()
                break
            except OSError:
                time.sleep(0.1)
        yield url
        process.kill()


@pytest.fixture
def environment(server: str, tmp_path: Path) -> dict[str, str]:
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    return {**os.environ, **keys, "AWS_ENDPOINT_URL": server, "HOME": str(tmp_path / "home"), "AWS_EC2_METADATA_DISABLED": "true"}


@pytest.fixture
def store(server: str, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Its file system, with an empty bucket that has three tracks."""
    import s3fs

    files = s3fs.S3FileSystem(key="test", secret="test", endpoint_url=server, skip_instance_cache=True, use_listings_cache=False)
    if files.exists("music"):
        files.rm("music", recursive=True)
    files.mkdir("music")
    for number, name in enumerate(["in/a/one.wav", "in/two.flac", "in/.hidden.wav", "in/notes.txt"]):
        path = tmp_path / Path(name).name
        song(path, samples=44100, samplerate=44100, seed=number) if path.suffix != ".txt" else path.write_text("two.flac\na/one.wav\n")
        files.put_file(str(path), f"music/{name}")
    return files


def batch(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *words, "-n", "demo", "--flac"], capture_output=True, text=True, check=False, env=environment)


NAMES = [f"demo/{track}/{stem}.flac" for track in ("a/one", "two") for stem in ("bass", "drums", "other", "vocals")]


def stored(files: Any, below: str = "music/out") -> list[str]:
    files.invalidate_cache()
    return sorted(path[len(below) + 1 :] for path in files.find(below))


def test_from_a_store_to_a_store(store: Any, environment: dict[str, str], tmp_path: Path) -> None:
    done = batch(environment, "s3://music/in", "-o", "s3://music/out", "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert "2 tracks done" in done.stderr
    assert stored(store) == [*NAMES[:8], "demucs-np.jsonl"]
    here = batch(environment, "s3://music/in/notes.txt", "-o", str(tmp_path / "here"))
    assert here.returncode == 0, here.stderr
    assert tree(tmp_path / "here") == {name: store.cat_file(f"music/out/{name}") for name in NAMES}


def test_what_is_done_is_not_done_twice(store: Any, environment: dict[str, str]) -> None:
    """Nor after a run that was killed, whose journal is still in pieces."""
    for part in ("1/2", "2/2"):
        done = batch(environment, "s3://music/in", "-o", "s3://music/out", "--shard", part)
        assert done.returncode == 0, done.stderr
    for journal in [name for name in stored(store) if name.endswith(".jsonl")]:
        lines = store.cat_file(f"music/out/{journal}").splitlines(keepends=True)
        store.rm(f"music/out/{journal}")
        for number, line in enumerate(lines):
            store.pipe_file(f"music/out/demucs-np.parts/{number}-{journal}.json", line)
    store.rm("music/out/demo/two/bass.flac")
    done = batch(environment, "s3://music/in", "-o", "s3://music/out")
    assert done.returncode == 0, done.stderr
    assert "1 track done" in done.stderr
    assert "1 were done before" in done.stderr
    assert stored(store) == [*NAMES, "demucs-np.jsonl"]


def test_a_store_with_folders(store: Any, environment: dict[str, str], tmp_path: Path) -> None:
    """Unlike objects, whose names need no folder to be there."""
    (tmp_path / "in").mkdir()
    song(tmp_path / "in" / "one.wav", samples=44100, samplerate=44100)
    out = (tmp_path / "out").as_uri()
    done = batch(environment, str(tmp_path / "in"), "-o", out)
    assert done.returncode == 0, done.stderr
    assert sorted(tree(tmp_path / "out")) == [f"demo/one/{stem}.flac" for stem in ("bass", "drums", "other", "vocals")]
    again = batch(environment, str(tmp_path / "in"), "-o", out)
    assert "1 were done before" in again.stderr, again.stderr
    planned = batch(environment, (tmp_path / "in").as_uri(), "-o", str(tmp_path / "else"), "--dry-run")
    assert planned.stdout == "1 track to do, 0 done, 0 failed before; how long they are is not known before they are read\n"


def test_bad_input_is_one_line(store: Any, environment: dict[str, str]) -> None:
    keyless = {
        name: value for name, value in environment.items() if not name.startswith("AWS_") or name.endswith(("URL", "REGION", "DISABLED"))
    }
    nobody = {**environment, "AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"}
    for settings, source, expected in (
        (environment, "s3://music/nothing", "Error: s3://music/nothing: there is nothing"),
        (environment, "s3://nobucket/in", "Error: s3://nobucket/in: "),
        (keyless, "s3://music/in", "Error: s3://music/in: no credentials that open it; set them as the store's own tools want them"),
        (nobody, "s3://music/in", "Error: s3://music/in: the store answers with EndpointConnectionError"),
        (environment, "http://127.0.0.1:9/a.wav", "Error: http://127.0.0.1:9/a.wav: cannot be reached ("),
        (environment, "what://music/in", "Error: what://music/in: fsspec has no file system for what://"),
    ):
        done = batch(settings, source, "-o", "s3://music/out" if settings is environment else "/tmp/nowhere-else")
        assert done.returncode in (1, 2)
        (line,) = done.stderr.strip().splitlines()
        assert line.startswith(expected), line
    assert stored(store) == []
