"""The command `demucs-np`. Options only: the work is done elsewhere, and imported when a command runs."""

from __future__ import annotations

import contextlib
import importlib
import signal
import sys
import traceback
from collections.abc import Iterator
from typing import Any

import click

from .. import __version__
from ..errors import DemucsError

INTERRUPTED = 130

# name -> (module, command, what it does): a module is imported only when its command runs, so that --help is quick.
COMMANDS: dict[str, tuple[str, str, str]] = {
    "separate": (".separate", "separate", "Separate tracks into stems; the word may be left out."),
    "demo": (".demo", "demo", "Separate the bundled song with the bundled model, and show how well that goes."),
    "studio": (".studio", "studio", "Drop songs on a page in the browser, hear the stems, keep what you want."),
    "serve": (".serve", "serve", "The studio's HTTP API, without a browser."),
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
