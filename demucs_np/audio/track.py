"""An audio file of any kind, open for reading.

libsndfile is asked first, then ffmpeg; where one cannot go on, the other takes over. What is damaged is kept as far as it can be
decoded, with a warning that says how much that is.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import TypeAlias

import numpy as np

from ..errors import AudioError, AudioWarning, check_whole, reason_of
from ..kernels.resample import Resampler
from . import source
from .convert import check_finite, check_rate, convert_channels, turned
from .decoder import Decoder, Undecodable
from .ffmpeg import open_ffmpeg
from .sndfile import open_sndfile

Note: TypeAlias = Callable[[str], object]  # is told, in a line, what the user should know of a file
EMPTY = "it holds no samples"
Opener: TypeAlias = tuple[str, Callable[[], AbstractContextManager[Decoder]]]


class Track:
    """An audio file that is open for reading, as `open_track` gives it."""

    def __init__(self, name: str, openers: list[Opener], stack: ExitStack, note: Note) -> None:
        self.name = name
        self._openers, self._stack, self._note = openers, stack, note
        self._refusals: list[tuple[str, str]] = []  # (decoder, reason)
        decoder = self._next_decoder()
        if decoder is None:
            raise AudioError(f"{name}: {self._why()}")
        self._decoder = decoder
        check_rate(decoder.samplerate, name)
        self.samplerate = decoder.samplerate  # Hz
        self.channels = decoder.channels
        self.tags = decoder.tags  # title, artist, album, tracknumber, date, genre, as far as they are told
        self.samples = decoder.samples  # as the header says, and some files hold less or more; None: it does not say

    def blocks(self, size: int | None = None) -> Generator[np.ndarray, None, None]:
        """The samples as float32 (channels, at most `size`), until the end or as far as any decoder can go.

        Raises AudioError where nothing can be decoded, or samples are NaN or infinite.
        """
        size = size or source.BLOCK
        position, reason = 0, ""
        while True:
            try:
                frames = self._decoder.read(size)
                if position == 0 and len(frames) == 0:  # a recorder that lost power leaves a header without a length
                    raise Undecodable(EMPTY)
            except Undecodable as error:
                self._refusals.append((self._current, str(error)))
                if self._take_over(position):
                    continue
                reason = str(error)
                break
            if len(frames) == 0:
                break
            check_finite(frames.T, self.name, position, self.samplerate)
            position += len(frames)
            yield turned(frames)
        self._finish(position, reason)

    def _next_decoder(self) -> Decoder | None:
        while self._openers:
            self._current, opener = self._openers.pop(0)
            try:
                return self._stack.enter_context(opener())
            except Undecodable as error:
                self._refusals.append((self._current, str(error)))
        return None

    def _take_over(self, position: int) -> bool:
        """Go on with another decoder at sample `position`. False: none can."""
        while (decoder := self._next_decoder()) is not None:
            if (decoder.samplerate, decoder.channels) != (self.samplerate, self.channels):
                continue
            with contextlib.suppress(Undecodable):
                left = position
                while left and (count := len(decoder.read(min(left, source.BLOCK)))):
                    left -= count
                if left == 0:
                    self._decoder = decoder
                    return True
        return False

    def _finish(self, position: int, reason: str) -> None:
        """After the last sample: say what is missing."""
        seconds = position / self.samplerate
        if position == 0:
            empty = any(reason == EMPTY for _, reason in self._refusals)
            raise AudioError(f"{self.name}: {'holds no samples; export it again' if empty else self._why()}")
        reason = reason or self._decoder.damage()
        # libsndfile's own count is an estimate for MP3; ffmpeg's "duration" is that of the longest stream, and rounded
        if not reason and self._current != "libsndfile" and self.samples is not None and self.samples - position > 0.5 * self.samplerate:
            reason = "the file ends early"
        if reason:
            told = "" if self.samples is None or self.samples <= position else f" of {self.samples / self.samplerate:.1f} s"
            self._note(f"{self.name}: is damaged ({reason}); the {seconds:.1f} s{told} that can be decoded are kept")

    def _why(self) -> str:
        """The reasons of all decoders that were asked, and what to do."""
        reasons = dict(self._refusals)
        if shutil.which("ffmpeg") is None:
            return (
                f"is not audio that libsndfile can read ({reasons.get('libsndfile')}), and ffmpeg is not on the PATH: "
                "install ffmpeg, or convert the file to WAV, FLAC or MP3"
            )
        return f"neither {' nor '.join(f'{name} ({reason})' for name, reason in reasons.items())} can read it; is it audio?"


def warn(text: str) -> None:
    """As an AudioWarning."""
    warnings.warn(text, AudioWarning, stacklevel=2)


@contextlib.contextmanager
def open_track(path: str | Path, track: int | None = None, note: Note = warn) -> Iterator[Track]:
    """Open WAV, FLAC, OGG, MP3, AIFF and whatever else libsndfile knows; anything else through ffmpeg, if that is on the PATH.

    "-" is standard input; a pipe is read to its end first. `track` chooses one of several audio streams, counted from 1 (None: the default
    one). `note` is told what of a damaged file is kept, by default as an AudioWarning.

    Raises AudioError, with the remedy, if there is no such file or it is not audio, UsageError for a `track` below 1.
    """
    if track is not None:
        check_whole("track", track, 1)
    name = "standard input" if str(path) == "-" else str(path)
    with ExitStack() as stack:
        location = _seekable(Path(path), name, stack)

        def foreign() -> AbstractContextManager[Decoder]:
            return open_ffmpeg(location, name, track)

        openers: list[Opener] = [("ffmpeg", foreign)]
        if track in (None, 1):
            openers.insert(0, ("libsndfile", lambda: open_sndfile(location, name)))
        yield Track(name, openers, stack, note)


def check_track(track: str | Path) -> None:
    """Raise AudioError for what is no readable file, before anything is loaded for it. What is in it is seen when it is read."""
    path = Path(track)
    if str(track) == "-":
        return
    try:
        if path.is_dir():
            raise AudioError(f"{track}: is a folder, not an audio file; name the files in it")
        with open(path, "rb") if path.is_file() else open(os.devnull):  # to open a pipe would take something out of it
            path.stat()
    except (OSError, ValueError) as error:
        hint = "; if the path contains spaces, put quotes around it" if isinstance(error, FileNotFoundError) else ""
        raise AudioError(f"{track}: cannot be read ({reason_of(error)}){hint}") from error


def _seekable(path: Path, name: str, stack: ExitStack) -> str:
    """Where decoders find the file: its path, or that of a file without a name which holds what came through a pipe."""
    check_track(path)
    try:
        with open(0 if str(path) == "-" else path, "rb", closefd=str(path) != "-") as file:
            if file.seekable() and str(path) != "-":
                size = os.fstat(file.fileno()).st_size
                location = str(path)
            else:
                nameless = os.path.isdir("/dev/fd")  # else a name is the only way to hand it on
                temporary = tempfile.TemporaryFile if nameless else tempfile.NamedTemporaryFile
                copy = stack.enter_context(temporary())
                shutil.copyfileobj(file, copy)
                size = copy.tell()
                copy.seek(0)
                location = f"/dev/fd/{copy.fileno()}" if nameless else str(copy.name)
    except OSError as error:
        raise AudioError(f"{name}: cannot be read ({reason_of(error)})") from error
    if size == 0:
        raise AudioError(f"{name}: the file is empty; copy or download it again")
    return location


def read_blocks(
    track: Track, samplerate: int, channels: int, backend: str = "numba", also: Callable[[np.ndarray], object] | None = None
) -> Generator[np.ndarray, None, None]:
    """All of `track`, converted: float32 (channels, samples) at `samplerate`. Raises AudioError, also for a file without samples.

    `also` is given each block before its rate is converted.
    """
    resampler = Resampler(track.samplerate, samplerate, backend)
    size = max(1, min(source.BLOCK, source.BLOCK * track.samplerate // samplerate))  # so that the result is not large either
    for block in track.blocks(size):
        block = convert_channels(block, channels, track.name)
        if also is not None:
            also(block)
        yield resampler.push(block)
    yield resampler.finish()
