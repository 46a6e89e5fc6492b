"""Run a model over a track of any length: overlapping chunks, random shifts, bags of models.

Everything is built on `blocks`, a generator of finished parts of the stems: a part is given out as soon as no later chunk can
change it, so a whole track never needs to be in memory. `apply_model` collects the parts; `Separator` streams them to disk.

Source: `demucs.apply`. The order of all float32 sums is the reference's.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, cast

import numpy as np

from ..errors import AudioError, ModelError, UsageError
from ..models.bag import BagOfModels, Model, fills_segment, weighted_average
from ..threads import use_threads

MAX_SHIFT = 0.5  # seconds

Block: TypeAlias = tuple[int, np.ndarray]  # the first sample's number, and float32 (batch, stems, channels, samples)


@dataclass(frozen=True)
class Event:
    """How far a separation is: `done` of `total` steps of a stage ("read", "separate" or "write")."""

    stage: str
    done: int
    total: int
    seconds_left: float | None  # of this stage; None: not known yet


Progress: TypeAlias = Callable[[Event], object]


class Source(Protocol):
    """A track that can be read anywhere: an array, or a file."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(channels, samples) or (batch, channels, samples)."""

    def read(self, start: int, stop: int) -> np.ndarray:
        """Samples start ... stop - 1, all within the track, as float32 (..., channels, stop - start)."""


