"""The command `demucs-np batch`."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from ..errors import UsageError
from .separate import OneOf, job_from, separate
from .terminal import Bar, clock

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from ..batch.library import Plan
    from ..batch.sources import Source
    from ..batch.task import Outcome, Task
    from ..jobs import Job
    from ..separation.apply import Progress
    from ..steps import Steps

# What `separate` has, but for what a library has in another way or not at all.
OPTIONS = [option for option in separate.params if option.name not in ("tracks", "out", "device", "jobs", "list_models", "page", "verbose")]
OF_A_ROW = {option.name: option for option in OPTIONS if option.name not in ("repo", "threads", "backend")}


def separation_options(command: click.Command) -> click.Command:
    """Adds the options that say how a track is separated, before those of the command itself."""
    command.params[1:1] = OPTIONS
    return command


@separation_options
@click.command()
@click.argument("sources", nargs=-1, required=True)
@click.option("-o", "--out", default="separated", show_default=True, help="Folder or address (s3://...) of the results.")
@click.option(
    "--workers", type=click.IntRange(min=1), cls=OneOf, excludes=["dask"],
    help="So many processes, each with its share of the cores and the memory; 1: one track at a time, on all cores.  [default: what is "
    "fastest for so many tracks, cores and so much memory]",
)  # fmt: skip
@click.option("--dask", metavar="ADDRESS", help='A Dask cluster: the scheduler\'s address, or "local" for one on this machine.')
@click.option("--ship-weights", is_flag=True, help="With --dask: send the model to the workers; else each gets it by itself.")
@click.option("--shard", metavar="I/N", help="Do this part of N, I from 1; the parts have nothing in common and are everything together.")
@click.option("--force", is_flag=True, help="Do again what is done.")
@click.option("--retry-failed", is_flag=True, help="Do again what failed before.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and how long it would take.")
@click.option("-v", "--verbose", is_flag=True, help="Show tracebacks.")
def batch(
    sources: tuple[str, ...], out: str, workers: int | None, dask: str | None, ship_weights: bool, shard: str | None, force: bool,
    retry_failed: bool, dry_run: bool, verbose: bool, **options: Any,
) -> None:  # fmt: skip
    """Separate all tracks of SOURCES: folders, patterns in quotes, files, manifests (.txt, .csv, .jsonl) and addresses.

    The tree of the sources is mirrored below OUT/NAME. OUT/demucs-np.jsonl says of every track what became of it; run again, the same
    command does what is not done yet. A row of a manifest may have options of its own. The exit status is 1 if a track failed.
    """
    from ..batch.journal import open_journal, read_journals
    from ..batch.sharing import parse_shard
    from ..batch.sources import find

    if ship_weights and not dask:
        raise click.UsageError("--ship-weights is for --dask.")
    if dask:
        _cluster()
    part = None if shard is None else parse_shard(shard)
    if dask and options["threads"] is None:
        options["threads"] = 1
    with contextlib.ExitStack() as stack:
        journal = None if dry_run else stack.enter_context(contextlib.closing(open_journal(out, part)))
        tracks = list(find(sources, out))
        if not dry_run and not dask:
            _get_ready(tracks, workers, options["threads"])
        from ..batch.library import make_plan

        plan = make_plan(
            tracks, _jobs(out, options), out, read_journals(out), shard=part, force=force, retry_failed=retry_failed
        )  # fmt: skip
        chosen = workers
        if not dask:
            workers = _shared(plan, workers, options["threads"], options["memory"])
        if journal is None:
            from ..batch.estimate import estimate
            from ..machine import shown_size

            about = estimate(plan.tasks, workers or 1)
            counts = f"{_tracks(about.tracks)} to do, {len(plan.done)} done, {len(plan.failed)} failed before"
            if about.known or not plan.tasks:
                work = f"{clock(about.audio)} of audio, {clock(about.seconds)} of work on this machine"
                counts += f": about {work}, {shown_size(about.disk)} of results"
                counts += f"; by {workers} processes" if workers and workers > 1 else ""
            else:
                counts += "; how long they are is not known before they are read"
            click.echo(counts)
            return
        report = Report(plan, verbose)
        if workers and workers > 1 and chosen is None:
            click.echo(f"{_tracks(len(plan.tasks))}, by {workers} processes; --workers 1 does one at a time.", err=True)
        if plan.tasks:
            from ..jobs import forget_models

            with _executor(workers, dask, ship_weights, plan) as (executor, window):
                if executor is not None:
                    forget_models()  # the workers have theirs
                report.follow(journal, executor, window)
    report.summary()


def _get_ready(tracks: Sequence[Source], workers: int | None, threads: int | None) -> None:
    """Let what workers are forked off begin, if there may be some."""
    from ..batch.sharing import worth_sharing
    from ..batch.workers import get_ready
    from ..threads import default_threads

    if (workers or 0) > 1 or (workers is None and threads is None and worth_sharing([track.size for track in tracks], default_threads())):
        get_ready()


def _shared(plan: Plan, workers: int | None, threads: int | None, memory: int | None) -> int:
    """How many processes there are; the plan's tasks with their share of the cores and the memory."""
    from ..batch.sharing import process_count, room_for
    from ..machine import free_memory
    from ..threads import default_threads

    room = free_memory() if memory is None else memory
    if workers is None:
        workers = 1
        if threads is None:
            workers = process_count([task.size for task in plan.tasks], default_threads(), room_for(plan.tasks, room))
    if workers > 1:
        threads = threads or max(1, default_threads() // workers)
        share = None if room is None else room // workers
        for number, task in enumerate(plan.tasks):
            own = task.job.memory if task.job.memory != memory else share  # of its row
            plan.tasks[number] = dataclasses.replace(task, job=dataclasses.replace(task.job, threads=threads, memory=own))
    return workers


def _tracks(count: int) -> str:
    return f"{count} track{'s' * (count != 1)}"


def _jobs(out: str, options: dict[str, Any]) -> Callable[[Source], Job]:
    """From a track to its job, with the options of its row over those of the command."""
    known: dict[frozenset[tuple[str, str]], Job] = {}

    def job_of(source: Source) -> Job:
        row = frozenset(source.options.items())
        if row not in known:
            try:
                job = job_from(**options | _row_options(source.options, source.origin), out=Path("out"))
            except click.ClickException as error:
                if not row:
                    raise
                raise UsageError(f"{source.origin}: {error.format_message()}") from None
            known[row] = dataclasses.replace(job, folder=f"{out.rstrip('/')}/{Path(job.folder).name}")
        return dataclasses.replace(known[row], track=source.address)

    return job_of


def _row_options(row: Mapping[str, str], origin: str) -> dict[str, Any]:
    """As the command's options would be read. Raises UsageError with the row."""
    if not row:
        return {}
    flags = {name.lstrip("-"): option for option in OF_A_ROW.values() for name in option.opts}
    words, off = [], {}
    for key, value in row.items():
        option = flags.get(key)
        if not isinstance(option, click.Option):
            raise UsageError(f"{origin}: there is no option {key!r}; those of `demucs-np separate` are, without their dashes")
        if not option.is_flag:
            words += [f"--{key}" if len(key) > 1 else f"-{key}", value]
        elif value.lower() in ("true", "1", "yes"):
            words.append(f"--{key}")
        elif value.lower() not in ("false", "0", "no"):
            raise UsageError(f"{origin}: {key} is {value!r}, but must be true or false")
        elif option.secondary_opts:
            words.append(option.secondary_opts[0])
        else:
            off[str(option.name)] = option.get_default(click.Context(separate))
    command = click.Command("row", params=list(OF_A_ROW.values()))
    try:
        context = command.make_context("row", words)
    except click.ClickException as error:
        raise UsageError(f"{origin}: {error.format_message()}") from None
    given = {name: value for name, value in context.params.items() if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    return off | given


def _cluster() -> ModuleType:
    try:
        from ..batch import cluster
    except ImportError:
        raise UsageError('--dask needs Dask; install it with `pip install "demucs-np[cluster]"`') from None
    return cluster


@contextlib.contextmanager
def _executor(
    workers: int | None, dask: str | None, ship_weights: bool, plan: Plan
) -> Iterator[tuple[Executor | None, int | Callable[[], int]]]:
    """(None for this process, how many tasks it gets at a time); ended at once if something goes wrong."""
    from ..batch.workers import LocalWorkers

    if dask:
        cluster = _cluster()
        with cluster.connected(dask) as client:
            if ship_weights:
                plan.tasks = cluster.ship(client, plan.tasks)
            yield cluster.executor_of(client)
        return
    if workers is None or workers == 1:
        yield None, 1
        return
    executor = LocalWorkers(workers)
    try:
        yield executor, workers
    except BaseException:
        executor.shutdown(cancel_futures=True)
        raise
    executor.shutdown()


class Report:
    """What is said while a plan is done: a line for every track, and on a terminal a bar below them."""

    def __init__(self, plan: Plan, verbose: bool) -> None:
        self._plan, self._verbose = plan, verbose
        self._bar = Bar(sys.stderr)
        self._began = time.monotonic()
        self._count = self._bytes = 0
        self._audio = 0.0
        self._errors = [str(record.get("error", "")) for record in plan.failed]

    def follow(self, journal: Any, executor: Executor | None, window: int | Callable[[], int]) -> None:
        """Run the plan."""
        from ..batch.library import run
        from ..batch.task import task_steps

        def titled(task: Task, progress: Progress | None) -> Steps[Outcome]:
            self._bar.title = task.relative
            return (yield from task_steps(task, progress))

        try:
            for task, outcome in run(self._plan, journal, executor, window, task_steps if executor else titled, self._bar):
                self._tell(task, outcome)
        finally:
            self._bar.clear()

    def _tell(self, task: Task, outcome: Outcome) -> None:
        result = outcome.result
        self._count += 1
        self._bytes += task.size
        self._audio += outcome.audio_seconds
        self._bar.clear()
        for note in result.notes:
            click.echo(f"Note: {note}", err=True)
        if result.status == "failed":
            self._errors.append(result.error)
            if self._verbose and result.trace:
                click.echo(result.trace, err=True, nl=False)
            click.echo(f"Error: {result.error}", err=True)
        spent = time.monotonic() - self._began
        left = (self._plan.size - self._bytes) / max(1, self._bytes)  # of what is done, by the sizes of the files
        what = f"{clock(outcome.audio_seconds)} in {clock(result.seconds)}" if result.status == "done" else "failed"
        line = f"[{self._count}/{len(self._plan.tasks)}] {task.relative}: {what}"
        if self._audio:
            line += f"; {self._audio / 3600:.2f} h done in {clock(spent)} ({self._audio / spent:.1f}x)"
            line += f", {self._audio * left / 3600:.2f} h left in {clock(spent * left)}"
        click.echo(line + (f"; {len(self._errors)} failed" if self._errors else ""), err=True)

    def summary(self) -> None:
        """The end; exits with 1 if a track failed."""
        spent = time.monotonic() - self._began
        done = self._count - (len(self._errors) - len(self._plan.failed))
        click.echo(
            f"{_tracks(done)} done, {self._audio / 3600:.2f} h of audio in {clock(spent)}; {len(self._plan.done)} were done before, "
            f"{len(self._errors)} failed.",
            err=True,
        )
        for error in self._errors:
            click.echo(f"Failed: {error}", err=True)
        if self._plan.failed:
            click.echo(f"{len(self._plan.failed)} of them failed in an earlier run; --retry-failed tries them again.", err=True)
        if self._errors:
            raise click.exceptions.Exit(1)
