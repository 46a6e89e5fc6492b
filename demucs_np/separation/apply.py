"""Run a model over a track of any length: overlapping chunks, random shifts, bags of models.

Everything is built on `blocks`, a generator of finished parts of the stems: a part is given out as soon as no later chunk can
change it, so a whole track never needs to be in memory. `apply_model` collects the parts; `Separator` streams them to disk.

Source: `demucs.apply`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias, cast

import numpy as np

from ..audio.source import ArraySource
from ..errors import AudioError, UsageError, check_whole
from ..kernels.tiles import listen
from ..models.bag import BagOfModels, Model
from ..models.recipe import Window
from ..threads import check_threads
from .progress import as_progress
from .windows import Block, Chunk, Member, Run, View, Windows, flat_windows, one_window, stride_of, whole_windows
from .windows import Source as Source

MAX_SHIFT = 0.5  # seconds
INTERVAL = 0.25  # seconds between two events within a chunk, at least
GUESS = 200  # operations of a chunk, about half of an HTDemucs's


@dataclass(frozen=True)
class Event:
    """How far a separation is: `done` of `total` steps of a stage ("read", "separate" or "write"), and parts of a step."""

    stage: str
    done: float
    total: int
    seconds_left: float | None  # of this stage; None: not known yet


Progress: TypeAlias = Callable[[Event], object]


@dataclass(frozen=True)
class Options:
    """How a track is cut and joined; see `apply_model`. None: as the model's recipe says. Raises UsageError for values that make no
    sense."""

    shifts: int | None = None
    split: bool = True
    overlap: float | None = None
    segment: float | None = None
    seed: int = 0
    transition_power: float = 1.0
    tta: bool = False
    window: Window | None = None
    normalize: bool | None = None  # by `Separator`

    def __post_init__(self) -> None:
        if self.shifts is not None:
            check_whole("shifts", self.shifts, 0)
        if self.overlap is not None and not 0 <= self.overlap < 1:
            raise UsageError(f"overlap is {self.overlap}, but must be at least 0 and below 1: it is a part of the segment")
        if self.segment is not None and not 0 < self.segment < float("inf"):
            raise UsageError(f"segment is {self.segment} seconds, but must be above 0")
        if not 1 <= self.transition_power < float("inf"):
            raise UsageError(f"transition_power is {self.transition_power}, but must be at least 1")

    def check(self, model: BagOfModels) -> None:
        """Raise UsageError if the model cannot be run so."""
        limit = model.max_segment
        if self.segment is not None and limit is not None and self.segment > limit:
            raise UsageError(f"a segment of {self.segment} seconds is longer than this model allows: choose at most {float(limit):g}")
        for member in model.models:
            overlap = member.recipe.overlap if self.overlap is None else self.overlap
            if self.split and stride_of(member, self.segment, overlap) < 1:
                raise UsageError(
                    f"chunks of {float(self.segment or member.segment):g} seconds that overlap by {float(overlap):g} do not advance: "
                    "choose a longer segment or a smaller overlap"
                )

    def windows(self, model: Model) -> Windows:
        """Where the model's chunks lie, and how they are joined."""
        overlap = model.recipe.overlap if self.overlap is None else self.overlap
        if (self.window or model.recipe.window) == "flat":
            return flat_windows(model, self.segment, overlap)
        return whole_windows(model, self.segment, overlap, self.transition_power)

    def views(self, channels: int) -> list[View]:
        """How each pass hears the track."""
        return [View()] if not self.tta else [View(), View(inverse=True)] + [View(swapped=True)] * (channels > 1)


def apply_model(
    model: BagOfModels,
    mix: np.ndarray | Source,
    *,
    shifts: int = 0,
    split: bool = True,
    overlap: float | None = None,
    segment: float | None = None,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress | bool | None = None,
    transition_power: float = 1.0,
    stems: Sequence[str] | None = None,
    tta: bool = False,
    window: Window | None = None,
) -> np.ndarray:
    """Separate `mix`, (channels, samples) or (batch, channels, samples), into float32 ([batch,] stems, channels, samples).

    `mix` has the model's sample rate and channels, and is taken as it is (`Separator` normalises it first, as the published models
    expect).

    - `shifts`: so many passes over the track, each delayed by a random time up to half a second, are averaged; 0: one pass, not delayed.
      The delays are drawn from `random.Random(seed)`.
    - `split`: work in chunks of `segment` seconds that overlap by the fraction `overlap` and are joined with the `window` (see `Recipe`);
      None: the model's own, for published models a quarter and "triangle". Triangles are taken to the power `transition_power`.
    - `threads`: CPU threads (None: all); the samples are the same for any number.
    - `progress`: called with an `Event` before the first chunk and after each; what it raises ends the separation. True shows a bar.
    - `stems`: which stems, in which order (None: all of `model.sources`). Members of a bag that contribute to none of them are not run.
    - `tta`: average what the model makes of the track, of its polarity inverse and of its channels exchanged: three times the work.

    Raises UsageError for options that fit neither each other nor the model, AudioError for a mix of the wrong shape or with NaN.
    Source: `demucs.apply.apply_model`.
    """
    source = cast(Source, mix) if hasattr(mix, "read") else ArraySource(_finite(np.asarray(mix, np.float32)))
    options = Options(shifts, split, overlap, segment, seed, transition_power, tta, window)
    names = wanted_stems(model, stems)
    parts = blocks(model, source, options, stems=names, threads=threads, progress=as_progress(progress))
    *batch, channels, length = source.shape
    out = np.empty((*batch, len(names), channels, length), np.float32)
    for start, block in parts:
        out[..., start : start + block.shape[-1]] = block
    return out


