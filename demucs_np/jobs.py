"""A track and what is to be done with it, as plain data: the command, the studio and the batch all run `run_job`.

A `Job` names its model and pickles, so any process on any machine can run it. Models stay loaded in the process that ran one.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import queue
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

from . import weights
from .audio import ClipMode, Encoding, Note, check_track
from .errors import DemucsError, UsageError
from .machine import peak_memory
from .models.bag import BagOfModels
from .separation.apply import Event, Options, Progress
from .separation.cut import Wanted
from .separation.fitting import shortage
from .separation.outputs import RESIDUAL, OtherMethod, Outputs
from .separation.separator import Separator
from .separation.targets import Files, output_paths
from .steps import Steps, finished, overlapped

Task = TypeVar("Task")
Done = TypeVar("Done")
ATTEMPTS = 2  # at a task whose worker was lost, before the task is taken for the reason
WARM = 2  # models that a process keeps loaded: the one in use, and the one before
TEMPLATE = "{track}/{stem}.{ext}"


@dataclass(frozen=True)
class Job:
    """One track to separate. `model`, `repo` and `backend` are those of `load_model`, the rest those of `Separator.separate_to_files`."""

    track: str  # path of the audio file; "-": standard input
    folder: str  # where `filename` begins
    model: str = "htdemucs"
    repo: str | None = None
    backend: str = "numba"
    options: Options = Options()  # noqa: RUF009 - frozen
    stems: tuple[str, ...] | None = None
    two_stems: str | None = None
    other_method: OtherMethod = "add"
    filename: str = TEMPLATE
    encoding: Encoding = Encoding()  # noqa: RUF009 - frozen
    clip: ClipMode = "rescale"
    residual: bool = False
    wanted: Wanted = Wanted()  # noqa: RUF009 - frozen
    threads: int | None = None  # None: all cores
    stream: int | None = None  # of a file with several audio streams, counted from 1; None: its default one
    memory: int | None = None  # bytes that the process may take; None: what the system has free

    def key(self) -> Path:
        """The same for jobs that would write the same files. Raises UsageError for a template that cannot name files."""
        names = ("stem", "other")  # two, so that a template without {stem} is found
        return output_paths(Path(self.track), Path(self.folder), self.filename, names, self.encoding.format)["stem"].absolute()


@dataclass(frozen=True)
class Written:
    """A file that a job wrote."""

    path: str
    size: int  # bytes
    sha256: str


@dataclass(frozen=True)
class Result:
    """What became of a job."""

    job: Job
    status: Literal["done", "failed"]
    seconds: float  # on the clock, a model that had to be loaded included
    memory: float | None  # bytes: the most that the process held until now
    files: dict[str, Written] = field(default_factory=dict)  # by stem
    error: str = ""  # one line that begins with the track
    trace: str = ""  # the traceback behind it
    notes: tuple[str, ...] = ()  # what the user should know though it was done: what of a damaged file was kept


_models: OrderedDict[tuple[object, ...], BagOfModels] = OrderedDict()
_loading = threading.Lock()


def warm_model(name: str, repo: str | None = None, backend: str = "numba", memory: int | None = None) -> BagOfModels:
    """As `load_model`, but what this process loaded lately is not loaded again, unless its file has changed."""
    key = (name, repo, backend, *_stamp(name))
    with _loading:
        if key not in _models:
            loaded = weights.load_model(name, repo=None if repo is None else Path(repo), backend=backend, memory=memory)
            while len(_models) >= WARM:
                _models.popitem(last=False)
            _models[key] = loaded
        _models.move_to_end(key)
        return _models[key]


def forget_models() -> None:
    """Free the models that are kept loaded."""
    with _loading:
        _models.clear()


def _stamp(name: str) -> tuple[int, ...]:
    try:
        status = os.stat(name)
    except (OSError, ValueError):
        return ()
    return status.st_mtime_ns, status.st_size


def prepare(job: Job) -> list[str]:
    """Load the model and check everything that is not the track's: names of the stems that will be written.

    Raises ModelError or WeightsError where the model cannot be had, UsageError for options that do not fit it.
    """
    job.key()
    model = warm_model(job.model, job.repo, job.backend, job.memory)
    outputs = Outputs.choose(model, job.stems, job.two_stems, job.other_method)
    job.options.check(model)
    return outputs.names + [RESIDUAL] * job.residual


def run_job(job: Job, progress: Progress | None = None) -> Result:
    """Do it. What goes wrong is told by the result; only an interruption (KeyboardInterrupt, SystemExit) is raised."""
    return finished(job_steps(job, progress))


def job_steps(job: Job, progress: Progress | None = None) -> Steps[Result]:
    """`run_job` in steps, which `steps.overlapped` takes: the mark stands where the files begin to be written."""
    began, notes = time.monotonic(), list[str]()
    try:
        paths = yield from _separate(job, progress, notes.append)
        files = {stem: _written(path, progress) for stem, path in paths.items()}
    except Exception as error:
        return Result(
            job, "failed", time.monotonic() - began, peak_memory(), {}, describe(error, job.track), traceback.format_exc(), tuple(notes)
        )
    return Result(job, "done", time.monotonic() - began, peak_memory(), files, notes=tuple(notes))


def _separate(job: Job, progress: Progress | None, note: Note) -> Steps[dict[str, Path]]:
    check_track(job.track)
    options = job.options
    model = warm_model(job.model, job.repo, job.backend, job.memory)
    separator = Separator(
        model, shifts=options.shifts, overlap=options.overlap, split=options.split,
        segment=options.segment, seed=options.seed, stems=job.stems, threads=job.threads, progress=progress,
        window=options.window, normalize=options.normalize, tta=options.tta, memory=job.memory,
    )  # fmt: skip
    files = Files(job.filename, job.two_stems, job.other_method, job.residual, job.encoding, job.clip, job.wanted)
    try:
        return (yield from separator.steps_to_files(job.track, job.folder, files, job.stream, note))
    except MemoryError:
        line = shortage(model, options, len(Outputs.choose(model, job.stems, job.two_stems, job.other_method).computed))
    raise UsageError(line)  # with nothing of the computation held any more


def _written(path: Path, progress: Progress | None) -> Written:
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
            if progress is not None:  # which may end it
                progress(Event("write", 1, 1, 0.0))
        return Written(os.fspath(path), file.tell(), digest.hexdigest())


def describe(error: Exception, track: str) -> str:
    """One line that begins with the track."""
    if isinstance(error, MemoryError):
        return f"{track}: there is not enough memory; free some, lift the limit (`ulimit -v`), or let the track be split"
    if not isinstance(error, DemucsError):
        what = str(error).strip().splitlines()[0] if str(error).strip() else "no message"
        return f"{track}: unexpected {type(error).__name__} ({what}); -v shows where, please report it"
    return str(error) if str(error).startswith(f"{track}:") else f"{track}: {error}"


class LostError(DemucsError):
    """A task whose worker ended before it did: killed, or without memory."""


def run_all(jobs: Iterable[Job], executor: Executor | None = None, *, window: int = 64) -> Iterator[Result]:
    """Run jobs on any executor (None: one after the other, here, see `steps.overlapped`); results come as they are done.

    `window` jobs at most are submitted and not yet done, so that memory does not grow with their number. A job whose worker is lost is
    tried once more, then it has failed. Raises LostError if the executor itself is lost.
    """
    if executor is None:
        for _, result in overlapped(job_steps, jobs):
            yield result
        return
    for job, done in spread(run_job, jobs, executor, window):
        yield done if isinstance(done, Result) else Result(job, "failed", 0.0, None, error=describe(done, job.track))


def spread(
    function: Callable[[Task], Done], tasks: Iterable[Task], executor: Executor, window: int | Callable[[], int]
) -> Iterator[tuple[Task, Done | Exception]]:
    """(task, what the function returned or raised) as they are done; see `run_all`. `window` may change while it runs."""
    waiting: queue.SimpleQueue[Future[Done]] = queue.SimpleQueue()
    running: dict[Future[Done], tuple[Task, int]] = {}

    def submit(task: Task, attempt: int) -> None:
        try:
            future = executor.submit(function, task)
        except BrokenExecutor as error:
            raise LostError(f"the executor has lost its workers ({error}); run it again, and what is done is not done twice") from None
        running[future] = task, attempt
        future.add_done_callback(waiting.put)

    upcoming = iter(tasks)

    def fill() -> None:
        room = max(1, window() if callable(window) else window) - len(running)
        for task in itertools.islice(upcoming, max(0, room)):
            submit(task, 1)

    try:
        fill()
        while running:
            future = waiting.get()
            task, attempt = running.pop(future)
            done: Done | Exception
            try:
                done = future.result()
            except BrokenExecutor:
                if attempt < ATTEMPTS:
                    submit(task, attempt + 1)
                    continue
                done = LostError(f"its worker was lost {attempt} times (killed, or out of memory); it is not tried again")
            except CancelledError:
                raise LostError(
                    "the executor was shut down before all was done; run it again, and what is done is not done twice"
                ) from None
            except Exception as error:
                done = error
            fill()  # first, since whoever takes the result may take a while
            yield task, done
    finally:
        for future in running:
            future.cancel()


class Claims:
    """Which track has written which files, so that no other writes over them."""

    def __init__(self) -> None:
        self._owners: dict[Path, str] = {}

    def check(self, job: Job) -> None:
        """Raise UsageError if the job's files are another track's."""
        owner = self._owners.get(job.key(), job.track)
        if owner != job.track:
            raise UsageError(
                f"{job.track}: its stems would overwrite those of {owner}; put {{parent}} or {{trackext}} into --filename, or separate "
                "one of them into another folder"
            )

    def add(self, job: Job) -> None:
        """The job's files are its track's from now on."""
        self._owners.setdefault(job.key(), job.track)

    def drop(self, job: Job) -> None:
        """They are not, after all."""
        self._owners.pop(job.key(), None)
