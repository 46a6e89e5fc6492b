"""Sound from standard input through a `Stream` to standard output: raw samples or WAV, and what to do when the machine is too slow."""

from __future__ import annotations

import math
import os
import select
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ..audio import BLOCK, to_pcm, turned
from ..audio.levels import told_decibels
from ..errors import AudioError, UsageError, reason_of
from .stream import Stream

Format = Literal["f32", "s16"]

TYPES = {"f32": "<f4", "s16": "<i2"}
BUFFER = 30  # seconds that wait at most; then whoever sends has to
PART = 0.25  # seconds that are taken in at a time
FADE = 0.05  # seconds of the cross-fade where something is skipped
TELL = 5  # seconds between two reports of lag
UNKNOWN = 0xFFFFFFFF  # the length in the header of a WAV stream


@dataclass(frozen=True)
class Sound:
    """What the bytes of a pipe are: frames of interleaved samples."""

    rate: int  # Hz
    channels: int
    format: Format
    wav: bool = False

    @property
    def frame(self) -> int:
        """Bytes of one frame."""
        return self.channels * np.dtype(TYPES[self.format]).itemsize

    def decode(self, data: bytes) -> np.ndarray:
        """Bytes of whole frames -> float32 (channels, samples)."""
        frames = np.frombuffer(data, TYPES[self.format]).reshape(-1, self.channels).T.astype(np.float32)
        return frames / np.float32(32768) if self.format == "s16" else frames

    def encode(self, wav: np.ndarray) -> bytes:
        """float32 (channels, samples) -> bytes; s16 is limited to ±1."""
        return to_pcm(wav, 16).tobytes() if self.format == "s16" else turned(wav).astype("<f4", copy=False).tobytes()

    def header(self) -> bytes:
        """Of a WAV file whose length is not known."""
        kind, bits = (1, 16) if self.format == "s16" else (3, 32)
        fields = struct.pack("<IHHIIHH", 16, kind, self.channels, self.rate, self.rate * self.frame, self.frame, bits)
        return b"RIFF" + struct.pack("<I", UNKNOWN) + b"WAVEfmt " + fields + b"data" + struct.pack("<I", UNKNOWN)


def parse_mix(text: str, sources: Sequence[str]) -> dict[str, float]:
    """`drums=1,vocals=0.5` -> the gains above and below zero. Stems that are not named are left out. Raises UsageError."""
    gains: dict[str, float] = {}
    for part in text.split(","):
        name, _, number = (word.strip() for word in part.partition("="))
        if name not in sources:
            raise UsageError(f'the mix names "{name}", which is not in this model: choose from {", ".join(sources)}')
        try:
            gain = float(number)
        except ValueError:
            gain = float("nan")
        if name in gains or not np.isfinite(gain):
            raise UsageError(f'"{part.strip()}" is not a part of a mix: give each stem once, with a number, as in {name}=0.5')
        gains[name] = gain
    used = {name: gain for name, gain in gains.items() if gain}
    if not used:
        raise UsageError(f'the mix "{text}" is silence: give a stem a gain other than 0')
    return used


class Feed:
    """What comes in through a file descriptor, read by a thread so that it is taken while a window is at work."""

    def __init__(self, descriptor: int) -> None:
        self._data = bytearray()
        self._more = threading.Condition()
        self._limit = 1 << 20  # bytes that may wait
        self._left: float = math.inf  # bytes to the end of the sound, where its length is known
        self._ended = False
        self._error: OSError | None = None
        threading.Thread(target=self._read, args=(descriptor,), daemon=True, name="demucs-np pipe reader").start()

    def _read(self, descriptor: int) -> None:
        data = b"-"
        while data:
            try:
                data = _read_some(descriptor)
            except OSError as error:
                data, self._error = b"", error
            with self._more:
                self._data += data
                self._ended = not data
                self._more.notify_all()
                while len(self._data) > self._limit:
                    self._more.wait()

    def allow(self, limit: int) -> None:
        """Let so many bytes wait before whoever sends has to."""
        with self._more:
            self._limit = limit
            self._more.notify_all()

    def end_after(self, count: int) -> None:
        """What comes after so many bytes more is no sound."""
        self._left = count

    @property
    def waiting(self) -> int:
        """Bytes that have come and were not taken."""
        return int(min(len(self._data), self._left))

    def take(self, count: int, unit: int = 1) -> bytes:
        """Up to `count` bytes, whole units of them, at least one unless the end has come: then what is left.

        Raises AudioError if the sound could not be read to its end.
        """
        with self._more:
            while self.waiting < min(unit, self._left) and not self._ended:
                self._more.wait(0.5)  # Ctrl-C is heard in between
            whole = self.waiting // unit * unit
            data = bytes(self._data[: min(count, whole) if whole else self.waiting])
            del self._data[: len(data)]
            self._left -= len(data)
            self._more.notify_all()
            if not data and self._error and self._left:
                raise AudioError(f"standard input: cannot be read ({reason_of(self._error)})")
            return data

    def exactly(self, count: int) -> bytes:
        """So many bytes, or fewer at the end."""
        return self.take(count, count)

    def skip(self, count: int) -> None:
        """Leave out so many bytes."""
        while count and (data := self.take(count)):
            count -= len(data)


