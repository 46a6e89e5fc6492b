"""A tape: the kernel calls that open a model and run it, written down without making them, to be replayed anywhere.

A pass of HTDemucs is a fixed sequence of calls `kernel(tile0, tile1, scratch, *arrays)` that follows from configuration and length
alone; so is what makes the weights as the kernels read them from the tensors of the file. `record` builds the model and runs its own
`forward` with a pool that notes each call instead of making it. A tape is JSON:

    {"format": 2, "model": {klass, and the arguments that differ from their defaults},
     "channels": 2, "length": 343980, "sources": 4,
     "regions": {"input": bytes, "output": bytes, "weights": bytes, "constants": bytes, "arena": bytes, "tensors": bytes},
     "scratch": floats,                                       # the most that a call asks for
     "finite": [offset, count],                               # in the arena, float32: a zero here, and the input was not finite
     "kernels": [["_pad_tiles", "ffi"], ...],                 # name and type of each array: f float32, d float64, i int64
     "arguments": [[region, offset, count], ...],             # region by its place in "regions", offset in bytes, count in elements
     "constants": [["i", offset, [number, ...]], ["hann", offset, [4096]], ...], # numbers of a type, or a table: its function and arguments
     "files": [["encoder.0.conv.weight", count], ...],        # tensors of the model's file
     "opening": [[-1, file, region, offset], [kernel, tiles, scratch, argument, ...], ...],
     "calls": [[kernel, tiles, scratch, argument, ...], ...]} # kernel and arguments by their places in the lists above, scratch in floats

To replay it, lay out the regions in memory (each aligned to 64 bytes; offsets then keep every array aligned to its type) and fill the
constants. Once for each file of weights make the steps of "opening" in order: a step that begins with -1 puts a tensor of the file,
as float32, where it says; the others are calls. After that "tensors" is not needed, and until then "arena" is not: they may share
their memory. Then for each input copy it in and make the calls. For a call let threads take ranges tile0 ... tile1 of its tiles until
none is left; each thread passes a scratch of its own, float32, of at least as many floats as the call says. The next call begins when
all tiles are done. Every argument is a flat C-contiguous array; there are no scalars. Ranges and threads do not change the bits.

Regions: input float32 [channels, length], of finite numbers; output float32 [sources, channels, length]; weights, the prepared
arrays of one model, which another file of the same configuration has in the same places; constants, tables and geometries that follow
from configuration and length; arena, with arbitrary content, written before it is read; tensors, those of the file that are in use.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .. import kernels
from ..errors import ModelError
from ..kernels import stft, tables, tiles
from ..kernels.arena import Arena
from ..models import spectral, transformer
from ..models.config import Config, HTDemucsConfig
from ..models.htdemucs import between_kernels
from ..models.layout import expected_tensors
from ..operations.compiled import use_arena
from ..weights import build
from ..weights.formats.checkpoint import Checkpoint

Array = np.ndarray
REGIONS = ("input", "output", "weights", "constants", "arena", "tensors")
INPUT, OUTPUT, WEIGHTS, CONSTANTS, ARENA, TENSORS = range(len(REGIONS))
TYPES: dict[str, np.dtype[Any]] = {
    "f": np.dtype(np.float32),
    "d": np.dtype(np.float64),
    "i": np.dtype(np.int64),
    "h": np.dtype(np.uint16),
}
FORMAT = 2
LOAD = -1  # of a step that puts a tensor of the file somewhere
ALIGNED = 64  # bytes
_CODES = {dtype: code for code, dtype in TYPES.items()}
TABLES: dict[str, Callable[..., Array]] = {
    f.__name__: f
    for f in (
        tables.hann, tables.ones, stft.twiddles, spectral.inverse_envelope, transformer.positions_1d, transformer.positions_2d,
    )
}  # fmt: skip


class _Space:
    """A region that grows as places are taken in it."""

    def __init__(self) -> None:
        self.size = 0

    def take(self, size: int) -> int:
        at = -(-self.size // ALIGNED) * ALIGNED
        self.size = at + size
        return at


class _Places:
    """Where arrays are that a call may name: pieces of memory, each with its region and its offset there."""

    def __init__(self) -> None:
        self._known: list[tuple[int, int, int, int, Array]] = []  # begin, end, region, offset; the array, so that nothing else comes there

    def add(self, array: Array, region: int, offset: int) -> None:
        self._known.append((array.ctypes.data, array.ctypes.data + array.nbytes, region, offset, array))

    def find(self, address: int) -> tuple[int, int, int] | None:
        """Region, offset in it, and the offset in the piece."""
        for begin, end, region, offset, _ in self._known:
            if begin <= address < end:
                return region, offset, address - begin
        return None


@dataclass
class _Recorder:
    """Stands in for a pool. Tensors of the file have, to begin with, their number for an offset; `_opening` gives them places."""

    names: list[str]
    places: _Places = field(default_factory=_Places)
    weights: _Space = field(default_factory=_Space)
    constants: _Space = field(default_factory=_Space)
    kernels: dict[str, str] = field(default_factory=dict)
    contents: list[list[Any]] = field(default_factory=list)  # of the constants
    calls: list[list[Any]] = field(default_factory=list)  # kernel, tiles, scratch, places
    loaded: dict[int, int] = field(default_factory=dict)  # tensors that stay as they are -> offset in the weights
    opening: bool = True
    arena_size: int = 0

    def __post_init__(self) -> None:
        self._known: dict[bytes, int] = {}

    def keep(self, array: Array) -> None:
        """An array of weights that calls will fill."""
        array[:] = np.nan
        self.places.add(array, WEIGHTS, self.weights.take(array.nbytes))

    def run(self, kernel: Callable[..., Any], tiles: int, scratch: int, *args: Array) -> None:
        name, codes = kernel.__name__, "".join(_CODES[a.dtype] for a in args)
        if self.kernels.setdefault(name, codes) != codes:
            raise ModelError(f"this model cannot be recorded: {name} is called with arrays of different types")
        self.calls.append([list(self.kernels).index(name), tiles, scratch, [self._place(name, a) for a in args]])

    def _place(self, name: str, a: Array) -> tuple[int, int, int, int]:
        """Region, offset, count, and, in the tensors, which of them."""
        assert a.ndim == 1
        assert a.size < 2 or a.strides[0] == a.itemsize
        if a.size == 0:
            return CONSTANTS, 0, 0, 0
        if found := self.places.find(a.ctypes.data):
            region, offset, within = found
            if region == ARENA:
                self.arena_size = max(self.arena_size, within + a.nbytes)
            if region == TENSORS:
                if self.opening:
                    return TENSORS, within, a.size, offset
                if offset not in self.loaded:
                    self.loaded[offset] = self.weights.take(self.size_of(offset))
                return WEIGHTS, self.loaded[offset] + within, a.size, 0
            return region, offset + within, a.size, 0
        return CONSTANTS, self._constant(name, a), a.size, 0

    def size_of(self, number: int) -> int:
        return next(end - begin for begin, end, region, offset, _ in self.places._known if (region, offset) == (TENSORS, number))

    def _constant(self, name: str, a: Array) -> int:
        if a.dtype.kind == "f" and np.isnan(a).any():
            raise ModelError(f"this model cannot be recorded: {name} is given numbers that are computed outside of kernels")
        content = a.tobytes()
        if content not in self._known:
            self._known[content] = at = self.constants.take(a.nbytes)
            made = tables.origin(a)
            kind, numbers = (made[0], list(made[1])) if made is not None and made[0] in TABLES else (_CODES[a.dtype], a.tolist())
            self.contents.append([kind, at, numbers])
        return self._known[content]


OTHER_CLASS = "{} cannot be recorded: what its LSTMs and its statistics do is not all in kernels; HTDemucs can be"


def check(config: Config) -> None:
    """Raise ModelError for a configuration that is not made of kernels alone."""
    if not isinstance(config, HTDemucsConfig):
        raise ModelError(OTHER_CLASS.format(config.klass))
    if why := between_kernels(config):
        raise ModelError(f"this HTDemucs cannot be recorded: {'; '.join(why)}, for which NumPy computes between the kernels")


def record(config: Config, length: int) -> dict[str, Any]:
    """The tape of a configuration's models for a mix of `length` samples.

    Raises ModelError as `check` does, UsageError for too long a mix.
    """
    check(config)
    tensors = {name: np.full(shape, np.nan, np.float32) for name, shape in expected_tensors(config).items()}  # NumPy makes NaN of it
    recorder = _Recorder(list(tensors))
    for number, tensor in enumerate(tensors.values()):
        tensor.flags.writeable = False
        recorder.places.add(tensor, TENSORS, number)
    with tiles.recording(recorder):
        model = build(Checkpoint(Path("tape"), config, tensors), "numba")
    packing, recorder.calls, recorder.opening = recorder.calls, [], False
    mix = np.full((config.audio_channels, length), np.nan, np.float32)
    out = np.zeros((len(config.sources), *mix.shape), np.float32)
    finite = _forward(recorder, model, mix, out)
    steps, size = _opening(recorder, packing)
    arguments: dict[tuple[int, int, int], int] = {}
    for step in [*steps, *recorder.calls]:
        if step[0] != LOAD:
            step[3:] = [arguments.setdefault(place[:3], len(arguments)) for place in step[3]]
    regions = (mix.nbytes, out.nbytes, recorder.weights.size, recorder.constants.size, recorder.arena_size, size)
    return {
        "format": FORMAT,
        "channels": mix.shape[0],
        "length": length,
        "sources": len(out),
        "regions": dict(zip(REGIONS, regions, strict=True)),
        "scratch": max(step[2] for step in [*steps, *recorder.calls] if step[0] != LOAD),
        "finite": finite,
        "kernels": [list(item) for item in recorder.kernels.items()],
        "arguments": [list(place) for place in arguments],
        "constants": recorder.contents,
        "files": [[name, tensor.size] for name, tensor in tensors.items()],
        "opening": steps,
        "calls": recorder.calls,
    }


def _forward(recorder: _Recorder, model: Any, mix: Array, out: Array) -> list[int]:
    """Record a pass; returns where in the arena it says whether the mix was finite."""
    arena = Arena()
    slab = arena.base()
    recorder.places.add(mix, INPUT, 0)
    recorder.places.add(out, OUTPUT, 0)
    recorder.places.add(slab, ARENA, 0)
    for attempt in range(2):  # first to learn how much of the arena is used; then with NaN there
        if attempt:
            slab[: recorder.arena_size // 4] = np.nan
            recorder.calls.clear()
        with use_arena(arena), tiles.recording(recorder):
            finite = model.ops.finite(mix)
            model.forward(mix, out)
            model.ops.free(finite)
    return [finite.ctypes.data - slab.ctypes.data, finite.size]


def _opening(recorder: _Recorder, packing: list[list[Any]]) -> tuple[list[list[Any]], int]:
    """The steps that fill the weights, and the bytes of the tensors in use: each is put down before its first call, and given up after
    its last."""
    last: dict[int, int] = {}
    for at, (*_, places) in enumerate(packing):
        last.update({tensor: at for region, _, _, tensor in places if region == TENSORS})
    steps: list[list[Any]] = [[LOAD, number, WEIGHTS, offset] for number, offset in recorder.loaded.items()]
    used: dict[int, tuple[int, int]] = {}  # tensor -> begin, end
    size = 0
    for at, (kernel, count, scratch, places) in enumerate(packing):
        found = []
        for region, offset, elements, tensor in places:
            if region == TENSORS:
                if tensor not in used:
                    begin = _lowest(list(used.values()), recorder.size_of(tensor))
                    used[tensor] = begin, begin + recorder.size_of(tensor)
                    size = max(size, used[tensor][1])
                    steps.append([LOAD, tensor, TENSORS, begin])
                offset += used[tensor][0]
            found.append((region, offset, elements))
        steps.append([kernel, count, scratch, found])
        used = {tensor: place for tensor, place in used.items() if last[tensor] > at}
    return steps, size


def _lowest(taken: list[tuple[int, int]], size: int) -> int:
    """The lowest place for `size` bytes."""
    at = 0
    for begin, end in sorted(taken):
        if at + size <= begin:
            break
        at = max(at, -(-end // ALIGNED) * ALIGNED)
    return at


def text(tape: Mapping[str, Any]) -> str:
    """The tape as JSON, without white space."""
    return json.dumps(tape, separators=(",", ":"))


def every_kernel() -> dict[str, Callable[..., Any]]:
    """Every kernel that a tape can name."""
    found: dict[str, Callable[..., Any]] = {}
    for module in pkgutil.iter_modules(kernels.__path__):
        for name, value in vars(importlib.import_module(f"{kernels.__name__}.{module.name}")).items():
            if name.endswith("_tiles") and callable(value):
                assert found.setdefault(name, value) is value, name  # a tape knows kernels by name
    return found


class Player:
    """Replays a tape natively: what an engine elsewhere does."""

    def __init__(self, tape: Mapping[str, Any]) -> None:
        self.tape = tape
        self._kernels = every_kernel()
        self._regions = [np.empty(-(-size // ALIGNED) * ALIGNED, np.uint8) for size in tape["regions"].values()]
        for kind, offset, numbers in tape["constants"]:
            array = TABLES[kind](*numbers).reshape(-1) if kind in TABLES else np.array(numbers, TYPES[kind])
            self._regions[CONSTANTS][offset : offset + array.nbytes] = array.view(np.uint8)

    def open(self, tensors: Mapping[str, Array]) -> None:
        """Take the weights of a model: float32 tensors by name."""
        for step in self.tape["opening"]:
            if step[0] == LOAD:
                _, number, region, offset = step
                content = np.ascontiguousarray(tensors[self.tape["files"][number][0]], np.float32).reshape(-1).view(np.uint8)
                self._regions[region][offset : offset + content.size] = content
            else:
                self._call(*step)

    def play(self, mix: Array) -> Array:
        """float32 (channels, length) -> (sources, channels, length)."""
        content = np.ascontiguousarray(mix, np.float32).reshape(-1).view(np.uint8)
        self._regions[INPUT][: content.size] = content
        for call in self.tape["calls"]:
            self._call(*call)
        result = self._regions[OUTPUT][: self.tape["regions"]["output"]].view(np.float32)
        return result.reshape(self.tape["sources"], self.tape["channels"], self.tape["length"]).copy()

    def _call(self, kernel: int, count: int, scratch: int, *places: int) -> None:
        name, codes = self.tape["kernels"][kernel]
        arrays = []
        for code, place in zip(codes, places, strict=True):
            region, offset, size = self.tape["arguments"][place]
            arrays.append(self._regions[region][offset : offset + size * TYPES[code].itemsize].view(TYPES[code]))
        tiles.pool().run(self._kernels[name], count, scratch, *arrays)
