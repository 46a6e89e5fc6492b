"""Windows over a track: which samples a model is given at a time, and how what it makes of them is joined.

One implementation for whole tracks and for tracks that are still coming in: all is generators of finished blocks, and where a track has
not come far enough for the next window, they give an empty block and go on from there when they are asked again.

Source: `demucs.apply`. The order of all float32 sums is upstream's.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, TypeAlias

import numpy as np

from ..audio.source import Source as Source
from ..errors import ModelError, UsageError
from ..kernels.arena import apart
from ..models.bag import Model, fills_segment, weighted_average
from ..threads import use_threads

Block: TypeAlias = tuple[int, np.ndarray]  # the first sample's number, and float32 (batch, stems, channels, samples)
Seconds: TypeAlias = float | Fraction
Loudness: TypeAlias = tuple[np.float32, np.float32]  # mean, and standard deviation

PART = 1 << 16  # samples of a chunk that go on at a time
ONE = np.float32(1)
_NOTHING = np.empty(0, np.float32)


@dataclass(frozen=True)
class Windows:
    """Chunks of `size` samples begin every `stride`, and are joined with `weight`, float32 (size,).

    `around(count)` says how many samples before and after a chunk of `count` samples the model is given with it.
    """

    size: int
    stride: int
    weight: np.ndarray
    around: Callable[[int], tuple[int, int]]


def stride_of(model: Model, segment: Seconds | None, overlap: float | Fraction) -> int:
    """Samples from one whole window to the next."""
    return int((1 - overlap) * segment_length(model, segment))


def segment_length(model: Model, segment: Seconds | None) -> int:
    """Samples of `segment` seconds, or of the model's own segment."""
    return int(model.samplerate * (model.segment if segment is None else segment))


def whole_windows(model: Model, segment: Seconds | None, overlap: float | Fraction, power: float) -> Windows:
    """Segments that overlap, cross-faded with triangles to the power `power`. What is filled up is filled up on both sides."""

    size = segment_length(model, segment)
    return Windows(size, stride_of(model, segment, overlap), _triangle(size, power), functools.partial(_centred, model, segment))


def flat_windows(model: Model, segment: Seconds | None, overlap: float | Fraction) -> Windows:
    """Segments that overlap and are averaged with equal weights. What is missing after the track's end is zeros.

    Source: `demix` of MSST, https://github.com/ZFTurbo/Music-Source-Separation-Training.
    """
    size = segment_length(model, segment)
    return Windows(size, stride_of(model, segment, overlap), np.ones(size, np.float32), lambda count: (0, size - count))


def one_window(model: Model, segment: Seconds | None, length: int) -> Windows:
    """All `length` samples at once."""
    return Windows(length, length, np.ones(length, np.float32), functools.partial(_centred, model, segment))


def late_windows(model: Model, segment: Seconds | None, hop: int, lookahead: int, fade: int) -> Windows:
    """Segments that end `lookahead` samples after the `hop` samples that are taken of them, cross-faded over `fade` samples (at most
    `hop` and `lookahead`): the rest of a segment is what came before."""
    length = segment_length(model, segment)

    def around(count: int) -> tuple[int, int]:
        after = lookahead - fade
        return model.valid_length(length) - count - after, after

    ramp = (np.arange(1, fade + 1) / (fade + 1)).astype(np.float32)
    weight = np.concatenate([ramp, np.ones(hop - fade, np.float32), ramp[::-1]])
    return Windows(hop + fade, hop, weight, around)


def _centred(model: Model, segment: Seconds | None, count: int) -> tuple[int, int]:
    """What the model wants more than `count` samples, half before and half after them."""
    more = _padded_length(model, count, segment) - count
    return more // 2, more - more // 2


@functools.lru_cache(maxsize=8)  # members of a bag share them
def _triangle(length: int, power: float) -> np.ndarray:
    """Weights that rise to the middle and fall, at most 1: float32 (length,)."""
    half = length // 2
    ramps = np.concatenate([np.arange(1, half + 1), np.arange(length - half, 0, -1)]).astype(np.float32)
    weight: np.ndarray = (ramps / ramps.max()) ** np.float32(power)
    weight.flags.writeable = False
    return weight


