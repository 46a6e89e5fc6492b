"""Decode with libsndfile: WAV, FLAC, OGG, MP3, AIFF, CAF, AU and others."""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Callable, Iterator

import numpy as np
import soundfile

from ..errors import AudioError, reason_of
from . import source
from .decoder import Undecodable
from .parts import Part, has_parts, parts_of
from .tags import clean
from .wave64 import wave64_part
from .window import Window

STEP = 8192  # frames of a FLAC that are read at a time: those before a damaged place in the same step are lost
ENDLESS = 0x7FFF_0000  # bytes; who writes into a pipe and does not know the length says that, or more


# Vorbis and Opus begin with left, centre, right; all else, and what follows here, with left and right: a film's stereo pair.
WAV_ORDER = {3: (0, 2, 1), 5: (0, 2, 1, 3, 4), 6: (0, 2, 1, 5, 3, 4), 7: (0, 2, 1, 6, 5, 3, 4), 8: (0, 2, 1, 7, 5, 6, 3, 4)}


_QUIET = threading.Lock()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Within the block nothing reaches the process's standard error: libmpg123 writes notes there on every damaged frame, which no option
    of libsndfile's turns off. What matters of them is told by the errors and by `damage`."""
    with _QUIET:
        try:
            kept = os.dup(2)
        except OSError:  # it is closed
            yield
            return
        try:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 2)
            os.close(nowhere)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


class Forward(soundfile.SoundFile):  # type: ignore[misc]
    """A file that is only read on. python-soundfile seeks after each read, to where it is; in an MP3 that garbles the next frame."""

    def seekable(self) -> bool:
        return False


class Sndfile:
    """A `Decoder`."""

    def __init__(self, open_: Callable[[], soundfile.SoundFile], skip: int = 0, told: int = 0, there: int = 0) -> None:
        with quiet():
            file = open_()
        if file.format == "RAW":  # guessed from the name's ending: "x.au" without a header would be noise
            raise Undecodable("it has no header")
        self._order = WAV_ORDER.get(file.channels) if file.subtype in ("VORBIS", "OPUS") else None
        self._file, self._told, self._there = file, told, there
        self.samplerate = int(file.samplerate)
        self.channels = int(file.channels)
        self.tags = clean(file.copy_metadata())
        self.samples = int(file.frames) if file.frames < 1 << 60 else None  # a FLAC that was written into a pipe
        self._step = STEP if file.format == "FLAC" else source.BLOCK
        self._position = 0
        if skip:
            self.read(skip)
            self._position = 0
            self.samples = None if self.samples is None else self.samples - skip

    def read(self, size: int) -> np.ndarray:
        parts: list[np.ndarray] = [np.empty((0, self.channels), np.float32)]
        left = size
        while left:
            try:
                with quiet() if self._file.format == "MP3" else contextlib.nullcontext():
                    part = self._file.read(min(left, self._step), dtype="float32", always_2d=True)
            except (soundfile.SoundFileError, OSError) as error:
                if len(parts) == 1:
                    raise Undecodable(reason_of(error)) from error
                break  # it will fail again at the next call
            if len(part) == 0:
                if self._position + size - left < self._there and len(parts) == 1:
                    raise Undecodable("it stops before the end")
                break
            parts.append(part)
            left -= len(part)
        self._position += size - left
        frames = parts[1] if len(parts) == 2 else np.concatenate(parts)
        return frames if self._order is None else frames[:, self._order]

    def damage(self) -> str:
        """libsndfile shortens a track without a word where the file is shorter than its header says; its log tells."""
        told = max(self._told, self.samples or 0 if self._file.format == "FLAC" else 0)
        if told > self._position:
            return f"the file ends early: its header says {told / self.samplerate:.1f} s"
        found = re.search(r"^(data|SSND) *: *(\d+) \(should be (\d+)\)", self._file.extra_info, re.MULTILINE)
        if found is None or not int(found[3]) < int(found[2]) < ENDLESS:
            return ""
        seconds = int(found[2]) / max(1, int(found[3])) * self._position / self.samplerate
        return f"the file ends early: its header says {seconds:.1f} s"


class Joined:
    """A `Decoder` of several parts, one after the other."""

    def __init__(self, parts: list[Sndfile], name: str) -> None:
        self._parts = parts
        self.samplerate, self.channels, self.tags = parts[0].samplerate, parts[0].channels, parts[0].tags
        for part in parts:
            if (part.samplerate, part.channels) != (self.samplerate, self.channels):
                raise AudioError(
                    f"{name}: is {len(parts)} files in one, which change from {self.samplerate} Hz and {self.channels} channels to "
                    f"{part.samplerate} Hz and {part.channels}; save it again as one WAV or FLAC file, or separate its parts"
                )
        lengths = [part.samples for part in parts]
        self.samples = None if None in lengths else sum(length for length in lengths if length is not None)
        self._at = 0

    def read(self, size: int) -> np.ndarray:
        while self._at < len(self._parts):
            frames = self._parts[self._at].read(size)
            if len(frames):
                return frames
            self._at += 1
        return np.empty((0, self.channels), np.float32)

    def damage(self) -> str:
        return next((damage for part in self._parts if (damage := part.damage())), "")


@contextlib.contextmanager
def open_sndfile(location: str, name: str) -> Iterator[Sndfile | Joined]:
    """Raises Undecodable if libsndfile does not know it, AudioError for joined files of different rates or channels."""
    with contextlib.ExitStack() as stack:

        def opener(part: Part | None) -> Callable[[], soundfile.SoundFile]:
            # by the name, soundfile takes "x.raw" for samples without a header
            named = part is None and not location.lower().endswith(".raw")
            window = (part.start, part.stop, part.head) if part else (0, None, b"")
            return lambda: stack.enter_context(Forward(location if named else Window(file, *window)))

        try:
            file = stack.enter_context(open(location, "rb"))
            # read, not mapped: a file that another program cuts meanwhile would end this one
            plain = wave64_part(file)
            known = has_parts(file.read(4))
            with quiet():
                broken = plain is None and not known and opener(None)().format == "MP3"  # it begins with the rest of a frame
            parts = [plain] if plain else []
            if (known or broken) and file.seek(0) == 0:
                parts = parts_of(file.read(), name, broken)
            decoders = [Sndfile(opener(part), part.skip, part.told, part.there) for part in parts] or [Sndfile(opener(None))]
            if parts and parts[0].start:  # an MP3's tag stands before its first frame
                with contextlib.suppress(soundfile.SoundFileError), Forward(Window(file)) as whole:
                    decoders[0].tags = clean(whole.copy_metadata())
        except (soundfile.SoundFileError, OSError, ValueError) as error:
            raise Undecodable(reason_of(error)) from error
        yield decoders[0] if len(decoders) == 1 else Joined(decoders, name)