def _read_some(descriptor: int) -> bytes:
    """What has come, at least a byte unless the end has come; also of a descriptor that does not wait by itself."""
    while True:
        try:
            return os.read(descriptor, 1 << 16)
        except BlockingIOError:
            select.select([descriptor], [], [])


def read_header(feed: Feed) -> Sound:
    """The header of a WAV stream, up to its samples. Raises AudioError."""
    if (begin := feed.exactly(12))[:4] not in (b"RIFF", b"RF64") or begin[8:] != b"WAVE":
        raise AudioError("standard input: is not a WAV stream; without --wav it is raw samples, see --rate, --channels and --format")
    sound: Sound | None = None
    long_size = UNKNOWN
    while True:
        chunk = feed.exactly(8)
        if len(chunk) < 8:
            raise AudioError("standard input: the WAV stream ends inside its header")
        name, size = struct.unpack("<4sI", chunk)
        if name == b"data":
            break
        body = feed.exactly(min(size, 40))
        feed.skip(size + size % 2 - len(body))
        if name == b"fmt ":
            sound = _sound_of(body)
        elif name == b"ds64" and len(body) >= 16:
            long_size = struct.unpack("<Q", body[8:16])[0]
    if sound is None:
        raise AudioError("standard input: the WAV stream has no description of its samples")
    if begin[:4] == b"RF64" and size == UNKNOWN:
        size = long_size
    if -size % 2**31 > 2**16:  # else a sender who did not know: 0, or about as much as the field or a signed one holds
        feed.end_after(size)
    return sound


def _sound_of(body: bytes) -> Sound:
    if len(body) < 16:
        raise AudioError("standard input: the WAV stream's description of its samples is cut off")
    kind, channels, rate, _, _, bits = struct.unpack("<HHIIHH", body[:16])
    if kind == 0xFFFE and len(body) >= 26:  # extensible: the kind proper begins a longer identifier
        kind = struct.unpack("<H", body[24:26])[0]
    formats: dict[tuple[int, int], Format] = {(1, 16): "s16", (3, 32): "f32"}
    if (kind, bits) not in formats or not channels:
        raise AudioError(f"standard input: WAV of kind {kind}, {bits} bits, {channels} channels; send 16-bit or 32-bit float samples")
    return Sound(rate, channels, formats[kind, bits], wav=True)


