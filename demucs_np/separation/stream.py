"""A track that is still coming in: blocks of it are pushed, and blocks of its stems come back."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from .. import audio
from ..errors import AudioError, ModelError, UsageError, check_whole
from ..kernels.resample import Resampler
from ..machine import memory_limit
from ..models.bag import BagOfModels, Model
from ..threads import check_threads, use_threads
from .apply import Options, bag_of, wanted_stems
from .fitting import SHORTEST, Segments, has_fixed_segment, needed_live
from .loudness import Moments, Normalised, louder
from .windows import Block, Chunk, Loudness, Member, Run, Seconds, View, Windows, late_windows

LOOKAHEAD = 0.5  # seconds, where only the hop is given
FADE = 0.05  # seconds of the cross-fades between low-delay windows, at most
CONTEXT = 10  # seconds: the longest low-delay window by itself. Models with segments of 44 s would work through them at every hop
PIECE = 1 << 16  # samples that are taken in at a time
FADING = 0.9  # of what a window counts towards the speed, when the next one has been worked on


class Stream:
    """Separates sound while it is coming in: `push` it in blocks of any size, `flush` at its end.

    - `model`: a model, or what `load_model` takes. `samplerate` (Hz) and `channels` are those of what is pushed; stems have that rate, and
      as many channels as the model, or as what is pushed if that is fewer.
    - `hop` None: whole windows, the model's segments or `segment` seconds, which overlap by the fraction `overlap`: chunks, cross-fades and
      samples are those of `apply_model` with `shifts=0`. A stem's sample comes out a segment after it went in, at the latest.
    - `hop` and `lookahead` in seconds: low delay. Windows end `lookahead` after what is given out, move by `hop`, and are cross-faded over
      50 ms (or `hop` or `lookahead`, where those are shorter). Each costs a whole segment's work: `segment`, or the model's own up to 10 s.
    - `loudness`: models hear sound less its mean, divided by its standard deviation. "running": those of all that was heard up to the
      window's end, which is given its own loudness back before windows are cross-faded. (mean, std): fixed, as a `Separator` measures them
      beforehand. None: "running", or for models that hear tracks as they are (see `Recipe`) (0, 1).
    - Another rate: sound comes in by the reference's filter, as files do, and goes out by the finer one of `--rate`.
    - `stems`: which, in which order (None: all). `threads`: CPU threads (None: all).
    - `memory`: bytes that the process may take, or a size as "2GB" (None: what the system has free), as for `Separator`: where the model's
      own segment needs more, the longest one that fits is taken, and an AudioWarning says so.

    Memory is bounded for streams of any length. A stream is for one thread at a time; several streams may run at once.

    Raises UsageError for options that fit neither each other nor the model nor the memory, ModelError for a model that cannot be had.
    """

    def __init__(
        self,
        model: BagOfModels | str | Path = "htdemucs",
        *,
        samplerate: int | None = None,
        channels: int | None = None,
        stems: Sequence[str] | None = None,
        hop: float | None = None,
        lookahead: float | None = None,
        loudness: Literal["running"] | tuple[float, float] | None = None,
        segment: float | None = None,
        overlap: float | None = None,
        threads: int | None = None,
        memory: int | str | None = None,
    ) -> None:
        memory = memory_limit(memory)
        check_threads(threads)
        if isinstance(model, (str, Path)):
            from ..weights import load_model

            model = load_model(model, memory=memory)
        self.stems = wanted_stems(model, stems)
        self.samplerate = model.samplerate if samplerate is None else samplerate
        self.channels = model.audio_channels if channels is None else channels
        audio.check_rate(self.samplerate, "the stream")
        check_whole("channels", self.channels, 1)
        audio.convert_channels(np.empty((self.channels, 0), np.float32), model.audio_channels, "the stream")
        self.samplerate = int(self.samplerate)
        self.channels_out = min(self.channels, model.audio_channels)
        self._model_channels, self._threads, self._name = model.audio_channels, threads, type(model).__name__
        self._cuts = _Cuts(model, hop, lookahead, segment, overlap)
        seconds, line = self._segments(model).fitted(memory)
        if line:
            audio.warn(line)
        self._windows = self._cuts.windows(seconds)
        self._track = _Growing(model.audio_channels)
        self._into = Resampler(self.samplerate, model.samplerate, model.backend)
        self._out = Resampler(model.samplerate, self.samplerate, model.backend, fine=True)
        if loudness is None:
            loudness = "running" if model.normalize else (0.0, 1.0)
        self._pace = _Pace()
        self._blocks: Iterator[Block] | None = self._run(model, loudness)
        self._received = self._sent = 0  # samples at the stream's rate
        self._busy = threading.Lock()
        self._rate = model.samplerate
        chunks = [(windows.size, *windows.around(windows.size)) for windows in map(self._windows, model.models)]
        self._reach = max(sum(chunk) for chunk in chunks)  # nothing is read that lies farther back from what was given out
        taps = self._into.lookahead / self.samplerate + self._out.lookahead / model.samplerate
        self.delay: float = max(size + after for size, _, after in chunks) / model.samplerate + taps
        """Seconds: a sample that went in comes out when so much more has come, and the work on it is done."""

    def _run(self, model: BagOfModels, loudness: Literal["running"] | tuple[float, float]) -> Iterator[Block]:
        indices = [model.sources.index(name) for name in self.stems]
        members = bag_of(model, indices, lambda _, member: Member(member, [0], [View()], self._windows(member)))
        if loudness == "running":
            return Run(self._track, indices, self._threads, self._pace.begin, loudness=_Running(self._track)).bag(*members)
        level = _fixed(loudness)
        return louder(Run(Normalised(self._track, *level), indices, self._threads, self._pace.begin).bag(*members), level)

    def _segments(self, model: BagOfModels) -> Segments:
        cuts, stems, ratio = self._cuts, len(self.stems), max(1.0, self.samplerate / model.samplerate)
        return Segments(
            lambda seconds: needed_live(model, cuts.windows(seconds), stems, ratio),
            cuts.segment, cuts.given, has_fixed_segment(model), cuts.shortest,
        )  # fmt: skip

    def shortage(self, model: BagOfModels) -> str:
        """A line for when memory has run out all the same: what of this stream of the model would need less."""
        return self._segments(model).shortage()

    def push(self, block: np.ndarray) -> dict[str, np.ndarray]:
        """Take the next samples, float (channels, n), n may be 0; returns stem -> float32 (channels, m) of what has become known by them.

        Raises AudioError for another shape, and for NaN or infinite samples: then nothing was taken. Whatever else goes wrong, Ctrl-C
        included, closes the stream.
        """
        block = np.asarray(block)
        if block.ndim != 2 or block.shape[0] != self.channels or block.dtype.kind != "f":
            hint = f"; transpose it: block.T has ({self.channels}, samples)" if block.ndim == 2 and block.shape[1] == self.channels else ""
            raise AudioError(
                f"the block has shape {block.shape} of {block.dtype}, but this stream takes floats ({self.channels}, samples){hint}"
            )
        with np.errstate(over="ignore"):  # to infinity, which is refused
            block = np.ascontiguousarray(block, np.float32)
        with self._turn():
            audio.check_finite(block, "the stream", self._received, self.samplerate)
            parts: list[np.ndarray] = []
            with self._all_or_nothing():
                for start in range(0, block.shape[1], PIECE):
                    piece = block[:, start : start + PIECE]
                    self._received += piece.shape[1]
                    with use_threads(self._threads):
                        self._track.append(self._into.push(audio.convert_channels(piece, self._model_channels)))
                    parts += self._take()
            return self._stems(parts)

    def flush(self) -> dict[str, np.ndarray]:
        """The end: returns what is left, so that as many samples came out as went in, and closes the stream.

        Raises AudioError if that was too little to be separated.
        """
        with self._turn(), self._all_or_nothing():
            parts: list[np.ndarray] = []
            if self._received:
                with use_threads(self._threads):
                    self._track.append(self._into.finish())
                if self._track.length < 2:
                    raise AudioError(f"the stream: has {self._received} samples at {self.samplerate} Hz, too few to be separated")
                self._track.ended = True
                parts = self._take()
                with use_threads(self._threads):
                    parts.append(self._out.finish(self._received))
            self._free()
            return self._stems(parts)

    def close(self) -> None:
        """Free the model and all buffers. Nothing can be pushed any more."""
        if self._blocks is not None:
            with self._turn():
                self._free()

    def _free(self) -> None:
        self._blocks = None
        self._track = _Growing(0)

    @contextlib.contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """What fails halfway has lost samples: nothing must go on as if it had not."""
        try:
            yield
        except BaseException:
            self._free()
            raise

    @property
    def held(self) -> float:
        """Seconds of sound that went in and have not come out. The next window begins when they are `delay`."""
        return (self._received - self._sent) / self.samplerate

    @property
    def speed(self) -> float:
        """Seconds of sound processed in a second of work: of the last windows, about ten, without the first, which may have compiled
        kernels. NaN before."""
        return self._pace.speed

    def _take(self) -> list[np.ndarray]:
        """All blocks that can be made of what has come, at the stream's rate: each (stems * channels, samples)."""
        assert self._blocks is not None
        parts: list[np.ndarray] = []
        while True:
            began = time.perf_counter()
            start, block = next(self._blocks, (0, None))
            if block is None or block.shape[-1] == 0:
                return parts
            if not np.isfinite(block).all():
                raise ModelError("the stream: the model made NaN or infinite samples of it; are its weights damaged?")
            self._track.forget(start + block.shape[-1] - self._reach)
            block = np.stack([audio.convert_channels(stem, self.channels_out) for stem in block])
            with use_threads(self._threads):
                parts.append(self._out.push(block.reshape(-1, block.shape[-1])))  # [stems, C, n] -> [stems * C, n]
            self._pace.add(block.shape[-1] / self._rate, time.perf_counter() - began)

    def _stems(self, parts: list[np.ndarray]) -> dict[str, np.ndarray]:
        rows = np.concatenate(parts, axis=1) if parts else np.empty((len(self.stems) * self.channels_out, 0), np.float32)
        self._sent += rows.shape[1]
        return dict(zip(self.stems, rows.reshape(len(self.stems), self.channels_out, -1), strict=True))

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """Holds the stream for one call; a second one at the same time is a mistake of the caller's."""
        if self._blocks is None:
            raise UsageError("this stream is closed: start another one")
        if not self._busy.acquire(blocking=False):
            raise UsageError("this stream is being pushed by another thread: use one stream for each thread")
        try:
            yield
        finally:
            self._busy.release()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = (
            "closed" if self._blocks is None else f"{self._received / self.samplerate:.1f} s in, {self._sent / self.samplerate:.1f} s out"
        )
        return (
            f"<Stream of {self._name}: {self.channels} channels at {self.samplerate} Hz -> {', '.join(self.stems)}; "
            f"delay {self.delay:.2f} s; {state}>"
        )


