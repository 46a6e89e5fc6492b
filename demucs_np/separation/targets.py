"""What is known of the files to be written before the work is done for them."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from ..audio import reason_of
from ..errors import AudioError

ABANDONED = 600.0  # seconds without a change, after which a partial file is taken for one of a process that was killed


def check_targets(targets: Iterable[Path]) -> None:
    """Raise AudioError for a file that could not be written when all is computed; their folders exist.

    Partial files that a killed process left beside them are removed.
    """
    folders = set()
    for target in targets:
        try:
            if target.is_dir():
                raise AudioError(f"{target}: is a folder, so no stem can have its name; rename it or choose another --filename")
            with contextlib.suppress(FileNotFoundError):
                target.lstat()  # a name that is too long is found here
        except OSError as error:
            raise AudioError(f"{target}: cannot be written ({reason_of(error)}); choose another --filename") from error
        folders.add(target.parent)
    for folder in folders:
        try:
            with tempfile.TemporaryFile(dir=folder, prefix=".demucs-np-"):
                pass
        except OSError as error:
            raise AudioError(f"{folder}: cannot be written to ({reason_of(error)}); choose another folder or free some space") from error
        remove_abandoned(folder)


def remove_abandoned(folder: Path) -> None:
    """Delete the partial files of processes that were killed."""
    for partial in folder.glob(".demucs-np-*.part"):
        with contextlib.suppress(OSError):
            if time.time() - partial.stat().st_mtime > ABANDONED:
                partial.unlink()