class Pipe:
    """Frames from a feed through a stream to `write`. `tell` is given lines for the listener."""

    def __init__(
        self, feed: Feed, sound: Sound, stream: Stream, gains: Mapping[str, float] | None, write: Callable[[bytes], None],
        *, max_lag: float | None = None, tell: Callable[[str], object] = lambda line: None,
    ) -> None:  # fmt: skip
        self._feed, self._sound, self._stream, self._gains, self._write, self._tell = feed, sound, stream, gains, write, tell
        self._max_lag = max_lag
        self._second = sound.rate * sound.frame  # bytes
        self._told = -math.inf  # when lag was told
        self._loudest = 1.0  # the peak that was told

    def run(self) -> None:
        """Until the input ends. Raises AudioError for an input without samples or that ends inside a frame, after all before it is out."""
        sound, first = self._sound, True
        self._feed.allow(int(self._second * (BUFFER if self._max_lag is None else max(BUFFER, 2 * self._max_lag))))
        for block in self._blocks():
            if first and sound.wav:
                self._send_header()
            first = False
            self._send(self._stream.push(block))
            self._report()
        if first and not self._left:
            raise AudioError("standard input: holds no samples")
        self._send(self._stream.flush())
        if self._left:
            raise AudioError(
                f"standard input: ends inside a frame, with {self._left} of {sound.frame} bytes; is it really {sound.format} with "
                f"{sound.channels} channels?"
            )

    def _blocks(self) -> Iterator[np.ndarray]:
        """The sound as it comes, float32 (channels, samples); with a bound on the lag, what is too late is left out."""
        frame = self._sound.frame
        self._left = 0
        part = max(1, int(PART * self._sound.rate)) * frame
        while data := self._feed.take(part, frame):
            self._left = len(data) % frame
            if self._left:  # only at the end
                return
            lag = self._lag(len(data))
            yield self._sound.decode(data) if self._max_lag is None or lag <= self._max_lag else self._skip(data, lag)

    def _lag(self, taken: int = 0) -> float:
        """Seconds that wait, or were `taken` just now (bytes), though the next window could have begun. What came during the last one
        is none as long as it is there before the next one needs it."""
        return (self._feed.waiting + taken) / self._second - max(0.0, self._stream.delay - self._stream.held)

    def _skip(self, data: bytes, lag: float) -> np.ndarray:
        """`data` and what comes after it without `lag` seconds: a cross-fade from where they begin to where they end."""
        sound, frame = self._sound, self._sound.frame
        fade = min(max(1, int(FADE * sound.rate)), len(data) // frame)
        missing = (int(lag * sound.rate) + fade) * frame - len(data)
        if (more := min(missing, self._feed.waiting // frame * frame)) > 0:
            data += self._feed.take(more, frame)
        wav = sound.decode(data)
        count = min(int(lag * sound.rate), wav.shape[1] - fade)
        ramp = np.arange(1, fade + 1, dtype=np.float32) / np.float32(fade + 1)
        wav[:, count : count + fade] = wav[:, :fade] * (1 - ramp) + wav[:, count : count + fade] * ramp
        self._tell(f"{self._speed()}skipped {count / sound.rate:.1f} s")
        return wav[:, count:]

    def _report(self) -> None:
        lag, now = self._lag(), time.monotonic()
        if self._stream.speed < 1 and lag > 2 * PART and now - self._told > TELL:
            self._told = now
            self._tell(f"{self._speed()}{lag:.1f} s behind")

    def _speed(self) -> str:
        """Before the second window is done it is not known."""
        return "" if math.isnan(self._stream.speed) else f"{self._stream.speed:.2f} x real time, "

    def _send_header(self) -> None:
        stems = 1 if self._gains else len(self._stream.stems)
        self._write(replace(self._sound, channels=stems * self._stream.channels_out).header())

    def _send(self, stems: dict[str, np.ndarray]) -> None:
        for start in range(0, next(iter(stems.values())).shape[1], BLOCK):
            self._send_block({name: stem[:, start : start + BLOCK] for name, stem in stems.items()})

    def _send_block(self, stems: dict[str, np.ndarray]) -> None:
        if self._gains is not None:
            stems = {"the mix": np.add.reduce([np.float32(gain) * stems[name] for name, gain in self._gains.items()])}
        if self._sound.format == "s16":
            self._report_cut({name: float(np.abs(stem).max()) for name, stem in stems.items()})
        self._write(self._sound.encode(np.concatenate(list(stems.values()))))

    def _report_cut(self, peaks: Mapping[str, float]) -> None:
        """Told when it happens, and again when it is a decibel worse."""
        if (loudest := max(peaks.values())) > self._loudest:
            self._loudest = 1.12 * loudest
            which = ", ".join(f"{name} ({told_decibels(peak)})" for name, peak in peaks.items() if peak > 1)
            self._tell(f"too loud for 16 bits and cut: {which}; 32-bit floats on both sides avoid it, and so do lower gains in --mix")


def write_all(descriptor: int) -> Callable[[bytes], None]:
    """Write all of the bytes it is given to a file descriptor, past Python's own buffer."""

    def write(data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(descriptor, view) :]
            except BlockingIOError:  # a descriptor that does not wait by itself
                select.select([], [descriptor], [])

    return write
