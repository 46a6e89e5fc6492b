"""One track of a library, as a worker does it: fetched if it is elsewhere, separated, sent where it belongs, described for the journal."""

from __future__ import annotations

import dataclasses
import posixpath
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import DemucsError, UsageError
from ..jobs import Job, LostError, Result, describe, job_steps
from ..machine import peak_memory
from ..separation.apply import Progress
from ..steps import Steps
from . import remote


@dataclass(frozen=True)
class Task:
    """A job and what the journal says of it. The job's `track` and `folder` may be addresses."""

    job: Job
    key: str  # the files it writes, as a path below the folder of results: what no two tasks share
    relative: str  # the track's place in the tree of the sources
    stamp: str  # of the input; see `sources.Source`
    size: int  # of the input, bytes
    settings: str  # digest of the options and of the weights; see `library.settings_of`
    out: str  # the folder of results, or its address
    version: str = __version__
    shipped: str | None = None  # the folder's name under which a Dask worker keeps the weights that were sent to it


@dataclass(frozen=True)
class Outcome:
    """What a worker sends back: a `Result` whose paths are the final ones, and the length of the track."""

    result: Result
    audio_seconds: float


def task_steps(task: Task, progress: Progress | None = None) -> Steps[Outcome]:
    """Do it, as `jobs.job_steps` does: all that goes wrong is told by the result."""
    job = task.job
    try:
        if task.version != __version__:
            raise UsageError(f"{job.track}: the worker has demucs_np {__version__}, not {task.version}; install the same on both sides")
        if task.shipped is not None:
            from .cluster import shipped_folder

            job = dataclasses.replace(job, model="shipped", repo=shipped_folder(task.shipped))
        if remote.is_address(job.track) or remote.is_address(job.folder):
            return (yield from _elsewhere(task, job, progress))
        _sweep(job)
        result = yield from job_steps(job, progress)
        return _measured(result, task.job)
    except Exception as error:
        return Outcome(Result(task.job, "failed", 0.0, peak_memory(), error=describe(error, task.job.track)), 0.0)


def _sweep(job: Job) -> None:
    """Delete what a run that was killed left half written in the track's own folder: nobody else writes there."""
    folder = job.key().parent
    if folder == dataclasses.replace(job, track=f"{job.track}-other.wav").key().parent:
        return
    for partial in folder.glob(".demucs-np-*"):
        partial.unlink(missing_ok=True)


def _measured(result: Result, job: Job) -> Outcome:
    """With the track's length, which is that of every stem."""
    seconds = 0.0
    if result.files:
        import soundfile

        about = soundfile.info(next(iter(result.files.values())).path)
        seconds = about.frames / about.samplerate
    return Outcome(dataclasses.replace(result, job=job), seconds)


def _elsewhere(task: Task, job: Job, progress: Progress | None) -> Steps[Outcome]:
    """In a temporary folder of this machine, with the results sent when all are there."""
    with tempfile.TemporaryDirectory(prefix="demucs-np-") as scratch:
        track = job.track
        if remote.is_address(track):
            parent = posixpath.basename(posixpath.dirname(remote.place_of(track)))  # for {parent} in the names of the files
            here = Path(scratch) / "track" / parent / posixpath.basename(remote.place_of(track))
            here.parent.mkdir(parents=True)
            remote.fetch(track, str(here))
            track = str(here)
        folder = str(Path(scratch) / "stems") if remote.is_address(job.folder) else job.folder
        outcome = _measured((yield from job_steps(dataclasses.replace(job, track=track, folder=folder), progress)), task.job)
        result = dataclasses.replace(outcome.result, error=outcome.result.error.replace(track, job.track))
        if result.status == "done" and folder != job.folder:
            files = {}
            for stem, written in result.files.items():
                address = f"{job.folder}/{Path(written.path).relative_to(folder).as_posix()}"
                remote.send(written.path, address)
                files[stem] = dataclasses.replace(written, path=address)
            result = dataclasses.replace(result, files=files)
        return dataclasses.replace(outcome, result=result)


def record_of(task: Task, outcome: Outcome, now: float) -> dict[str, Any]:
    """A line of the journal."""
    result = outcome.result
    record: dict[str, Any] = {
        "key": task.key, "track": task.relative, "source": task.job.track, "stamp": task.stamp, "settings": task.settings,
        "model": task.job.model, "status": result.status, "at": round(now, 3), "seconds": round(result.seconds, 3),
        "audio_seconds": round(outcome.audio_seconds, 3), "memory": result.memory,
    }  # fmt: skip
    if result.status == "done":
        record["files"] = {
            stem: {"path": written.path[len(task.out) :].lstrip("/\\"), "size": written.size, "sha256": written.sha256}
            for stem, written in result.files.items()
        }
        if result.notes:
            record["notes"] = list(result.notes)
    else:
        record["error"] = result.error
    return record


def lost(task: Task, error: Exception) -> Outcome:
    """Of a task that never came back."""
    if type(error).__name__ == "KilledWorker":  # Dask's, after as many workers as its scheduler allows
        error = LostError("the workers that had it were lost (killed, or out of memory); it is not tried again")
    text = f"{task.job.track}: {error}" if isinstance(error, DemucsError) else describe(error, task.job.track)
    return Outcome(Result(task.job, "failed", 0.0, None, error=text), 0.0)
