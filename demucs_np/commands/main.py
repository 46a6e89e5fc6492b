"""The command `demucs-np`. Options only: the work is done elsewhere, and imported when a command runs."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from typing import Any

import click
from click.shell_completion import CompletionItem

from .. import __version__
from ..errors import AudioWarning, CacheWarning, DemucsError
from .interrupts import Interrupted, check, interruptible

# name -> (module, command, what it does): a module is imported only when its command runs, so that --help is quick.
COMMANDS: dict[str, tuple[str, str, str]] = {
    "separate": (".separate", "separate", "Separate tracks into stems; the word may be left out."),
    "batch": (".batch", "batch", "Separate a whole library, on one machine or many; run again, it goes on where it ended."),
    "demo": (".demo", "demo", "Separate the bundled song with the bundled model, and show how well that goes."),
    "studio": (".studio", "studio", "Drop songs on a page in the browser, hear the stems, save what you want."),
    "serve": (
        ".serve",
        "serve",
        "The studio without opening a browser: an HTTP API to upload songs, follow the work, get stems and mixes.",
    ),
    "stream": (".stream", "stream", "Separate sound while it comes in: from standard input to standard output."),
    "web": (".web", "web", "The models in a web page: write a static folder, and serve it."),
    "models": (".models", "models", "List, fetch and check the published models."),
    "warm": (".warm", "warm", "Compile ahead what a model needs, for images and services."),
    "convert": (".convert", "convert", "Turn official .th packages into .safetensors files."),
    "golden": (".golden", "golden", "Record what PyTorch computes, layer by layer."),
    "verify": (".verify", "verify", "Compare every layer with a golden file, without PyTorch."),
    "bench": (".bench", "bench", "Measure speed, memory and parity on this machine."),
    "inspect": (".inspect", "inspect", "Print what a model is made of: modules, shapes, sizes, times."),
    "trace": (".trace", "trace", "Record the activations of one segment, and draw them."),
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
            _refuse_mistyped(args[0], ctx)
            args = ["separate", *args]
        return super().parse_args(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Commands, or else the file that would be separated."""
        if ctx.parent is None and incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        names = [CompletionItem(name, help=text) for name, (_, _, text) in COMMANDS.items() if name.startswith(incomplete)]
        return [CompletionItem(incomplete, type="file"), *names]  # in this order: bash forgets what came before a file

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with interruptible(), notes_on_stderr():
                try:
                    result = super().invoke(ctx)
                except Exception:
                    check()  # a signal that came while a library called back, as LLVM does, is what went wrong
                    raise
                if sys.stdout is not None:
                    sys.stdout.flush()  # a full disk is found here, not when Python ends
                return result
        except DemucsError as error:
            _trace()
            click.echo(f"Error: {error}", err=True)
            ctx.exit(error.status)
        except KeyboardInterrupt as error:
            click.echo("Interrupted.", err=True)
            ctx.exit(error.status if isinstance(error, Interrupted) else 130)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except Exception as error:
            _trace()
            click.echo(f"Error: {_short(error)}", err=True)
            with contextlib.suppress(OSError, AttributeError):
                sys.stdout.close()  # what could not be written is not tried again
            ctx.exit(1)


@contextlib.contextmanager
def notes_on_stderr() -> Iterator[None]:
    """Within the block our own warnings are lines like those of the commands."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def note(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if issubclass(category, (AudioWarning, CacheWarning)):
                click.echo(f"Note: {message}", err=True)
            else:
                show(message, category, *where, **more)

        warnings.showwarning = note
        yield


def _refuse_mistyped(word: str, ctx: click.Context) -> None:
    """Raise UsageError for a word that is no file and nearly a command: not for a mistake is a model downloaded."""
    if ctx.resilient_parsing or word.startswith("-") or os.path.lexists(word) or not word.isidentifier():
        return
    near = difflib.get_close_matches(word, COMMANDS, 1)
    if near:
        raise click.UsageError(f"There is no command and no file {word!r}: did you mean {near[0]}?", ctx)


def _trace() -> None:
    if "-v" in sys.argv or "--verbose" in sys.argv:
        traceback.print_exc()


def _short(error: Exception) -> str:
    """One line for what no room foresaw."""
    if isinstance(error, MemoryError):
        return "there is not enough memory for this; free some, lift the limit (`ulimit -v`), or use a smaller --segment"
    if isinstance(error, OSError) and error.strerror:
        where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, (str, bytes)) else "the output: "
        return f"{where}{error.strerror.lower()}; give it the permission or the space it lacks, or choose another place"
    what = str(error).strip().splitlines()[0] if str(error).strip() else "no message"
    return f"unexpected {type(error).__name__} ({what}); -v shows where, please report it"


@click.group(
    cls=LazyCommands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="`demucs-np song.mp3` separates at once; `demucs-np separate --help` shows its options.",
)
@click.version_option(__version__, prog_name="demucs-np")
def main() -> None:
    """Demucs music source separation on NumPy and Numba."""
