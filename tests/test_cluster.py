"""The batch on a real Dask cluster: `dask scheduler` and `dask worker` processes on the loopback address."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from files import song
from test_batch import linux, records, run, tree

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "demucs_np" / "weights" / "demo.safetensors"
COMMAND = [sys.executable, "-m", "demucs_np", "batch"]
DASK = "import sys; sys.path.insert(0, sys.argv.pop(1)); from dask.cli import run_cli; run_cli()"  # the package of a folder comes first
missing = [name for name in ("dask", "distributed") if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(missing), reason=f"{' and '.join(missing)} not installed")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def running(folder: Path, *words: str, path: Path = ROOT, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """`dask ...` in a folder of its own, ended with the block."""
    folder.mkdir(exist_ok=True)
    environment = {**os.environ, "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1", **environment}
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", DASK, str(path), *words], cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextlib.contextmanager
def scheduler(folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    address = f"tcp://127.0.0.1:{free_port()}"
    words = ["scheduler", "--host", "127.0.0.1", "--port", address.rpartition(":")[2], "--no-dashboard", "--no-jupyter"]
    with running(folder, *words) as process:
        yield address, process


def worker(folder: Path, address: str, path: Path = ROOT, **environment: str) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
    words = ["worker", address, "--nthreads", "1", "--no-dashboard", "--no-nanny", "--local-directory", str(folder), "--host", "127.0.0.1"]
    return running(folder, *words, path=path, **environment)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """Four tracks, and what one process makes of them."""
    folder = tmp_path_factory.mktemp("library")
    for number in range(4):
        song(folder / f"{number}.wav", samples=44100 * 2, samplerate=44100, seed=number)
    assert run(f"{folder}/*.wav", "-o", str(folder / "expected"), "-n", "demo").exit_code == 0
    return folder, tree(folder / "expected")


def batch(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *words], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address of a scheduler with two workers, and the folder with theirs."""
    folder = tmp_path_factory.mktemp("cluster")
    with scheduler(folder / "s") as (address, _), worker(folder / "a", address), worker(folder / "b", address):
        yield address, folder


