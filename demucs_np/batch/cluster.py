"""An existing Dask cluster, or one on this machine: the `[cluster]` extra."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import dask
import distributed
import yaml

from .. import __version__
from ..errors import DemucsError, UsageError
from ..threads import default_threads
from ..weights.resolve import Named, resolve
from .task import Task

PATIENCE = 10.0  # seconds for a scheduler to answer, and for its first worker to come
SHIPPED = "shipped"  # the model's name where it was sent to
INTERVAL = 0.001  # seconds between two messages of the client; with its own 10 ms a worker that has one task at a time mostly waits
SINCE = 1.0  # seconds that the number of workers counts as known
VERSION = "__import__('demucs_np').__version__"


@contextlib.contextmanager
def connected(address: str) -> Iterator[distributed.Client]:
    """A client of the scheduler at an address; "local": of a cluster with a worker for every core, which ends with the block.

    Raises DemucsError where nobody answers or no worker comes, UsageError for workers with another version of this package or without it.
    """
    if address != "local":
        _check_address(address)
    with _quiet(), contextlib.ExitStack() as stack:
        stack.enter_context(
            dask.config.set({"distributed.scheduler.allowed-failures": 1, "distributed.comm.timeouts.connect": f"{PATIENCE}s"})
        )
        try:
            if address == "local":
                address = stack.enter_context(
                    distributed.LocalCluster(
                        n_workers=default_threads(), threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=50
                    )
                )
            client = stack.enter_context(distributed.Client(address, timeout=PATIENCE, set_as_default=False))
        except (OSError, ValueError) as error:
            raise DemucsError(
                f"--dask {address}: no scheduler answers there ({str(error).splitlines()[0]}); start one with `dask scheduler`"
            ) from None
        try:
            client.wait_for_workers(1, timeout=PATIENCE)
        except TimeoutError:
            raise DemucsError(f"--dask {address}: the scheduler has no workers; start some with `dask worker ADDRESS`") from None
        _check_versions(client)
        client.scheduler_comm.interval = INTERVAL
        yield client


def _check_address(address: str) -> None:
    """Before a client is made of it, which would wait for itself at the end."""
    try:
        scheme, place = distributed.comm.addressing.parse_address(address)
        distributed.comm.registry.get_backend(scheme)
        distributed.comm.addressing.parse_host_port(place)
    except (ValueError, ImportError) as error:
        what = str(error).splitlines()[0]
        raise UsageError(f"--dask {address}: is not the address of a scheduler ({what}); write tcp://HOST:8786, or local") from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Within the block Dask logs nothing: what ends a run is told in one line, by us."""
    loggers = [logging.getLogger(name) for name in list(logging.Logger.manager.loggerDict) if name.partition(".")[0] == "distributed"]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _check_versions(client: distributed.Client) -> None:
    for worker, version in client.run(eval, VERSION, on_error="return").items():
        if version != __version__:
            has = f"demucs_np {version}" if isinstance(version, str) else f"no demucs_np ({version})"
            raise UsageError(f"the worker {worker} has {has}, not {__version__}; install the same version everywhere")


def executor_of(client: distributed.Client) -> tuple[Executor, Callable[[], int]]:
    """An executor, and how many tasks it can work at just now: as many as its workers have threads.

    More are not given to it, so that a task that waits is not blamed for the end of a worker.
    """

    asked, threads = -SINCE, 0

    def window() -> int:
        nonlocal asked, threads
        now = time.monotonic()
        if now - asked > SINCE:  # the scheduler's answer takes milliseconds, and grows with the number of workers
            asked, threads = now, sum(client.nthreads().values())
        return threads

    return client.get_executor(pure=False), window


def ship(client: distributed.Client, tasks: list[Task]) -> list[Task]:
    """Send the models of the tasks to all workers, also to those that come later; the tasks that use them."""
    sent: dict[tuple[str, str | None], str] = {}
    for model in {(task.job.model, task.job.repo): None for task in tasks}:
        plugin = ShippedWeights(_files_of(resolve(model[0], repo=model[1])))
        client.register_plugin(plugin, name=plugin.folder)
        sent[model] = plugin.folder
    return [dataclasses.replace(task, shipped=sent[task.job.model, task.job.repo]) for task in tasks]


def _files_of(named: Named) -> dict[str, bytes]:
    """A folder with the model as `weights.repo` reads it: its files, and the bag that they are."""
    names = {name: f"member{number}" for number, name in enumerate(named.distinct)}
    bag: dict[str, Any] = {"models": [names[member.name] for member in named.members]}
    if named.weights is not None:
        bag["weights"] = [list(row) for row in named.weights]
    if named.segment is not None:
        bag["segment"] = float(named.segment)
    files = {f"{SHIPPED}.yaml": yaml.safe_dump(bag).encode()}
    for name, member in named.distinct.items():
        path = member.get(lambda text: None)
        files[names[name] + path.suffix] = path.read_bytes()
    return files


class ShippedWeights(distributed.WorkerPlugin):
    """Writes files into a folder of every worker; its name follows from what is in them."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        digest = hashlib.sha256()
        for name in sorted(files):
            digest.update(name.encode() + b"\0" + files[name])
        self.folder = f"demucs-np-{digest.hexdigest()[:24]}"

    def setup(self, worker: Any) -> None:
        folder = Path(worker.local_directory) / self.folder
        folder.mkdir(exist_ok=True)
        for name, data in self.files.items():
            (folder / name).write_bytes(data)


def shipped_folder(name: str) -> str:
    """On a worker: where the weights are that were sent to it."""
    return str(Path(distributed.get_worker().local_directory) / name)