class _Growing:
    """The last part of a track that is coming in, as a source of all that was not forgotten. A buffer of twice what is kept, at most."""

    def __init__(self, channels: int) -> None:
        self._buffer = np.empty((channels, 0), np.float32)
        self._first = self._at = 0  # the first sample that is kept, and its place in the buffer
        self.length = 0
        self.ended = False

    @property
    def shape(self) -> tuple[int, ...]:
        return self._buffer.shape[0], self.length

    def append(self, wav: np.ndarray) -> None:
        """The next samples, float32 (channels, n)."""
        kept, count = self.length - self._first, wav.shape[1]
        if self._at + kept + count > self._buffer.shape[1]:
            held = self._buffer[:, self._at : self._at + kept]
            if kept + count > self._buffer.shape[1] // 2:  # else there is room enough in front
                self._buffer = np.empty((held.shape[0], 2 * (kept + count)), np.float32)
            self._buffer[:, :kept] = held
            self._at = 0
        self._buffer[:, self._at + kept : self._at + kept + count] = wav
        self.length += count

    def forget(self, before: int) -> None:
        """Samples before this one will not be read any more."""
        if before > self._first:
            self._at += before - self._first
            self._first = before

    def read(self, start: int, stop: int) -> np.ndarray:
        assert self._first <= start <= stop <= self.length
        at = self._at + start - self._first
        return self._buffer[:, at : at + stop - start]


