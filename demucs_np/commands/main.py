"""The command `demucs-np`. Options only: the work is done elsewhere, and imported when a command runs."""

from __future__ import annotations

import contextlib
import importlib
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .. import __version__
from ..errors import DemucsError, UsageError

if TYPE_CHECKING:
    from ..separation.separator import OtherMethod

INTERRUPTED = 130

# name -> (module, command, what it does): a module is imported only when its command runs, so that --help is quick.
COMMANDS: dict[str, tuple[str, str, str]] = {
    "separate": (".main", "separate", "Separate tracks into stems; the word may be left out."),
    "demo": (".demo", "demo", "Separate the bundled song with the bundled model, and show how well that goes."),
    "models": (".models", "models", "List, fetch and check the published models."),
    "convert": (".models", "convert", "Turn official .th packages into .safetensors files."),
    "golden": (".golden", "golden", "Record what PyTorch computes, layer by layer."),
    "verify": (".golden", "verify", "Compare every layer with a golden file, without PyTorch."),
    "bench": (".bench", "bench", "Measure speed, memory and parity on this machine."),
    "inspect": (".inspect", "inspect", "Print what a model is made of: modules, shapes, sizes, times."),
    "trace": (".inspect", "trace", "Record the activations of one segment, and draw them."),
}


class LazyCommands(click.Group):
    """A group whose first word may be left out: `demucs-np song.mp3` is `demucs-np separate song.mp3`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, name, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module, __package__), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in COMMANDS.items()])

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in COMMANDS and args[0] not in ("--help", "-h", "--version"):
            args = ["separate", *args]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with _terminated_as_interrupt():
                return super().invoke(ctx)
        except DemucsError as error:
            if "-v" in sys.argv or "--verbose" in sys.argv:
                traceback.print_exc()
            click.echo(f"Error: {error}", err=True)
            ctx.exit(error.status)
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            ctx.exit(INTERRUPTED)


@contextlib.contextmanager
def _terminated_as_interrupt() -> Iterator[None]:
    """Let a polite `kill` clean up as Ctrl-C does."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread: a test, or someone who embeds the command
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@click.group(
    cls=LazyCommands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="`demucs-np song.mp3` separates at once; `demucs-np separate --help` shows its options.",
)
@click.version_option(__version__, prog_name="demucs-np")
def main() -> None:
    """Demucs music source separation on NumPy and Numba."""


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


