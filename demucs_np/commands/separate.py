"""The command `demucs-np separate`, whose name may be left out."""

from __future__ import annotations

import dataclasses
import math
import os
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import DemucsError
from . import completion
from .interrupts import check
from .terminal import Bar, clock

if TYPE_CHECKING:
    from ..audio import Encoding
    from ..jobs import Job, Result
    from ..separation.apply import Progress
    from ..separation.outputs import OtherMethod
    from ..steps import Steps


class OneOf(click.Option):
    """An option that excludes others."""

    def __init__(self, *args: Any, excludes: Sequence[str], **kwargs: Any) -> None:
        self.excludes = excludes
        super().__init__(*args, **kwargs)

    def handle_parse_result(self, ctx: click.Context, opts: Any, args: list[str]) -> Any:
        for other in self.excludes:
            if self.name in opts and other in opts:
                mine, theirs = (("--" + name.replace("_", "-")) for name in (str(self.name), other))
                raise click.UsageError(f"{mine} and {theirs} exclude each other.", ctx)
        return super().handle_parse_result(ctx, opts, args)


class Clock(click.ParamType):
    """Seconds, or hours, minutes and seconds with colons."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        if not re.fullmatch(r"(\d+:){0,2}\d+(\.\d*)?", value):
            self.fail(f"{value!r} is no time: write seconds (90.5), minutes and seconds (1:30.5), or hours too (0:01:30.5).", param, ctx)
        seconds = 0.0
        for part in value.split(":"):
            seconds = 60 * seconds + float(part)
        return seconds


class RateOfFiles(click.ParamType):
    """Hz, or "original"."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        if value == "original" or isinstance(value, int):
            return value  # type: ignore[no-any-return]
        if not re.fullmatch(r"\d{1,9}", value):
            self.fail(f"{value!r} is no sample rate: write Hz (48000), or original.", param, ctx)
        return int(value)


class Real(click.FloatRange):
    """A number in a range, and neither NaN nor infinite, which Python reads as numbers too."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a number of any use here.", param, ctx)
        return number


class Size(click.ParamType):
    """Bytes, with a unit."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from ..errors import UsageError
        from ..machine import parse_size

        if isinstance(value, int):
            return value
        try:
            return parse_size(value)
        except UsageError as error:
            self.fail(f"{error}.", param, ctx)