def test_two_workers_write_what_one_process_does(cluster: tuple[str, Path], library: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    folder, expected = library
    done = batch(f"{folder}/*.wav", "-o", str(tmp_path), "-n", "demo", "--dask", cluster[0])
    assert done.returncode == 0, done.stderr
    assert "4 tracks done" in done.stderr
    assert tree(tmp_path) == expected


def test_a_cluster_of_this_machine(library: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    folder, expected = library
    done = batch(f"{folder}/*.wav", "-o", str(tmp_path), "-n", "demo", "--dask", "local")
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1].startswith("4 tracks done"), "Dask says nothing of its own"
    assert tree(tmp_path) == expected


def test_weights_are_sent_to_workers_that_lack_them(
    cluster: tuple[str, Path], library: tuple[Path, dict[str, bytes]], tmp_path: Path
) -> None:
    """A bag in a folder: what the workers get is not where the client has it."""
    folder, expected = library
    models = tmp_path / "models"
    models.mkdir()
    shutil.copy(DEMO, models / "mine.safetensors")
    (models / "demo.yaml").write_text("models: [mine, mine]\nweights: [[1, 1, 1, 1], [3, 1, 1, 1]]\n")
    args = (f"{folder}/0.wav", "-o", str(tmp_path / "out"), "-n", "demo", "--dask", cluster[0], "--ship-weights")
    done = batch(*args, "--repo", str(models))
    assert done.returncode == 0, done.stderr
    assert sorted(tree(tmp_path / "out")) == [name for name in sorted(expected) if name.startswith("demo/0/")]
    assert len(list(cluster[1].rglob("demucs-np-*/member0.safetensors"))) == 2, "each worker has it"


@linux
def test_a_worker_that_is_killed_loses_nothing(library: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    folder, expected = library
    with scheduler(tmp_path / "s") as (address, _), worker(tmp_path / "a", address) as victim, worker(tmp_path / "b", address):
        command = [*COMMAND, f"{folder}/*.wav", "-o", str(tmp_path / "out"), "-n", "demo", "--dask", address]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            assert "[1/4]" in process.stderr.readline()
            victim.kill()
            rest = process.stderr.read()
        assert process.returncode == 0, rest
    assert tree(tmp_path / "out") == expected
    assert len(records(tmp_path / "out")) == 4


@linux
def test_a_track_that_costs_two_workers_their_lives_has_failed(library: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    from distributed import Client

    (tmp_path / "in").mkdir()
    song(tmp_path / "in" / "0.wav", samples=44100 * 120, samplerate=44100)  # long enough to be in work when its worker is killed
    shutil.copy(library[0] / "1.wav", tmp_path / "in")
    seen: set[str] = set()

    def in_work(client: Client) -> None:
        """Wait until a worker that was not there before has a task."""
        until = time.monotonic() + 60
        while not (found := {address for address, tasks in client.processing().items() if tasks} - seen) and time.monotonic() < until:
            time.sleep(0.1)
        assert found
        seen.update(found)

    with scheduler(tmp_path / "s") as (address, _), Client(address) as client, contextlib.ExitStack() as first:
        first.enter_context(worker(tmp_path / "a", address))
        command = [*COMMAND, str(tmp_path / "in"), "-o", str(tmp_path / "out"), "-n", "demo", "--dask", address]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            in_work(client)
            first.close()  # kills it
            with worker(tmp_path / "b", address):
                in_work(client)
            with worker(tmp_path / "c", address):
                assert process.stderr is not None
                said = process.stderr.read()
    assert process.returncode == 1, said
    assert "0.wav: the workers that had it were lost (killed, or out of memory); it is not tried again" in said
    assert {record["track"]: record["status"] for record in records(tmp_path / "out")} == {"0.wav": "failed", "1.wav": "done"}


def test_a_scheduler_that_is_lost_ends_the_run(library: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    folder, _ = library
    with scheduler(tmp_path / "s") as (address, process), worker(tmp_path / "a", address):
        command = [*COMMAND, f"{folder}/*.wav", "-o", str(tmp_path / "out"), "-n", "demo", "--dask", address]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as client:
            assert client.stderr is not None
            assert "[1/4]" in client.stderr.readline()
            process.kill()
            rest = client.stderr.read()
        assert client.returncode == 1
        assert "Error: the executor was shut down before all was done; run it again" in rest
        assert "Traceback" not in rest
    assert all(record["status"] == "done" for record in records(tmp_path / "out"))


def test_an_address_where_nobody_answers(library: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    began = time.monotonic()
    done = batch(f"{library[0]}/*.wav", "-o", str(tmp_path), "-n", "demo", "--dask", address)
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith(f"Error: --dask {address}: no scheduler answers there")
    assert time.monotonic() - began < 60


@pytest.mark.parametrize("address", ["foo", "foo://x:1", "tcp://127.0.0.1", "tcp://127.0.0.1:x"])
def test_what_is_no_address_of_a_scheduler(library: tuple[Path, dict[str, bytes]], tmp_path: Path, address: str) -> None:
    done = batch(str(library[0]), "-o", str(tmp_path / "out"), "-n", "demo", "--dask", address)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith(f"Error: --dask {address}: is not the address of a scheduler (")


def test_other_versions_on_the_workers_are_named(library: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(ROOT / "demucs_np", other / "demucs_np", ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    init = other / "demucs_np" / "__init__.py"
    init.write_text(re.sub(r'__version__ = ".*"', '__version__ = "0.0.1"', init.read_text()))
    with scheduler(tmp_path / "s") as (address, _), worker(tmp_path / "a", address, path=other):
        done = batch(f"{library[0]}/*.wav", "-o", str(tmp_path / "out"), "-n", "demo", "--dask", address)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert re.fullmatch(r"Error: the worker tcp://127.0.0.1:\d+ has demucs_np 0.0.1, not .*; install the same version everywhere", line)
