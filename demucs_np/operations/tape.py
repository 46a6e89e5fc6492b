"""A tape: the kernel calls of a forward pass, written down without making them, to be replayed anywhere.

A pass of HTDemucs is a fixed sequence of calls `kernel(tile0, tile1, scratch, *arrays)` that follows from configuration and length
alone. `record` runs the model's own `forward` with a pool that notes each call instead of making it. A tape is JSON:

    {"format": 1, "channels": 2, "length": 343980, "sources": 4,
     "regions": {"input": bytes, "output": bytes, "weights": bytes, "constants": bytes, "arena": bytes},
     "scratch": floats,                                       # the most that a call asks for
     "finite": [offset, count],                               # in the arena, float32: a zero here, and the input was not finite
     "kernels": [["_pad_tiles", "ffi"], ...],                 # name and type of each array: f float32, d float64, i int64
     "arguments": [[region, offset, count], ...],             # region by its place in "regions", offset in bytes, count in elements
     "calls": [[kernel, tiles, scratch, argument, ...], ...]} # kernel and arguments by their places in the lists above, scratch in floats

To replay it, lay out the five regions in memory (each aligned to 64 bytes; offsets then keep every array aligned to its type), copy the
weights, the constants and the input, and for each call in order let threads take ranges tile0 ... tile1 of its tiles until none is
left; each thread passes a scratch of its own, float32, of at least as many floats as the call says. The next call begins when all
tiles are done. Every argument is a flat C-contiguous array; there are no scalars. Ranges and threads do not change the bits.

Regions: input float32 [channels, length], of finite numbers; output float32 [sources, channels, length]; weights, the prepared
arrays of one model (`Recording.weights`), which another file of the same configuration has in the same places; constants, tables and
geometries that follow from configuration and length (`Recording.constants`); arena, with arbitrary content, written before it is read.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import kernels
from ..errors import ModelError
from ..kernels import tiles
from ..kernels.arena import Arena
from .compiled import use_arena

Array = np.ndarray
REGIONS = ("input", "output", "weights", "constants", "arena")
TYPES: dict[str, np.dtype[Any]] = {"f": np.dtype(np.float32), "d": np.dtype(np.float64), "i": np.dtype(np.int64)}
ALIGNED = 64  # bytes
_CODES = {dtype: code for code, dtype in TYPES.items()}


@dataclass(frozen=True)
class Recording:
    """A tape and the content of its two constant regions."""

    tape: dict[str, Any]
    weights: bytes
    constants: bytes

    def json(self) -> str:
        """The tape as text, without white space."""
        return json.dumps(self.tape, separators=(",", ":"))


class _Image:
    """Bytes of a region, put together array by array."""

    def __init__(self) -> None:
        self.data = bytearray()

    def add(self, content: bytes) -> int:
        self.data.extend(bytes(-len(self.data) % ALIGNED))
        self.data.extend(content)
        return len(self.data) - len(content)


class _Recorder:
    """Stands in for a pool. Knows every place from which an argument may come."""

    def __init__(self, given: dict[str, Array], weights: list[Array]) -> None:
        self.given = given
        self.held = sorted(((a.ctypes.data, a) for a in weights), key=lambda item: item[0])
        self.weights, self.constants = _Image(), _Image()
        self._placed: dict[int, int] = {}  # address of an array of weights -> offset in their image
        self._known: dict[bytes, int] = {}
        self.kernels: dict[str, str] = {}
        self.arguments: dict[tuple[int, int, int], int] = {}
        self.calls: list[list[int]] = []
        self.arena_size = 0

    def run(self, kernel: Callable[..., Any], tiles: int, scratch: int, *args: Array) -> None:
        name, codes = kernel.__name__, "".join(_CODES[a.dtype] for a in args)
        if self.kernels.setdefault(name, codes) != codes:
            raise ModelError(f"this model cannot be recorded: {name} is called with arrays of different types")
        places = [self.arguments.setdefault(self.place(name, a), len(self.arguments)) for a in args]
        self.calls.append([list(self.kernels).index(name), tiles, scratch, *places])

    def place(self, name: str, a: Array) -> tuple[int, int, int]:
        assert a.ndim == 1
        assert a.size < 2 or a.strides[0] == a.itemsize
        if a.size == 0:
            return REGIONS.index("constants"), 0, 0
        address = a.ctypes.data
        for region, whole in self.given.items():
            if whole.ctypes.data <= address < whole.ctypes.data + whole.nbytes:
                offset = address - whole.ctypes.data
                if region == "arena":
                    self.arena_size = max(self.arena_size, offset + a.nbytes)
                return REGIONS.index(region), offset, a.size
        for begin, whole in self.held:
            if begin <= address < begin + whole.nbytes:
                if begin not in self._placed:
                    self._placed[begin] = self.weights.add(np.ascontiguousarray(whole).tobytes())
                return REGIONS.index("weights"), self._placed[begin] + address - begin, a.size
        if a.dtype.kind == "f" and np.isnan(a).any():
            raise ModelError(f"this model cannot be recorded: {name} is given numbers that are computed from the audio outside of kernels")
        content = np.ascontiguousarray(a).tobytes()
        if content not in self._known:
            self._known[content] = self.constants.add(content)
        return REGIONS.index("constants"), self._known[content], a.size


def record(model: Any, length: int) -> Recording:
    """The tape of a compiled model's forward pass for a mix of `length` samples.

    Raises ModelError for a model that is not made of kernels alone: those with frequency bands, recurrent layers, magnitudes instead
    of complex spectrograms, an FFT size that is no power of two, or positions that are weights; UsageError for too long a mix.
    """
    if model.backend != "numba" or getattr(model.config, "t_emb", "") == "scaled" or not getattr(model.config, "cac", False):
        raise ModelError(
            "this model cannot be recorded: only compiled HTDemucs and HDemucs with cac=True, their positions computed, can be"
        )
    ops = model.ops
    mix = np.full((model.audio_channels, length), np.nan, np.float32)  # whatever NumPy makes of it is NaN
    out = np.zeros((len(model.sources), *mix.shape), np.float32)
    held = list({a.ctypes.data: a for a in _arrays(model, set()) if a.size}.values())
    size = 0
    arena = Arena()
    slab = arena.base()
    for attempt in range(2):  # first to learn how much of the arena is used; then with NaN there
        if attempt:
            slab[: size // 4] = np.nan
        recorder = _Recorder({"input": mix, "output": out, "arena": slab}, held)
        with use_arena(arena), tiles.recording(recorder):
            finite = ops.finite(mix)
            model.forward(mix, out)
            ops.free(finite)
        size = recorder.arena_size
    regions = (mix.nbytes, out.nbytes, len(recorder.weights.data), len(recorder.constants.data), size)
    tape = {
        "format": 1,
        "channels": mix.shape[0],
        "length": length,
        "sources": len(out),
        "regions": dict(zip(REGIONS, regions, strict=True)),
        "scratch": max(call[2] for call in recorder.calls),
        "finite": list(recorder.place("", finite)[1:]),
        "kernels": [list(item) for item in recorder.kernels.items()],
        "arguments": [list(place) for place in recorder.arguments],
        "calls": recorder.calls,
    }
    return Recording(tape, bytes(recorder.weights.data), bytes(recorder.constants.data))


def _arrays(value: Any, seen: set[int]) -> Iterator[Array]:
    """Every array that a model holds."""
    if isinstance(value, np.ndarray):
        yield value
        return
    inside: Any = ()
    if isinstance(value, (list, tuple)):
        inside = value
    elif isinstance(value, dict):
        inside = value.values()
    elif type(value).__module__.startswith(("demucs_np.models.", "demucs_np.kernels.")) and hasattr(value, "__dict__"):
        inside = vars(value).values() if id(value) not in seen else ()
        seen.add(id(value))
    for item in inside:
        yield from _arrays(item, seen)


def every_kernel() -> dict[str, Callable[..., Any]]:
    """Every kernel that a tape can name."""
    found: dict[str, Callable[..., Any]] = {}
    for module in pkgutil.iter_modules(kernels.__path__):
        for name, value in vars(importlib.import_module(f"{kernels.__name__}.{module.name}")).items():
            if name.endswith("_tiles") and callable(value):
                found[name] = value
    return found


def replay(tape: dict[str, Any], weights: bytes, constants: bytes, mix: Array) -> Array:
    """Make the calls of a tape natively: float32 (channels, length) -> (sources, channels, length). What an engine elsewhere does."""
    sizes = tape["regions"]
    regions = [np.empty(-(-sizes[name] // ALIGNED) * ALIGNED, np.uint8) for name in REGIONS]
    for name, content in (("input", np.ascontiguousarray(mix, np.float32).tobytes()), ("weights", weights), ("constants", constants)):
        regions[REGIONS.index(name)][: len(content)] = np.frombuffer(content, np.uint8)
    known = every_kernel()
    for index, count, scratch, *places in tape["calls"]:
        name, codes = tape["kernels"][index]
        arrays = []
        for code, place in zip(codes, places, strict=True):
            region, offset, size = tape["arguments"][place]
            arrays.append(regions[region][offset : offset + size * TYPES[code].itemsize].view(TYPES[code]))
        tiles.pool().run(known[name], count, scratch, *arrays)
    result = regions[REGIONS.index("output")][: sizes["output"]].view(np.float32)
    return result.reshape(tape["sources"], tape["channels"], tape["length"])