class ArraySource:
    """An array in memory as a `Source`."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array

    @property
    def shape(self) -> tuple[int, ...]:
        return self._array.shape

    def read(self, start: int, stop: int) -> np.ndarray:
        return self._array[..., start:stop]


@dataclass(frozen=True)
class Options:
    """How a track is cut and joined; see `apply_model`. Raises UsageError for values that make no sense."""

    shifts: int = 0
    split: bool = True
    overlap: float = 0.25
    segment: float | None = None
    seed: int = 0
    transition_power: float = 1.0

    def __post_init__(self) -> None:
        if self.shifts < 0:
            raise UsageError(f"shifts is {self.shifts}, but must be 0 or more")
        if not 0 <= self.overlap < 1:
            raise UsageError(f"overlap is {self.overlap}, but must be at least 0 and below 1: it is a part of the segment")
        if self.segment is not None and not 0 < self.segment < float("inf"):
            raise UsageError(f"segment is {self.segment} seconds, but must be above 0")
        if not 1 <= self.transition_power < float("inf"):
            raise UsageError(f"transition_power is {self.transition_power}, but must be at least 1")

    def check(self, model: Model | BagOfModels) -> None:
        """Raise UsageError if the model cannot be run so."""
        limit = model.max_segment
        if self.segment is not None and limit is not None and self.segment > limit:
            raise UsageError(f"a segment of {self.segment} seconds is longer than this model allows: choose at most {float(limit):g}")
        for member in model.models if isinstance(model, BagOfModels) else [model]:
            if self.split and _stride(member, self) < 1:
                raise UsageError(
                    f"chunks of {float(self.segment or member.segment):g} seconds that overlap by {self.overlap} do not advance: "
                    "choose a longer segment or a smaller overlap"
                )


def apply_model(
    model: Model | BagOfModels,
    mix: np.ndarray | Source,
    *,
    shifts: int = 0,
    split: bool = True,
    overlap: float = 0.25,
    segment: float | None = None,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
    transition_power: float = 1.0,
    stems: Sequence[str] | None = None,
) -> np.ndarray:
    """Separate `mix`, (channels, samples) or (batch, channels, samples), into float32 ([batch,] stems, channels, samples).

    `mix` has the model's sample rate and channels, and is taken as it is (`Separator` normalises it first, as the published models
    expect).

    - `shifts`: so many passes over the track, each delayed by a random time up to half a second, are averaged; 0: one pass, not delayed.
      The delays are drawn from `random.Random(seed)`.
    - `split`: work in chunks of `segment` seconds (None: the model's own) that overlap by the fraction `overlap` and are cross-faded with
      triangles, to the power `transition_power`.
    - `threads`: CPU threads (None: all); the samples are the same for any number.
    - `progress`: called with an `Event` before the first chunk and after each; what it raises ends the separation.
    - `stems`: which stems, in which order (None: all of `model.sources`). Members of a bag that contribute to none of them are not run.

    Raises UsageError for options that fit neither each other nor the model, AudioError for a mix of the wrong shape or with NaN.
    Source: `demucs.apply.apply_model`.
    """
    source = cast(Source, mix) if hasattr(mix, "read") else ArraySource(_finite(np.asarray(mix, np.float32)))
    options = Options(shifts, split, overlap, segment, seed, transition_power)
    names = wanted_stems(model, stems)
    parts = blocks(model, source, options, stems=names, threads=threads, progress=progress)
    *batch, channels, length = source.shape
    out = np.empty((*batch, len(names), channels, length), np.float32)
    for start, block in parts:
        out[..., start : start + block.shape[-1]] = block
    return out


def blocks(
    model: Model | BagOfModels,
    source: Source,
    options: Options,
    *,
    stems: Sequence[str] | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Iterator[Block]:
    """As `apply_model`, giving out (start, block) with blocks ([batch,] stems, channels, samples) that follow each other without a gap.

    All is checked at once; the first chunk is run at the first `next`. Memory: a few segments for each model and shift.
    """
    options.check(model)
    indices = [model.sources.index(name) for name in wanted_stems(model, stems)]
    if len(source.shape) not in (2, 3) or source.shape[-2] != model.audio_channels or 0 in source.shape:
        raise AudioError(
            f"the mix has shape {source.shape}, but this model takes ({model.audio_channels}, samples) or "
            f"(batch, {model.audio_channels}, samples), with at least one sample"
        )
    bag = model if isinstance(model, BagOfModels) else BagOfModels([model])
    max_shift = int(MAX_SHIFT * model.samplerate)
    draw = random.Random(options.seed)
    members: list[tuple[Model, list[int]]] = []
    weights: list[list[float]] = []
    for member, row in zip(bag.models, bag.weights, strict=True):
        delays = [max_shift - draw.randint(0, max_shift) for _ in range(options.shifts)]  # a skipped member draws all the same
        if any(row[index] for index in indices):
            members.append((member, delays))
            weights.append([row[index] for index in indices])
    totals = [sum(row[index] for row in bag.weights) for index in indices]
    return _Run(source, options, indices, threads, progress).bag(members, weights, totals)


def wanted_stems(model: Model | BagOfModels, stems: Sequence[str] | None) -> list[str]:
    """The names to compute. Raises UsageError for one that the model does not have, or that is asked for twice."""
    if stems is None:
        return list(model.sources)
    for name in stems:
        if name not in model.sources:
            raise UsageError(f'stem "{name}" is not in this model: choose from {", ".join(model.sources)}')
    if not stems or len(set(stems)) != len(stems):
        raise UsageError(f"stems is {list(stems)}, but must name one or more different stems of {', '.join(model.sources)}")
    return list(stems)


class _Run:
    """One separation. Positions are samples of the track; those before 0 or after its end are silence."""

    def __init__(self, source: Source, options: Options, indices: list[int], threads: int | None, progress: Progress | None) -> None:
        self.source = source
        self.options = options
        self.indices = indices
        self.threads = threads
        self.meter = _Meter("separate", progress)
        self.length = source.shape[-1]

    def bag(self, members: list[tuple[Model, list[int]]], weights: list[list[float]], totals: list[float]) -> Iterator[Block]:
        """The weighted average of the members; they advance together, so that only the parts in work are in memory."""
        self.meter.start(sum(self._chunks(model, delay) for model, delays in members for delay in delays or [0]))
        batched = len(self.source.shape) == 3
        for start, outputs in _together([self._member(model, delays) for model, delays in members]):
            block = weighted_average(outputs, weights, totals)
            yield start, block if batched else block[0]

    def _member(self, model: Model, delays: list[int]) -> Iterator[Block]:
        """The average over the delays. A pass that begins `delay` samples early hears as much silence first."""
        passes = [_without_start(self._pass(model, -delay), delay) for delay in delays or [0]]
        for start, outputs in _together(passes):
            total = outputs[0]
            for output in outputs[1:]:
                total += output
            if len(outputs) > 1:
                total /= np.float32(len(outputs))
            yield start, total

    def _pass(self, model: Model, begin: int) -> Iterator[Block]:
        """One run over the track from position `begin` <= 0 on: chunks, cross-faded. Block starts count from `begin`."""
        length = self.length - begin
        if not self.options.split:
            yield 0, self._chunk(model, begin, length)
            return
        size = _segment_length(model, self.options)
        stride = _stride(model, self.options)
        weight = _triangle(size, self.options.transition_power)
        total_weight = np.zeros(size, np.float32)
        total: np.ndarray | None = None  # [B, S, C, size]: of the track from `offset` on
        for offset in range(0, length, stride):
            count = min(size, length - offset)
            output = self._chunk(model, begin + offset, count)
            if total is None:
                total = np.zeros((*output.shape[:-1], size), np.float32)
            total[..., :count] += weight[:count] * output
            total_weight[:count] += weight[:count]
            ready = min(stride, length - offset)
            yield offset, total[..., :ready] / total_weight[:ready]
            for array in (total, total_weight):
                array[..., : size - stride] = array[..., stride:].copy()
                array[..., size - stride :] = 0

    def _chunk(self, model: Model, begin: int, length: int) -> np.ndarray:
        """The model's output for `length` samples from `begin` on: (batch, wanted stems, channels, length).

        A chunk shorter than the model wants is centred, and filled with what the track holds on both sides of it.
        """
        padded = _padded_length(model, length, self.options.segment)
        begin -= (padded - length) // 2
        with use_threads(self.threads):
            output = model(self._read(begin, begin + padded))
        if output.shape[1] != len(model.sources) or output.shape[-1] < length:
            raise ModelError(f"the model made shape {output.shape} of {padded} samples: not {len(model.sources)} stems of {length} samples")
        trim = (output.shape[-1] - length) // 2
        self.meter.step()
        return output[:, self.indices, :, trim : trim + length]

    def _read(self, start: int, stop: int) -> np.ndarray:
        """float32 (batch, channels, stop - start)."""
        first, last = max(0, start), min(self.length, stop)
        *batch, channels, _ = self.source.shape
        out = np.zeros((*(batch or [1]), channels, stop - start), np.float32)
        if first < last:
            out[..., first - start : last - start] = self.source.read(first, last)
        return out

    def _chunks(self, model: Model, delay: int) -> int:
        return len(range(0, self.length + delay, _stride(model, self.options))) if self.options.split else 1


class _Meter:
    """Counts steps and tells `progress`."""

    def __init__(self, stage: str, progress: Progress | None) -> None:
        self.stage = stage
        self.progress = progress

    def start(self, total: int) -> None:
        self.total = total
        self.done = 0
        self.began = time.monotonic()
        self._tell(None)

    def step(self) -> None:
        self.done += 1
        now = time.monotonic()
        pace = (now - self.began) / max(1, self.done - 1)
        if self.done == 1:  # it may have compiled kernels: count from its end
            self.began = now
        self._tell(pace * (self.total - self.done))

    def _tell(self, seconds_left: float | None) -> None:
        if self.progress is not None:
            self.progress(Event(self.stage, self.done, self.total, seconds_left))


def _segment_length(model: Model, options: Options) -> int:
    return int(model.samplerate * (model.segment if options.segment is None else options.segment))


def _stride(model: Model, options: Options) -> int:
    return int((1 - options.overlap) * _segment_length(model, options))


def _triangle(length: int, power: float) -> np.ndarray:
    """Weights that rise to the middle and fall, at most 1: float32 (length,)."""
    half = length // 2
    ramps = np.concatenate([np.arange(1, half + 1), np.arange(length - half, 0, -1)]).astype(np.float32)
    weight: np.ndarray = (ramps / ramps.max()) ** np.float32(power)
    return weight


def _padded_length(model: Model, length: int, segment: float | None) -> int:
    """How many samples the model is given for a chunk of `length`."""
    if segment is None or not fills_segment(model):
        return model.valid_length(length)
    padded = int(segment * model.samplerate)
    if padded < length:
        raise UsageError(f"{length / model.samplerate:.1f} seconds do not fit into one segment of {segment}: let the track be split")
    return padded


def _together(streams: Sequence[Iterator[Block]]) -> Iterator[tuple[int, list[np.ndarray]]]:
    """Cut streams of blocks at all their bounds, and give out the parts that cover the same samples."""
    heads = [next(stream)[1] for stream in streams]
    start = 0
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


def _without_start(stream: Iterator[Block], count: int) -> Iterator[Block]:
    """The stream without its first `count` samples."""
    for start, block in stream:
        if start + block.shape[-1] > count:
            yield max(0, start - count), block[..., max(0, count - start) :]


def _finite(mix: np.ndarray) -> np.ndarray:
    if not np.isfinite(mix).all():
        raise AudioError("the mix holds NaN or infinite samples: repair it first")
    return mix