@click.command()
@click.argument("tracks", nargs=-1, type=click.Path(path_type=Path, readable=False))
@click.option(
    "-n", "--name", default="htdemucs", show_default=True, shell_complete=completion.models,
    help="Model: a published name, or the path of a .safetensors file; several with commas: their mean.",
)  # fmt: skip
@click.option("-s", "--sig", metavar="NAME", help="The same as -n: the signature of a single model.")
@click.option("--repo", type=click.Path(path_type=Path), help="Folder with models (.safetensors, .th) and bags (.yaml), for use with -n.")
@click.option(
    "-o", "--out", default="separated", show_default=True, type=click.Path(path_type=Path),
    help="Folder for the results; a folder with the model's name is made in it.",
)  # fmt: skip
@click.option("--no-model-folder", is_flag=True, help="No folder with the model's name.")
@click.option(
    "--filename", default="{track}/{stem}.{ext}", show_default=True,
    help="Name of the files, from {parent}, {track}, {trackext}, {stem} and {ext}.",
)  # fmt: skip
@click.option(
    "--stems", metavar="A,B", shell_complete=completion.stems, help="Write these stems only, which can save much time with a bag of models."
)
@click.option("--two-stems", metavar="STEM", shell_complete=completion.stems, help="Write this stem and no_STEM.")
@click.option(
    "--other-method", type=click.Choice(["none", "add", "minus"]), default="add", show_default=True,
    help="With --two-stems: no_STEM is the sum of the other stems (add), minus_STEM the track without the stem (minus), or nothing.",
)  # fmt: skip
@click.option(
    "--track", "stream", metavar="N", type=click.IntRange(min=1), help="Which audio stream of a file with several.  [its default]"
)
@click.option(
    "--shifts", type=click.IntRange(min=0),
    help="Average so many passes with random delays.  [default: the model's own, mostly 1]",
)  # fmt: skip
@click.option("--seed", default=0, show_default=True, help="For the random delays: the same seed gives the same files.")
@click.option("--overlap", type=Real(0, 1, max_open=True), help="Part of a segment.  [default: the model's own, mostly 0.25]")
@click.option(
    "--window", type=click.Choice(["triangle", "flat"]),
    help="Cross-fade segments, or average them and fill up the last with zeros.  [default: the model's own, mostly triangle]",
)  # fmt: skip
@click.option(
    "--normalize/--no-normalize",
    default=None,
    help="Let the model hear every track at one loudness.  [default: the model's own, mostly yes]",
)
@click.option("--tta", is_flag=True, help="Average the track, its polarity inverse and its channels swapped; three times the work.")
@click.option("--no-split", is_flag=True, cls=OneOf, excludes=["segment"], help="Run the whole track at once; needs much memory.")
@click.option("--segment", type=Real(min=0, min_open=True), help="Length of the segments that a track is split into, in seconds.")
@click.option("--int24", is_flag=True, cls=OneOf, excludes=["float32"], help="Write 24-bit WAV or FLAC.")
@click.option("--float32", is_flag=True, cls=OneOf, excludes=["flac", "mp3"], help="Write 32-bit floating-point WAV.")
@click.option(
    "--clip-mode", type=click.Choice(["rescale", "common", "clamp", "tanh", "none"]), default="rescale", show_default=True,
    help="Against clipping: scale a stem that is too loud, scale all by one gain, cut peaks at 0.99, bend them, or cut them at 1.",
)  # fmt: skip
@click.option("--residual", is_flag=True, help="Write what the stems lack of the track too: all files add up to it.")
@click.option("--page", is_flag=True, help="Write index.html beside the stems: players, waveforms and spectrograms, by a double click.")
@click.option("--rate", metavar="HZ|original", type=RateOfFiles(), help="Sample rate of the files.  [default: the model's]")
@click.option("--start", metavar="[[H:]M:]S", type=Clock(), default=0.0, help="Separate from here on.  [default: the beginning]")
@click.option("--duration", metavar="[[H:]M:]S", type=Clock(), help="Separate so much.  [default: to the end]")
@click.option("--flac", is_flag=True, cls=OneOf, excludes=["mp3"], help="Write FLAC.")
@click.option("--mp3", is_flag=True, help="Write MP3.")
@click.option("--mp3-bitrate", default=320, show_default=True, type=click.IntRange(8, 320), help="kbit/s.")
@click.option("--mp3-preset", type=click.IntRange(2, 7), help="Accepted for compatibility: the MP3 encoder here has one preset.")
@click.option(
    "--memory", metavar="SIZE", type=Size(),
    help="Keep within so much memory, as in 2GB, by shorter segments where the model allows them.  [default: what is free]",
)  # fmt: skip
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads; the result is the same for any number.  [default: all cores]")
@click.option(
    "--backend", type=click.Choice(["numba", "numpy"]), default="numba", show_default=True, help="numpy: slow, but nothing is compiled."
)
@click.option("-d", "--device", default="cpu", help="Accepted for compatibility: everything runs on the CPU.")
@click.option("-j", "--jobs", type=int, help="Accepted for compatibility: all cores work on one track, see --threads.")
@click.option("--list-models", is_flag=True, help="List the models and exit.")
@click.option("-v", "--verbose", is_flag=True, help="Show tracebacks.")
def separate(tracks: tuple[Path, ...], device: str, jobs: int | None, list_models: bool, page: bool, verbose: bool, **options: Any) -> None:
    """Separate TRACKS into stems: OUT/NAME/TRACK/STEM.wav for each. "-" is standard input.

    The options are those of the `demucs` command. The exit status is 1 if a track failed (the others are done all the same), and 2
    for options that are wrong.
    """
    if list_models:
        from ..weights import list_models as list_names

        models = list_names(options["repo"])
        for title, kind in (("Bag of models", "bag"), ("Single models", "single")):
            click.echo(f"{title}:\n    " + "\n    ".join(models[kind]))
        return
    if not tracks:
        raise click.UsageError("Name at least one track (`demucs-np separate --help` shows the options).")

    if page and "{track}" not in os.path.dirname(options["filename"]):
        raise click.UsageError("--page needs a folder for each track: write {track}/ in --filename.")

    from ..jobs import prepare

    settings = job_from(**options)
    bar = Bar(sys.stderr)
    if device != "cpu":
        bar.line(f"Note: there is no {device} device here; everything runs on the CPU.")
    run = _Run(settings, bar, page, verbose)
    waiting = run.readable(dict.fromkeys(map(str, tracks)))
    if waiting:
        with bar.telling():
            prepare(settings)
        bar.line(f"Separated tracks will be stored in {Path(settings.folder).resolve()}")
    run.separate(waiting)
    if run.failed:
        if len(tracks) > 1:
            click.echo(f"{run.failed} of {len(tracks)} tracks failed.", err=True)
        raise click.exceptions.Exit(1)


