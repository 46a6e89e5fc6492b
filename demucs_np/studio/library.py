"""The studio's folder: a directory a track, known by an id of our own, with a `track.json` that always holds a whole state.

    FOLDER/TRACK/track.json          name, state, options; written under another name and renamed
    FOLDER/TRACK/original            what was uploaded, as it came
    FOLDER/TRACK/stems/NAME.wav      float32 at the model's rate, unlimited; "mix" is the track as the model heard it
    FOLDER/TRACK/stems/NAME.peaks, NAME.spectrogram   see `pictures`

`stems` appears, by renaming, when all in it is complete. Names of files are labels only: no part of a path comes from outside.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..errors import DemucsError

LABEL = 200  # characters of a name that are kept


@dataclass(frozen=True)
class Wish:
    """How a track is to be separated; as the command's options. `stems`: None for all; others: the model's own."""

    model: str = "htdemucs"
    stems: tuple[str, ...] | None = None
    shifts: int | None = None
    overlap: float | None = None


@dataclass
class Track:
    """What is known of a track. Times in seconds; `samples` at `samplerate` are the file's, `length` at `rate` the stems'."""

    id: str
    name: str
    created: float
    samplerate: int
    channels: int
    samples: int
    state: str = "new"  # new, queued, running, done, failed or cancelled
    wish: Wish | None = None
    order: float = 0.0  # when it was queued
    error: str | None = None
    sources: list[str] = field(default_factory=list)
    rate: int = 0
    length: int = 0
    stem_channels: int = 2
    took: float | None = None
    # Of a separation that runs; not kept.
    stage: str | None = None
    part: float = 0.0
    seconds_left: float | None = None
    ready: int = 0  # samples that can be heard

    @property
    def seconds(self) -> float:
        return self.samples / self.samplerate

    def shown(self) -> dict[str, Any]:
        """As the API gives it."""
        return dataclasses.asdict(self) | {"seconds": self.seconds}


VOLATILE = ("stage", "part", "seconds_left", "ready")


class Library:
    """All tracks of a folder, which no other process opens at the same time. Methods may be called from any thread."""

    def __init__(self, folder: Path) -> None:
        """Raises DemucsError if the folder cannot be written, or another studio has it open."""
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f".probe-{secrets.token_hex(4)}").touch()
            for probe in folder.glob(".probe-*"):
                probe.unlink(missing_ok=True)
            self._lock = FileLock(folder / ".studio.lock")
            self._lock.acquire(timeout=0)
        except Timeout:
            raise DemucsError(f"{folder}: another studio has this folder open; close it, or name another folder") from None
        except OSError as error:
            raise DemucsError(f"{folder}: cannot be written ({error.strerror}); name another folder") from error
        self._mutex = threading.RLock()
        self._tracks: dict[str, Track] = {}
        self.listeners: list[Callable[[dict[str, Any]], None]] = []
        self._open()

    def _open(self) -> None:
        """Read what an earlier process left; what it was about to do is queued again."""
        for path in self.folder.iterdir():
            if not re.fullmatch(r"[0-9a-f]{16}", path.name) or not path.is_dir():
                continue
            try:
                values = json.loads((path / "track.json").read_text())
                wish = values.pop("wish")
                if wish and wish["stems"] is not None:
                    wish["stems"] = tuple(wish["stems"])
                track = Track(**values, wish=wish and Wish(**wish))
            except (OSError, ValueError, TypeError, KeyError):  # an upload that never ended
                shutil.rmtree(path, ignore_errors=True)
                continue
            shutil.rmtree(path / "work", ignore_errors=True)
            if track.state == "running":
                track.state = "queued"
            track.ready = track.length if track.state == "done" else 0
            self._tracks[track.id] = track

    def close(self) -> None:
        """Let others open the folder."""
        self._lock.release()

    def path(self, track: Track, *parts: str) -> Path:
        """A path in the track's folder. `parts` are our own words or names of its stems."""
        return self.folder.joinpath(track.id, *parts)

    def all(self) -> list[Track]:
        """Newest first."""
        with self._mutex:
            return sorted(self._tracks.values(), key=lambda track: -track.created)

    def get(self, identity: str) -> Track | None:
        with self._mutex:
            return self._tracks.get(identity)

    def new_folder(self) -> Path:
        """For an upload: with an id for its name, and no track yet."""
        path = self.folder / secrets.token_hex(8)
        path.mkdir()
        return path

    def add(self, folder: Path, name: str, samplerate: int, channels: int, samples: int) -> Track:
        """The track whose `original` lies in a folder that `new_folder` made."""
        track = Track(folder.name, label(name), time.time(), samplerate, channels, samples)
        with self._mutex:
            self._tracks[track.id] = track
        self.change(track)
        return track

    def remove(self, track: Track) -> None:
        """Delete it and all its files."""
        with self._mutex:
            self._tracks.pop(track.id, None)
        with contextlib.suppress(OSError):
            self.path(track, "track.json").unlink()  # first: what is left of a folder without it is deleted at the next start
        shutil.rmtree(self.path(track), ignore_errors=True)
        self.tell({"removed": track.id})

    def change(self, track: Track, **values: Any) -> None:
        """Set fields, keep them on disk, and tell who listens."""
        with self._mutex:
            for name, value in values.items():
                setattr(track, name, value)
            if track.id in self._tracks and not (values and values.keys() <= {*VOLATILE}):
                kept = {name: value for name, value in dataclasses.asdict(track).items() if name not in VOLATILE}
                target = self.path(track, "track.json")
                temporary = target.with_suffix(".part")
                with open(temporary, "w") as file:
                    json.dump(kept, file)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, target)
            shown = track.shown()
        self.tell({"track": shown})

    def waiting(self) -> Iterator[Track]:
        """Queued tracks, first come first."""
        with self._mutex:
            yield from sorted((track for track in self._tracks.values() if track.state == "queued"), key=lambda track: track.order)

    def tell(self, event: dict[str, Any]) -> None:
        for listener in list(self.listeners):
            listener(event)


def label(name: str) -> str:
    """A name from outside as text that can be shown and saved under: no control characters, no separators, not empty."""
    name = re.sub(r'[\x00-\x1f\x7f<>:"/\\|?*]', "_", name).strip(" .")
    return name[:LABEL] or "track"