def _padded_length(model: Model, length: int, segment: Seconds | None) -> int:
    """How many samples the model is given for a chunk of `length`."""
    if segment is None or not fills_segment(model):
        return model.valid_length(length)
    padded = int(segment * model.samplerate)
    if padded < length:
        raise UsageError(f"{length / model.samplerate:.1f} seconds do not fit into one segment of {segment}: let the track be split")
    return padded


@dataclass(frozen=True)
class Chunk:
    """A call of a model: its number among those that run, the number of its pass, the chunk's first sample, counted from where the pass
    begins, and whether the call is about to begin or has ended."""

    member: int
    passing: int
    offset: int
    state: Literal["start", "end"]


@dataclass(frozen=True)
class View:
    """How a model hears the track: turned upside down, left and right exchanged. Its output is turned back."""

    inverse: bool = False
    swapped: bool = False

    def of(self, wav: np.ndarray) -> np.ndarray:
        """`wav` (..., channels, samples) so heard, or back."""
        wav = wav[..., ::-1, :] if self.swapped else wav
        return -wav if self.inverse else wav


@dataclass(frozen=True)
class Member:
    """A model that runs: over the track from `delay` samples of silence before it, for each delay, in each view; and its cuts."""

    model: Model
    delays: Sequence[int]
    views: Sequence[View]
    windows: Windows


@dataclass
class Run:
    """A separation. Positions are samples of the track; those before 0 or after its end are silence.

    `loudness(stop)`, where given, is the mean and deviation at which a chunk is heard whose last sample is `stop - 1`. `in_turn`: a model
    runs over the whole track before the next one does, as upstream does; otherwise they advance together, so that only the parts in
    work are in memory.
    """

    source: Source
    indices: list[int]  # of the stems that are wanted
    threads: int | None = None
    on_chunk: Callable[[Chunk], object] = lambda chunk: None
    loudness: Callable[[int], Loudness] | None = None
    in_turn: bool = False

    @property
    def length(self) -> int:
        """Samples of the track so far."""
        return self.source.shape[-1]

    def bag(self, members: Sequence[Member], weights: list[list[float]], totals: list[float]) -> Iterator[Block]:
        """The weighted average of the members."""
        batched = len(self.source.shape) == 3
        for start, outputs in self._joined([self._member(number, member) for number, member in enumerate(members)]):
            block = weighted_average(outputs, weights, totals)
            yield start, block if batched else block[0]

    def _joined(self, streams: list[Iterator[Block]]) -> Iterator[tuple[int, Iterable[np.ndarray]]]:
        return _in_turn(streams) if self.in_turn else _together(streams)

    def _member(self, number: int, member: Member) -> Iterator[Block]:
        """The average over delays and views. A pass that begins `delay` samples early hears as much silence first."""
        ways = [(delay, view) for delay in member.delays for view in member.views]
        passes = [_without_start(self._pass(number, at, member, *way), way[0]) for at, way in enumerate(ways)]
        for start, outputs in self._joined(passes):
            total: np.ndarray | None = None
            for output in outputs:
                total = output if total is None else np.add(total, output, out=total)
            assert total is not None
            if len(ways) > 1:
                total /= np.float32(len(ways))
            yield start, total

    def _pass(self, number: int, at: int, member: Member, delay: int, view: View) -> Iterator[Block]:
        """One run over the track from position `-delay` on: chunks, cross-faded, in blocks that are short beside them. Block starts count
        from there."""

        def chunk(offset: int, count: int, around: tuple[int, int]) -> np.ndarray:
            self.on_chunk(Chunk(number, at, offset, "start"))
            output = self._chunk(member.model, view, offset - delay, count, around)
            self.on_chunk(Chunk(number, at, offset, "end"))
            return output

        windows = member.windows
        size, stride, weight = windows.size, windows.stride, windows.weight
        before, weight_before = _NOTHING, _NOTHING  # sums of the chunks so far [B, S, C, n], and of their weights [n], from `offset` on
        offset = 0
        while True:
            while not self._ended and offset - delay + size + windows.around(size)[1] > self.length:
                yield offset, self._nothing(member.model)
            length = self.length + delay
            if offset >= length:
                return
            count = min(size, length - offset)
            output = chunk(offset, count, windows.around(count))
            ready = min(stride, count)
            for start in range(0, ready, PART):
                part = slice(start, min(ready, start + PART))
                total = _sum(weight[part], output[..., part], before[..., part])
                total /= _sum(ONE, weight[part], weight_before[part])
                yield offset + start, total
            rest = slice(stride, count)
            before = _sum(weight[rest], output[..., rest], before[..., rest])
            weight_before = _sum(ONE, weight[rest], weight_before[rest])
            del output  # the next chunk is worked on without it
            offset += stride

    @property
    def _ended(self) -> bool:
        return getattr(self.source, "ended", True)

    def _nothing(self, model: Model) -> np.ndarray:
        batch = self.source.shape[0] if len(self.source.shape) == 3 else 1
        return np.empty((batch, len(self.indices), model.audio_channels, 0), np.float32)

    def _chunk(self, model: Model, view: View, begin: int, length: int, around: tuple[int, int]) -> np.ndarray:
        """The model's output for `length` samples from `begin` on: (batch, wanted stems, channels, length).

        With them it is given what the track holds `around` them, before and after.
        """
        before, after = around
        level = self.loudness(min(self.length, begin + length + after)) if self.loudness else None
        wav = view.of(self._read(begin - before, begin + length + after, level))
        with use_threads(self.threads):
            output = model(wav)
        if output.shape[1] != len(model.sources) or output.shape[-1] != wav.shape[-1]:
            raise ModelError(
                f"the model made shape {output.shape} of {wav.shape[-1]} samples: not {len(model.sources)} stems of as many samples"
            )
        if self.indices != list(range(len(model.sources))):  # else they are not copied
            output = output[:, self.indices]
        output = view.of(output[..., before : before + length])
        if level is not None:
            output = output * level[1]
            output += level[0]
        return output

    def _read(self, start: int, stop: int, level: Loudness | None) -> np.ndarray:
        """float32 (batch, channels, stop - start), at the loudness that the model is to hear."""
        first, last = max(0, start), min(self.length, stop)
        *batch, channels, _ = self.source.shape
        out = apart((*(batch or [1]), channels, stop - start))
        out[:] = 0
        if first < last:
            part = self.source.read(first, last)
            out[..., first - start : last - start] = part if level is None else (part - level[0]) / level[1]
        return out