class _Pace:
    """Seconds given out, and seconds of work for them: of a window the less, the older it is, and of the first one nothing."""

    def __init__(self) -> None:
        self._windows = 0
        self._given = self._work = 0.0

    def begin(self, chunk: Chunk) -> None:
        """A model is called, or has returned."""
        if chunk.member == 0 and chunk.state == "start":
            self._windows += 1
            self._given *= FADING
            self._work *= FADING

    def add(self, given: float, work: float) -> None:
        """What became of a part of the last window."""
        if self._windows > 1:
            self._given += given
            self._work += work

    @property
    def speed(self) -> float:
        """NaN where nothing is known."""
        return self._given / self._work if self._work else float("nan")


class _Running:
    """The loudness of all that was heard up to a sample. It is gathered in steps that do not depend on how the sound came in."""

    def __init__(self, track: _Growing) -> None:
        self._track, self._moments = track, Moments()

    def __call__(self, stop: int) -> Loudness:
        if stop > self._moments.count:
            self._moments.update(self._track.read(self._moments.count, stop))
        std = self._moments.std if self._moments.count > 1 else 0.0
        return np.float32(self._moments.mean), np.float32(std + 1e-8)


def _fixed(loudness: tuple[float, float]) -> Loudness:
    """As a separator takes it. Raises UsageError."""
    try:
        mean, std = (float(number) for number in loudness)
        sensible = np.isfinite(mean) and 0 <= std < float("inf")
    except (TypeError, ValueError):
        sensible = False
    if not sensible:
        raise UsageError(f"loudness is {loudness}, but must be 'running', or a mean and a standard deviation that is not below zero")
    return np.float32(mean), np.float32(std + 1e-8)