@click.command()
@click.argument("tracks", nargs=-1, type=click.Path(path_type=Path))
@click.option("-n", "--name", default="htdemucs", show_default=True, help="Model: a published name, or the path of a .safetensors file.")
@click.option("--repo", type=click.Path(path_type=Path), help="Folder with models (.safetensors, .th) and bags (.yaml), for use with -n.")
@click.option(
    "-o", "--out", default="separated", show_default=True, type=click.Path(path_type=Path),
    help="Folder for the results; a folder with the model's name is made in it.",
)  # fmt: skip
@click.option(
    "--filename", default="{track}/{stem}.{ext}", show_default=True,
    help="Name of the files, from {track}, {trackext}, {stem} and {ext}.",
)  # fmt: skip
@click.option("--stems", metavar="A,B", help="Write these stems only, which can save much time with a bag of models.")
@click.option("--two-stems", metavar="STEM", help="Write this stem and no_STEM.")
@click.option(
    "--other-method", type=click.Choice(["none", "add", "minus"]), default="add", show_default=True,
    help="With --two-stems: no_STEM is the sum of the other stems (add), minus_STEM the track without the stem (minus), or nothing.",
)  # fmt: skip
@click.option("--shifts", default=1, show_default=True, type=click.IntRange(min=0), help="Average so many passes with random delays.")
@click.option("--seed", default=0, show_default=True, help="For the random delays: the same seed gives the same files.")
@click.option("--overlap", default=0.25, show_default=True, type=click.FloatRange(0, 1, max_open=True), help="Part of a segment.")
@click.option("--no-split", is_flag=True, cls=OneOf, excludes=["segment"], help="Run the whole track at once; needs much memory.")
@click.option(
    "--segment", type=click.FloatRange(min=0, min_open=True), help="Length of the segments that a track is split into, in seconds."
)
@click.option("--int24", is_flag=True, cls=OneOf, excludes=["float32"], help="Write 24-bit WAV or FLAC.")
@click.option("--float32", is_flag=True, help="Write 32-bit floating-point WAV.")
@click.option(
    "--clip-mode", type=click.Choice(["rescale", "clamp", "tanh", "none"]), default="rescale", show_default=True,
    help="Against clipping: scale a stem that is too loud, cut its peaks, bend them, or neither.",
)  # fmt: skip
@click.option("--flac", is_flag=True, cls=OneOf, excludes=["mp3"], help="Write FLAC.")
@click.option("--mp3", is_flag=True, help="Write MP3.")
@click.option("--mp3-bitrate", default=320, show_default=True, type=click.IntRange(8, 320), help="kbit/s.")
@click.option("--mp3-preset", type=click.IntRange(2, 7), help="Accepted for compatibility: the MP3 encoder here has one preset.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads; the result is the same for any number.  [default: all cores]")
@click.option(
    "--backend", type=click.Choice(["numba", "numpy"]), default="numba", show_default=True, help="numpy: slow, but nothing is compiled."
)
@click.option("-d", "--device", default="cpu", help="Accepted for compatibility: everything runs on the CPU.")
@click.option("-j", "--jobs", type=int, help="Accepted for compatibility: all cores work on one track, see --threads.")
@click.option("--list-models", is_flag=True, help="List the models and exit.")
@click.option("-v", "--verbose", is_flag=True, help="Show tracebacks.")
def separate(
    tracks: tuple[Path, ...],
    name: str,
    repo: Path | None,
    out: Path,
    filename: str,
    stems: str | None,
    two_stems: str | None,
    other_method: OtherMethod,
    shifts: int,
    seed: int,
    overlap: float,
    no_split: bool,
    segment: float | None,
    int24: bool,
    float32: bool,
    clip_mode: Any,
    flac: bool,
    mp3: bool,
    mp3_bitrate: int,
    mp3_preset: int | None,
    threads: int | None,
    backend: str,
    device: str,
    jobs: int | None,
    list_models: bool,
    verbose: bool,
) -> None:
    """Separate TRACKS into stems: OUT/NAME/TRACK/STEM.wav for each.

    The options are those of the `demucs` command. The exit status is 1 if a track failed (the others are done all the same), and 2
    for options that are wrong.
    """
    if list_models:
        from ..weights import list_models as list_names

        models = list_names(repo)
        for title, kind in (("Bag of models", "bag"), ("Single models", "single")):
            click.echo(f"{title}:\n    " + "\n    ".join(models[kind]))
        return
    if not tracks:
        raise click.UsageError("Name at least one track (`demucs-np separate --help` shows the options).")
    if two_stems and stems:
        raise click.UsageError("--stems and --two-stems exclude each other.")

    from ..audio import Encoding
    from ..separation.separator import Outputs, Separator, model_folder, output_paths
    from ..weights import load_model
    from .terminal import Bar

    encoding = Encoding("mp3" if mp3 else "flac" if flac else "wav", 24 if int24 else 32 if float32 and not flac else 16, mp3_bitrate)
    wanted = [stem.strip() for stem in stems.split(",")] if stems else None
    bar = Bar(sys.stderr)
    if device != "cpu":
        bar.line(f"Note: there is no {device} device here; everything runs on the CPU.")
    separator = Separator(
        load_model(name, repo=repo, backend=backend),
        shifts=shifts, overlap=overlap, split=not no_split, segment=segment, stems=wanted, seed=seed, threads=threads, progress=bar,
    )  # fmt: skip
    separator.options.check(separator.model)
    outputs = Outputs.choose(separator.model, wanted, two_stems, other_method)
    folder = out / model_folder(name)
    output_paths(Path("track.wav"), folder, filename, outputs.names, encoding.format)
    bar.line(f"Separated tracks will be stored in {folder.resolve()}")

    written: dict[Path, Path] = {}
    failed = 0
    for track in tracks:
        bar.title = track.name
        try:
            for path in output_paths(track, folder, filename, outputs.names, encoding.format).values():
                if written.setdefault(path, track) != track:
                    raise UsageError(
                        f"{track}: its stems would overwrite those of {written[path]}; put {{trackext}} into --filename, or separate "
                        "one of them into another folder"
                    )
            files = separator.separate_to_files(
                track, folder, filename=filename, two_stems=two_stems, other_method=other_method, encoding=encoding, clip=clip_mode
            )
            bar.line(f"{track.name}: {', '.join(files)} in {bar.elapsed()}")
        except Exception as error:
            failed += 1
            bar.clear()
            if verbose:
                traceback.print_exc()
            click.echo(f"Error: {_describe(error, track)}", err=True)
        except BaseException:
            bar.clear()
            raise
    if failed:
        if len(tracks) > 1:
            click.echo(f"{failed} of {len(tracks)} tracks failed.", err=True)
        raise click.exceptions.Exit(1)


def _describe(error: Exception, track: Path) -> str:
    """One line that begins with the track."""
    if not isinstance(error, DemucsError):
        what = str(error).strip().splitlines()[0] if str(error).strip() else "no message"
        return f"{track}: unexpected {type(error).__name__} ({what}); -v shows where, please report it"
    return str(error) if str(error).startswith(f"{track}:") else f"{track}: {error}"