def _sum(weight: np.ndarray | np.float32, chunk: np.ndarray, before: np.ndarray) -> np.ndarray:
    """What a chunk gives with its weights, and where there is any what those before it gave: float32 (..., n), `before` (..., n or fewer).
    Both are added to zero, as upstream does it: -0 becomes 0."""
    total: np.ndarray = np.multiply(weight, chunk, out=apart(chunk.shape))
    total += np.float32(0)
    overlap = min(before.shape[-1], chunk.shape[-1])
    if overlap:
        total[..., :overlap] += before[..., :overlap]
    return total


def _together(streams: list[Iterator[Block]]) -> Iterator[tuple[int, Iterable[np.ndarray]]]:
    """Blocks of equal bounds from streams that cut differently. Every block is the caller's to change."""
    start = 0
    heads = [next(stream)[1] for stream in streams]
    while True:
        count = min(head.shape[-1] for head in heads)
        yield start, [head[..., :count] for head in heads]
        start += count
        heads = [head[..., count:] for head in heads]
        for number, stream in enumerate(streams):
            if heads[number].shape[-1] == 0:
                following = next(stream, None)
                if following is None:  # all streams have one length: the others have ended as well
                    return
                heads[number] = following[1]


def _in_turn(streams: list[Iterator[Block]]) -> Iterator[tuple[int, Iterable[np.ndarray]]]:
    """All of each stream as one block, run when it is asked for."""
    yield 0, (np.concatenate([block for _, block in stream], axis=-1) for stream in streams)


def _without_start(stream: Iterator[Block], count: int) -> Iterator[Block]:
    """The stream without its first `count` samples."""
    for start, block in stream:
        if start >= count or start + block.shape[-1] > count:
            yield max(0, start - count), block[..., max(0, count - start) :]