class _Cuts:
    """How the windows lie over a stream, as it was asked for or with another segment. Raises UsageError."""

    def __init__(
        self, model: BagOfModels, hop: float | None, lookahead: float | None, segment: float | None, overlap: float | None
    ) -> None:
        self._options, self._rate = Options(segment=segment, overlap=overlap), model.samplerate
        self._options.check(model)
        self.given = segment is not None
        self.segment = float(model.segment if segment is None else segment)
        self._step = self._ahead = 0
        if hop is None:
            if lookahead is not None:
                raise UsageError("a lookahead is for streams of low delay: give a hop as well")
            return
        lookahead = LOOKAHEAD if lookahead is None else lookahead
        self._step, self._ahead = (round(part * self._rate) if 0 <= part < float("inf") else -1 for part in (hop, lookahead))
        if self._step < 1 or self._ahead < 0:
            raise UsageError(f"hop is {hop} and lookahead {lookahead} seconds, but they must be above zero, and at least zero")
        longest = min(map(self._context, model.models))
        self.segment = float(longest)
        if self._step + self._ahead > int(longest * self._rate):
            raise UsageError(f"hop and lookahead are {hop + lookahead:g} seconds, but together must fit into a window of {self.segment:g}")

    def _context(self, member: Model, seconds: float | None = None) -> Seconds:
        return seconds or self._options.segment or min(member.segment, CONTEXT)

    @property
    def shortest(self) -> float:
        """Seconds of a segment that may be chosen."""
        return max(SHORTEST, float(math.ceil((self._step + self._ahead) / self._rate)))

    def windows(self, seconds: float | None = None) -> Callable[[Model], Windows]:
        """With segments of so many seconds (None: as they were asked for)."""
        if not self._step:
            return self._options.windows if seconds is None else replace(self._options, segment=seconds).windows
        fade = min(round(FADE * self._rate), self._step, self._ahead)
        return lambda member: late_windows(member, self._context(member, seconds), self._step, self._ahead, fade)
