"""The program: `demucs-np`, and `python -m demucs_np`. Imports nothing heavy until Ctrl-C is answered with one line."""

from __future__ import annotations

import gc
import os
import signal
import sys


def _leave(*_: object) -> None:
    """Before the command runs and after it has ended there is nothing to tidy up."""
    os.write(2, b"Interrupted.\n")
    os._exit(130)


def run(prog_name: str = "demucs-np") -> None:
    """What the installed script calls."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)
    if sys.stderr is None:  # closed, or a program without a console; the next file that is opened must not take its place
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    from .commands.main import main

    try:
        main(prog_name=prog_name)
    finally:
        gc.freeze()  # at its end Python looks for cycles in all that was imported, for a quarter of a second


if __name__ == "__main__":
    run("python -m demucs_np")
