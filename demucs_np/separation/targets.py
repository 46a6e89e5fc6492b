"""What is known of the files to be written before the work is done for them."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..audio import ClipMode, Encoding, reason_of
from ..errors import AudioError, DemucsError, UsageError
from .cut import Wanted
from .outputs import OtherMethod

ABANDONED = 600.0  # seconds without a change, after which a partial file is taken for one of a process that was killed


@dataclass(frozen=True)
class Files:
    """What is written of a track; see `Separator.separate_to_files`."""

    filename: str
    two_stems: str | None
    other_method: OtherMethod
    residual: bool
    encoding: Encoding
    clip: ClipMode
    wanted: Wanted


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


def output_paths(track: Path, folder: Path, filename: str, names: Sequence[str], ext: str) -> dict[str, Path]:
    """Stem -> file, from the template. Raises UsageError if stems would overwrite each other or the track."""
    head, _, tail = ("stdin", "", "") if str(track) == "-" else track.name.rpartition(".")
    if head in ("", ".", ".."):  # no name for a folder: `...wav` would put its stems outside
        head = track.name
    fields = {"parent": track.absolute().parent.name, "track": head, "trackext": tail, "ext": ext}
    paths: dict[str, Path] = {}
    for name in names:
        try:
            paths[name] = folder / filename.format(stem=name, **fields)
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            raise UsageError(
                f'"{filename}" is not a name for the files: it may hold {{parent}}, {{track}}, {{trackext}}, {{stem}} and {{ext}} ({error})'
            ) from error
    if len(set(paths.values())) != len(paths):
        raise UsageError(f'with the name "{filename}" all stems of a track would be one file: put {{stem}} into it')
    if any(path.resolve() == track.resolve() for path in paths.values()):
        raise UsageError(f'{track}: would be overwritten by its own stem with the name "{filename}"')
    return paths


class Folders:
    """Folders that were made for a track, to be removed again if it fails."""

    def __init__(self) -> None:
        self.made: list[Path] = []

    def prepare(self, targets: Iterable[Path]) -> None:
        """Make the folders of files to be written. Raises AudioError for a file that could not be."""
        targets = list(targets)
        for target in targets:
            self.make(target.parent)
        check_targets(targets)

    def make(self, folder: Path) -> None:
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        with writable(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self.made += reversed(missing)


@contextlib.contextmanager
def made_folders(folder: Path) -> Iterator[Folders]:
    folders = Folders()
    try:
        folders.make(folder)
        yield folders
    except BaseException:
        for made in reversed(folders.made):
            with contextlib.suppress(OSError):  # something else is in it
                made.rmdir()
        raise


@contextlib.contextmanager
def writable(folder: Path) -> Iterator[None]:
    try:
        yield
    except DemucsError:
        raise
    except OSError as error:
        raise AudioError(f"{folder}: cannot be written to ({reason_of(error)}); choose another folder or free some space") from error
