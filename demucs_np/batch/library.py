"""A library as a plan: which tracks are to be done, which are done already, and the run that does the rest."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from ..errors import AudioError, DemucsError, UsageError
from ..jobs import Claims, Job, prepare, spread
from ..separation.apply import Progress
from ..steps import Steps, overlapped, whole
from ..weights.files import sha256
from ..weights.resolve import resolve
from . import remote
from .journal import Journal, Record, Records
from .sources import Source
from .task import Outcome, Task, lost, record_of, task_steps

FULL = tuple(os.strerror(number).lower() for number in (errno.ENOSPC, errno.EDQUOT))
JobOf = Callable[[Source], Job]  # from a track and its options to a job whose folder is the model's below the folder of results


@dataclass
class Plan:
    """What a run is going to do."""

    tasks: list[Task] = field(default_factory=list)  # of this shard, in order
    done: list[Record] = field(default_factory=list)  # what the journal says of those that need not be done
    failed: list[Record] = field(default_factory=list)  # those that failed before and are not tried again

    @property
    def size(self) -> int:
        """Of the tracks to do, bytes."""
        return sum(task.size for task in self.tasks)


def in_shard(relative: str, shard: tuple[int, int] | None) -> bool:
    """Whether a track is shard I's of N (I from 1): by a hash of its place in the tree, the same on every machine."""
    if shard is None:
        return True
    return int.from_bytes(hashlib.sha256(relative.encode("utf-8", "surrogateescape")).digest()[:8], "big") % shard[1] == shard[0] - 1


def make_plan(
    tracks: Iterable[Source],
    job_of: JobOf,
    out: str,
    known: Records,
    *,
    shard: tuple[int, int] | None = None,
    force: bool = False,
    retry_failed: bool = False,
) -> Plan:
    """Compare the tracks with the journal's records.

    A track is done when its files have their sizes and its record is of the same input (size and time, or a store's checksum), weights
    and options. Raises UsageError for two tracks that would write one file, also where they are in different shards, and for options that
    do not fit the model.
    """
    plan, claims, settings = Plan(), Claims(), Settings()
    planned: dict[str, Job] = {}
    for source in tracks:
        with _row(source.origin):
            job = job_of(source)
            job = dataclasses.replace(job, folder=_join(job.folder, str(PurePosixPath(source.relative).parent)))
            key = _key(job, out)
        claims.check(_placed(job))
        claims.add(_placed(job))
        if planned.setdefault(key, job) is not job:
            if planned[key] == job:  # named twice
                continue
            raise UsageError(f"{source.origin or job.track}: {job.track} is there twice, with other options but the same files; keep one")
        if not in_shard(source.relative, shard):
            continue
        with _row(source.origin):
            digest = settings.digest(job)
        task = Task(job, key, source.relative, source.stamp, source.size, digest, out)
        record = known.get(key)
        if force or record is None or (record.get("stamp"), record.get("settings")) != (task.stamp, task.settings):
            plan.tasks.append(task)
        elif record["status"] == "failed":
            plan.tasks.append(task) if retry_failed else plan.failed.append(record)
        elif complete(out, record):
            plan.done.append(record)
        else:
            plan.tasks.append(task)
    return plan


@contextlib.contextmanager
def _row(origin: str) -> Iterator[None]:
    """Errors within the block say which row of a manifest they are of."""
    try:
        yield
    except DemucsError as error:
        if not origin or str(error).startswith(f"{origin}:"):
            raise
        raise UsageError(f"{origin}: {error}") from None


def _join(folder: str, below: str) -> str:
    if below == ".":
        return folder
    return f"{folder}/{below}" if remote.is_address(folder) else os.path.join(folder, below)


def _placed(job: Job) -> Job:
    """A job of this machine that stands for one elsewhere, to compare names."""
    return dataclasses.replace(job, track=job.track.replace("://", "/"), folder=job.folder.replace("://", "/"))


def _key(job: Job, out: str) -> str:
    return _placed(job).key().relative_to(Path(out.replace("://", "/")).absolute()).as_posix()


def complete(out: str, record: Record) -> bool:
    """Whether all files of a record are there with their sizes."""
    files = record.get("files", {}).values()
    if remote.is_address(out):
        system, root = remote.system(out)
        with remote.told(out):
            return bool(files) and all(
                system.exists(path := f"{root.rstrip('/')}/{file['path']}") and system.size(path) == file["size"] for file in files
            )
    try:
        return bool(files) and all(os.stat(os.path.join(out, file["path"])).st_size == file["size"] for file in files)
    except OSError:
        return False


class Settings:
    """Digests of all that decides the bits of the results but the track: weights and options."""

    def __init__(self) -> None:
        self._weights: dict[tuple[str, str | None], str] = {}
        self._digests: dict[Job, str] = {}

    def digest(self, job: Job) -> str:
        """Loads and checks the model when it is first named. Raises as `jobs.prepare`."""
        kind = dataclasses.replace(job, track="track.wav", folder="out", threads=None, memory=None)
        if kind not in self._digests:
            prepare(kind)
            options = dataclasses.asdict(dataclasses.replace(kind, model="", repo=None))
            del options["memory"]  # what a machine has free is no reason to do a library again
            said = json.dumps([self._weights_of(job), options], sort_keys=True)
            self._digests[kind] = hashlib.sha256(said.encode()).hexdigest()[:24]
        return self._digests[kind]

    def _weights_of(self, job: Job) -> str:
        name = job.model, job.repo
        if name not in self._weights:
            named = resolve(job.model, repo=job.repo)
            hashes = {member.name: sha256(member.get(lambda text: None)) for member in named.distinct.values()}
            self._weights[name] = json.dumps(
                [[hashes[member.name] for member in named.members], named.weights, named.segment and float(named.segment)]
            )
        return self._weights[name]


Work = Callable[[Task, Progress | None], Steps[Outcome]]


def run(
    plan: Plan,
    journal: Journal,
    executor: Executor | None,
    window: int | Callable[[], int],
    work: Work = task_steps,
    progress: Progress | None = None,
) -> Iterator[tuple[Task, Outcome]]:
    """Do the plan's tasks, on an executor or (None) here, see `steps.overlapped`; each is in the journal when it is given out. `progress`
    hears of those that are done here.

    Raises AudioError where a disk is full: what could not be written is not taken for the track's fault, and is done by the next run.
    """

    def here(task: Task, progress: Progress | None) -> Steps[Outcome]:
        outcome = yield from work(task, progress)
        _write_down(journal, task, outcome)
        return outcome

    if executor is None:
        yield from overlapped(here, plan.tasks, progress)
        return
    for task, done in spread(functools.partial(whole, work), plan.tasks, executor, window):
        outcome = lost(task, done) if isinstance(done, Exception) else done
        _write_down(journal, task, outcome)
        yield task, outcome


def _write_down(journal: Journal, task: Task, outcome: Outcome) -> None:
    if outcome.result.status == "failed" and any(reason in outcome.result.error.lower() for reason in FULL):
        raise AudioError(f"{outcome.result.error}; free some space and run it again: what is done stays done")
    journal.append(record_of(task, outcome, time.time()))