def blocks(
    model: BagOfModels,
    source: Source,
    options: Options,
    *,
    stems: Sequence[str] | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    on_chunk: Callable[[Chunk], object] | None = None,
    in_turn: bool = False,
    draw: random.Random | None = None,
) -> Iterator[Block]:
    """As `apply_model`, giving out (start, block) with blocks ([batch,] stems, channels, samples) that follow each other without a gap.

    All is checked at once; the first chunk is run at the first `next`. Memory: a few segments for each model and shift.

    `on_chunk` is called before and after each call of a model. `in_turn`: a model runs over the whole track before the next one does, as
    upstream, and all is one block. `draw`: where the delays come from, in place of the seed of the options.
    """
    options.check(model)
    check_threads(threads)
    indices = [model.sources.index(name) for name in wanted_stems(model, stems)]
    if len(source.shape) not in (2, 3) or source.shape[-2] != model.audio_channels or 0 in source.shape:
        raise AudioError(
            f"the mix has shape {source.shape}, but this model takes ({model.audio_channels}, samples) or "
            f"(batch, {model.audio_channels}, samples), with at least one sample"
        )
    length = source.shape[-1]
    max_shift = int(MAX_SHIFT * model.samplerate)
    draw = draw or random.Random(options.seed)
    delays = {}  # of each model; one that is left out draws all the same
    for number in range(len(model.models)):
        shifts = model.models[number].recipe.shifts if options.shifts is None else options.shifts
        delays[number] = [max_shift - draw.randint(0, max_shift) for _ in range(shifts)] or [0]

    def member(number: int, model: Model) -> Member:
        if options.split:
            windows = options.windows(model)
        else:
            windows = one_window(model, options.segment, length + max(delays[number]))
        return Member(model, delays[number], options.views(model.audio_channels), windows)

    members, weights, totals = bag_of(model, indices, member)
    meter = _Meter("separate", progress)
    meter.start(sum(len(member.views) * _chunks(member.windows, length + delay) for member in members for delay in member.delays))

    def count(chunk: Chunk) -> None:
        if on_chunk is not None:
            on_chunk(chunk)
        if chunk.state == "start":
            listen(meter.operation if progress else None)
        else:
            listen(None)
            meter.step()

    return _heard(Run(source, indices, threads, count, in_turn=in_turn).bag(members, weights, totals))


def _heard(parts: Iterator[Block]) -> Iterator[Block]:
    try:
        yield from parts
    finally:
        listen(None)


def bag_of(
    model: BagOfModels, indices: Sequence[int], member: Callable[[int, Model], Member]
) -> tuple[list[Member], list[list[float]], list[float]]:
    """What `Run.bag` takes: the members that contribute to the stems `indices`, their weights, and the divisors of the sums."""
    rows = [[row[index] for index in indices] for row in model.weights]
    running = [number for number, row in enumerate(rows) if any(row)]
    totals = [sum(column) for column in zip(*rows, strict=True)]
    return [member(number, model.models[number]) for number in running], [rows[number] for number in running], totals


def wanted_stems(model: BagOfModels, stems: Sequence[str] | None) -> list[str]:
    """The names to compute. Raises UsageError for one that the model does not have, or that is asked for twice."""
    if stems is None:
        return list(model.sources)
    for name in stems:
        if name not in model.sources:
            raise UsageError(f'stem "{name}" is not in this model: choose from {", ".join(model.sources)}')
    if not stems or len(set(stems)) != len(stems):
        raise UsageError(f"stems is {list(stems)}, but must name one or more different stems of {', '.join(model.sources)}")
    return list(stems)


class _Meter:
    """Counts steps and tells `progress`."""

    def __init__(self, stage: str, progress: Progress | None) -> None:
        self.stage = stage
        self.progress = progress
        self.operations = self.usual = 0  # of the chunk in work, and of a whole one

    def start(self, total: int) -> None:
        self.total = total
        self.done = 0
        self.began = time.monotonic()
        self._tell(None)

    def operation(self) -> None:
        """A model has begun one more of its operations: a chunk takes seconds, and what moves is seen to live."""
        self.operations += 1
        now = time.monotonic()
        if now - self.told < INTERVAL:
            return
        # How many there are is known from the chunk before; of the first one it is guessed.
        part = min(0.99, self.operations / self.usual) if self.usual else self.operations / (self.operations + GUESS)
        left = (now - self.began) / self.done * (self.total - self.done - part) if self.done > 1 else None
        self._tell(left, part)

    def step(self) -> None:
        self.done += 1
        self.usual, self.operations = max(self.usual, self.operations), 0
        now = time.monotonic()
        pace = (now - self.began) / max(1, self.done - 1)
        if self.done == 1:  # it may have compiled kernels: count from its end
            self.began = now
        self._tell(pace * (self.total - self.done))

    def _tell(self, seconds_left: float | None, part: float = 0) -> None:
        self.told = time.monotonic()
        if self.progress is not None:
            self.progress(Event(self.stage, self.done + part, self.total, seconds_left))


def _chunks(windows: Windows, length: int) -> int:
    return len(range(0, length, windows.stride))


def _finite(mix: np.ndarray) -> np.ndarray:
    if not np.isfinite(mix).all():
        raise AudioError("the mix holds NaN or infinite samples: repair it first")
    return mix
