"""The one thread that separates: tracks in the order in which they were queued, with the last model kept in memory."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from typing import Any

from ..errors import DemucsError
from ..models.bag import BagOfModels
from ..separation.apply import Options, wanted_stems
from ..weights import load_model
from .library import Library, Track, Wish
from .models import fetch
from .pace import Pace
from .separating import Separation

TELL = 0.1  # seconds between two reports of the same stage, at least


class CancelledError(Exception):
    """The user, or the server's end, stops the track in work."""


class Worker:
    """Start it with `start`, wake it with `enqueue`. Changes of tracks go through the library."""

    def __init__(self, library: Library, pace: Pace) -> None:
        self.library, self.pace = library, pace
        self.current: Separation | None = None
        self._running: Track | None = None
        self._cancel = threading.Event()
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._loaded: tuple[str, BagOfModels] | None = None
        self._warm = False  # whether this process has run the kernels before
        self._thread = threading.Thread(target=self._work, name="separating", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End as soon as the segment in work is done; the track is queued again at the next start."""
        self._stop.set()
        self._wake.set()
        self._thread.join(timeout=15)

    def enqueue(self, track: Track, wish: Wish) -> None:
        """Queue a track that is neither waiting nor running; of stems that it had nothing is told any more."""
        self.library.change(
            track, state="queued", wish=wish, order=time.time(), error=None, stage=None, part=0.0, ready=0, sources=[], rate=0, length=0
        )
        self._wake.set()

    def cancel(self, track: Track) -> None:
        """Take a track out of the queue, or stop it."""
        if track is self._running:
            self._cancel.set()
        elif track.state == "queued":
            self.library.change(track, state="cancelled")

    def separation(self, track: Track) -> Separation | None:
        """The track's separation, while it runs."""
        return self.current if track is self._running else None

    def wait(self, track: Track, seconds: float = 60) -> None:
        """Until the track is not in work."""
        end = time.monotonic() + seconds
        while track is self._running and time.monotonic() < end:
            time.sleep(0.02)

    def model(self, name: str) -> BagOfModels:
        """Loaded by now; only the last one is kept."""
        if self._loaded is None or self._loaded[0] != name:
            self._loaded = None
            self._loaded = name, load_model(name)
        return self._loaded[1]

    def _work(self) -> None:
        while not self._stop.is_set():
            self._wake.clear()
            track = next(iter(self.library.waiting()), None)
            if track is None:
                self._wake.wait()
                continue
            self._cancel.clear()
            self._running = track
            try:
                self._one(track)
            finally:
                self._running = self.current = None

    def _one(self, track: Track) -> None:
        change = self.library.change
        told: dict[str, Any] = {"stage": None, "at": 0.0}

        def tell(stage: str, part: float, seconds_left: float | None, ready: int) -> None:
            if self._cancel.is_set() or self._stop.is_set():
                raise CancelledError
            if stage == "starting" and not self._warm:
                stage = "compiling"
            now = time.monotonic()
            if stage != told["stage"] or ready != track.ready or now - told["at"] > TELL:
                told.update(stage=stage, at=now)
                change(track, stage=stage, part=part, seconds_left=seconds_left, ready=ready)

        try:
            wish = track.wish or Wish()
            change(track, state="running", error=None, ready=0)
            fetch(wish.model, lambda part: tell("fetching", part, None, 0))
            tell("loading", 0.0, None, 0)
            model = self.model(wish.model)
            options = Options(shifts=wish.shifts, overlap=wish.overlap)
            options.check(model)
            stems = wanted_stems(model, wish.stems)
            separation = Separation(
                self.library.path(track, "original"), self.library.path(track, "work"), self.library.path(track, "stems")
            )
            change(track, sources=stems, rate=model.samplerate, stem_channels=model.audio_channels)
            self.current = separation
            took = separation.run(model, options, stems, tell)
            recipe = model.models[0].recipe
            shifts = recipe.shifts if wish.shifts is None else wish.shifts
            overlap = float(recipe.overlap if wish.overlap is None else wish.overlap)
            if self._warm:  # else it was compiling, too
                self.pace.measured(wish.model, shifts, overlap, took / (separation.length / model.samplerate))
            self._warm = True
            change(track, state="done", stage=None, seconds_left=None, length=separation.length, ready=separation.length, took=took)
        except CancelledError:
            if not self._stop.is_set():
                change(track, state="cancelled", stage=None, seconds_left=None, ready=0)
        except Exception as error:
            if not isinstance(error, DemucsError):
                traceback.print_exc(file=sys.stderr)
            change(track, state="failed", stage=None, seconds_left=None, ready=0, error=self._sentence(error, track))

    def _sentence(self, error: Exception, track: Track) -> str:
        """What went wrong, without paths of ours."""
        if not isinstance(error, DemucsError):
            return f"unexpected {type(error).__name__} ({error}); the server's window shows where, please report it"
        path = str(self.library.path(track, "original"))
        return str(error).replace(f"{path}: ", "").replace(path, track.name)