def job_from(
    *,
    name: str,
    sig: str | None,
    repo: Path | None,
    out: Path,
    no_model_folder: bool,
    filename: str,
    stems: str | None,
    two_stems: str | None,
    other_method: OtherMethod,
    stream: int | None,
    shifts: int | None,
    seed: int,
    overlap: float | None,
    window: Any,
    normalize: bool | None,
    tta: bool,
    no_split: bool,
    segment: float | None,
    clip_mode: Any,
    residual: bool,
    rate: Any,
    start: float,
    duration: float | None,
    memory: int | None,
    threads: int | None,
    backend: str,
    **encoding: Any,
) -> Job:
    """What the options say of every track: a job that lacks its track. Raises ModelError, UsageError."""
    if two_stems and stems:
        raise click.UsageError("--stems and --two-stems exclude each other.")

    from ..jobs import Job
    from ..separation.apply import Options
    from ..separation.cut import Wanted
    from ..weights.resolve import resolve

    name = sig or name
    folder = out if no_model_folder else out / resolve(name, repo=repo).folder
    return Job(
        "track.wav", str(folder), name, str(repo) if repo else None, backend,
        options=Options(shifts, not no_split, overlap, segment, seed, tta=tta, window=window, normalize=normalize),
        stems=tuple(stem.strip() for stem in stems.split(",")) if stems else None,
        two_stems=two_stems,
        other_method=other_method,
        filename=filename,
        encoding=_encoding(**encoding),
        clip=clip_mode,
        residual=residual,
        wanted=Wanted(rate, start, duration),
        threads=threads,
        stream=stream,
        memory=memory,
    )  # fmt: skip


def _encoding(*, int24: bool, float32: bool, flac: bool, mp3: bool, mp3_bitrate: int, mp3_preset: int | None) -> Encoding:
    from ..audio import Encoding

    return Encoding("mp3" if mp3 else "flac" if flac else "wav", 24 if int24 else 32 if float32 else 16, mp3_bitrate)


class _Run:
    """The tracks of one call, one after the other."""

    def __init__(self, settings: Job, bar: Bar, page: bool, verbose: bool) -> None:
        from ..jobs import Claims

        self._settings, self._bar, self._page, self._verbose = settings, bar, page, verbose
        self._claims = Claims()
        self.failed = 0

    def readable(self, tracks: Iterable[str]) -> list[str]:
        """The tracks that can be opened; what is said of the others is said before a model is downloaded for them."""
        from ..audio import check_track

        found = []
        self._settings.key()
        for track in tracks:
            try:
                check_track(track)
                found.append(track)
            except DemucsError as error:
                self._fail(str(error), "")
        return found

    def separate(self, tracks: Iterable[str]) -> None:
        """All of them; failures are told and counted."""
        from ..steps import overlapped

        jobs = (dataclasses.replace(self._settings, track=track) for track in tracks)
        try:
            with self._bar.telling():
                for job, result in overlapped(self._steps, jobs, self._bar):
                    self._tell(Path(job.track).name, result)
        except BaseException:
            self._bar.clear()
            raise

    def _steps(self, job: Job, progress: Progress | None) -> Steps[Result]:
        from ..jobs import Result, job_steps

        self._bar.title = Path(job.track).name
        try:
            self._claims.check(job)
        except DemucsError as error:
            return Result(job, "failed", 0.0, None, error=str(error))
        self._claims.add(job)
        result = yield from job_steps(job, progress)
        if result.status == "failed":
            self._claims.drop(job)
        return result

    def _tell(self, title: str, result: Result) -> None:
        self._bar.clear()
        for note in result.notes:
            click.echo(f"Note: {note}", err=True)
        if result.status == "failed":
            self._fail(result.error, result.trace)
            return
        self._bar.line(f"{title}: {', '.join(result.files)} in {clock(result.seconds)}")
        if not all(end is not None and end.isatty() for end in (sys.stdout, sys.stderr)):  # for the next program, or for a log
            for file in result.files.values():
                click.echo(file.path)
        if self._page:
            self._write_page(title, {name: Path(file.path) for name, file in result.files.items()})

    def _write_page(self, title: str, files: dict[str, Path]) -> None:
        from ..page.song import write

        try:
            with self._bar.telling():
                path = write(files, title)
        except DemucsError as error:
            self._fail(str(error), "")
        else:
            self._bar.line(f"{title}: {path} shows them")

    def _fail(self, error: str, trace: str) -> None:
        check()  # a signal that came while a library called back may be all that failed
        self.failed += 1
        self._bar.clear()
        if self._verbose and trace:
            click.echo(trace, err=True, nl=False)
        click.echo(f"Error: {error}", err=True)
