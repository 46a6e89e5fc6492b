"""Where a model's time goes: the time, arithmetic and memory traffic of every operation, beside what this machine can do.

An operation is one of `protocol.Operations`. What it has to compute and to move follows from its
arguments alone, whatever way a kernel finds to do it: a convolution that needs fewer multiplications than the direct form shows a
higher rate than the machine's matrix product, not less arithmetic.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..kernels import tiles
from ..kernels.layer import Conv, Norm, linear
from ..operations import operations
from ..operations.recording import recording
from ..threads import default_threads, use_threads

OUTSIDE = "between operations"


@dataclasses.dataclass(frozen=True)
class Operation:
    """One call. `path` is upstream's of the module that it belongs to, or the operation's name."""

    path: str
    label: str
    seconds: float
    flop: float  # multiplications and additions of products, recurrences and FFTs; elementwise work counts nothing
    moved: float  # bytes: every array that goes in, and the result, once

    @property
    def layer(self) -> str:
        """The layer it belongs to: encoder.0, crosstransformer.layers_t.3, istft."""
        parts = self.path.split(".")
        if parts[0] == "crosstransformer":
            return ".".join(parts[:3] if parts[1:2] in (["layers"], ["layers_t"]) else parts[:2])
        return ".".join(parts[:2] if parts[1:] and parts[1].isdigit() else parts[:1])


@dataclasses.dataclass(frozen=True)
class Row:
    """Operations added up."""

    name: str
    calls: int
    seconds: float
    flop: float
    moved: float
    floor: float  # seconds: each operation at the machine's rate of arithmetic or of copying, whichever takes longer


@dataclasses.dataclass(frozen=True)
class Rates:
    """What this machine does at best on the same threads: a large matrix product, and copying memory."""

    flop: float  # per second
    moved: float  # bytes per second, read and written

    def floor(self, operation: Operation) -> float:
        """The seconds that the operation takes at these rates."""
        return max(operation.flop / self.flop, operation.moved / self.moved)


@dataclasses.dataclass(frozen=True)
class Profile:
    """A forward pass, put together from several: each operation, and what lies between them, at its fastest."""

    operations: tuple[Operation, ...]
    between: float  # seconds
    rates: Rates
    threads: int

    @property
    def seconds(self) -> float:
        """Of the whole pass."""
        return self.between + sum(o.seconds for o in self.operations)

    def rows(self, key: Callable[[Operation], str]) -> list[Row]:
        """Operations grouped by `key`, slowest group first, and what lies between them as the last row."""
        groups: dict[str, list[Operation]] = {}
        for operation in self.operations:
            groups.setdefault(key(operation), []).append(operation)
        rows = [
            Row(
                name,
                len(group),
                sum(o.seconds for o in group),
                sum(o.flop for o in group),
                sum(o.moved for o in group),
                sum(self.rates.floor(o) for o in group),
            )
            for name, group in groups.items()
        ]
        rows.sort(key=lambda row: -row.seconds)
        return [*rows, Row(OUTSIDE, 1, self.between, 0, 0, 0)]

    def layers(self) -> list[Row]:
        """By layer of the model."""
        return self.rows(lambda operation: operation.layer)

    def kinds(self) -> list[Row]:
        """By kind of operation and shape of weights."""
        return self.rows(lambda operation: operation.label)

    def __str__(self) -> str:
        return "\n\n".join([self.summary(), _table("layer", self.layers(), self.seconds), _table("operation", self.kinds(), self.seconds)])

    def summary(self) -> str:
        """The whole pass in two sentences."""
        flop, floor = sum(o.flop for o in self.operations), sum(self.rates.floor(o) for o in self.operations)
        return (
            f"{self.seconds:.2f} s on {_threads(self.threads)}: {flop / 1e9:.0f} GFLOP at {flop / self.seconds / 1e9:.1f} GFLOP/s.\n"
            f"This machine, measured just before and after: {self.rates.flop / 1e9:.1f} GFLOP/s in a matrix product, "
            f"{self.rates.moved / 1e9:.1f} GB/s in copying memory; at these rates the pass takes {floor:.2f} s."
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "seconds": self.seconds,
            "threads": self.threads,
            "machine": dataclasses.asdict(self.rates),
            "layers": [dataclasses.asdict(row) for row in self.layers()],
            "operations": [dataclasses.asdict(row) for row in self.kinds()],
        }


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def _table(title: str, rows: Sequence[Row], total: float) -> str:
    """x floor: how many times as long it takes as at the machine's own rates."""
    width = max(len(title), *(len(row.name) for row in rows))
    lines = [f"{title:{width}}  calls       ms      %    GFLOP  GFLOP/s       MB   GB/s  x floor"]
    for row in rows:
        line = f"{row.name:{width}}  {row.calls:5}  {row.seconds * 1e3:7.1f}  {row.seconds / total:5.1%}"
        if row.moved:
            rate = f"{row.flop / row.seconds / 1e9:7.1f}" if row.flop else "      -"
            line += f"  {row.flop / 1e9:7.2f}  {rate}  {row.moved / 1e6:7.1f}  {row.moved / row.seconds / 1e9:5.1f}"
            line += f"  {row.seconds / row.floor:7.2f}"
        lines.append(line)
    return "\n".join(lines)


def profile(model: Any, mix: np.ndarray, *, threads: int | None = None, passes: int = 3) -> Profile:
    """Run `model` on `mix` (batch, channels, samples) `passes` times, after one that compiles and fills the caches."""
    threads = threads or default_threads()
    with use_threads(threads):
        model(mix)
        before = machine_rates(model.backend)
        best: list[Operation] = []
        between = math.inf
        for _ in range(passes):
            with record(model) as recorded:
                began = time.perf_counter()
                model(mix)
                seconds = time.perf_counter() - began
            between = min(between, seconds - sum(o.seconds for o in recorded))
            # A pass is a fixed sequence of operations.
            best = [min(pair, key=lambda o: o.seconds) for pair in zip(best, recorded, strict=True)] if best else recorded
        after = machine_rates(model.backend)
    rates = Rates(max(before.flop, after.flop), max(before.moved, after.moved))
    return Profile(tuple(best), between, rates, threads)


@contextlib.contextmanager
def record(model: Any) -> Iterator[list[Operation]]:
    """Within, the operations that `model` runs (on one Python thread); they are in the list when the block has ended."""
    recorded: list[Operation] = []
    with recording(model) as calls:
        yield recorded
    for call in calls:
        label, flop = _cost(call.name, call.args, call.kwargs, call.result)
        recorded.append(Operation(call.path, label, call.seconds, flop, _moved(call.args, call.kwargs, call.result)))


def _arrays(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[np.ndarray]:
    for argument in [*args, *kwargs.values()]:
        if isinstance(argument, Conv):
            yield argument.weights if argument.packed is None else argument.packed
        elif isinstance(argument, Norm):
            yield from (argument.weight, argument.bias)
        elif isinstance(argument, np.ndarray):
            yield argument
        elif isinstance(argument, (list, tuple)):
            yield from _arrays(argument, {})


def _moved(args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> float:
    results = result if isinstance(result, tuple) else (result,)
    return sum(array.nbytes for array in _arrays(args, kwargs)) + sum(array.nbytes for array in _arrays(results, {}))


def _cost(name: str, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> tuple[str, float]:
    """What an operation is called in the table, and its floating-point operations."""
    x = args[0]
    if name == "conv":
        layer: Conv = args[1]
        rows, _ = layer.extent(x.shape[1], kwargs.get("rows"), kwargs.get("length"))
        return _conv_label(layer), 2 * x.shape[0] * rows * layer.columns * layer.width * layer.channels * layer.taps
    if name == "feed_forward":
        widen: Conv = args[2]
        return f"feed-forward {widen.channels}>{widen.columns}>{widen.channels}", 4 * x[0].size * widen.columns
    if name == "attention":
        return f"attention {x.shape[0]} to {args[1].shape[0]}", 4 * x.size * args[1].shape[0]
    if name == "local_attention":
        return f"local attention {x.shape[0]}", 4 * result.size * x.shape[0]
    if name == "lstm":
        return f"lstm {result.shape[2] // 2}", 4 * result.size * result.shape[2]
    if name == "projected_stats":
        return "statistics of a 1x1 conv from its input", x.size * x.shape[2]
    if name in ("stft", "istft"):
        n_fft = args[1]
        transforms = (result if name == "stft" else x).size // n_fft
        return name, 2.5 * n_fft * math.log2(n_fft) * transforms
    return name.replace("_", " "), 0


def _conv_label(layer: Conv) -> str:
    into = f"{layer.channels}>{layer.columns // layer.upsample}"
    if layer.upsample > 1:
        text = f"transposed conv, stride {layer.upsample}, {into}"
    elif layer.width == layer.taps == 1:
        text = f"1x1 {into}"
    else:
        text = f"{layer.width}x{layer.taps} conv {into}"
    text += f", stride {layer.stride}" if layer.stride > 1 else ""
    text += ", norm" if layer.norm is not None or layer.projection is not None else ""
    return text + (f", {layer.activation}" if layer.activation != "none" else "")


def machine_rates(backend: str = "numba", repeats: int = 5) -> Rates:
    """Measure, on the threads in use: the backend's matrix product on a shape that suits it, and copying arrays far larger than caches."""
    ops = operations(backend)
    rows, K, N = 2688, 512, 1536  # queries, keys and values of an HTDemucs layer: the weights stay in cache
    layer = ops.prepare(linear(np.full((N, K), 0.5, np.float32), np.zeros(N, np.float32)))
    x = np.ones((1, rows, K), np.float32)
    product = _fastest(lambda: ops.free(ops.conv(x, layer)), repeats)

    size, part = 1 << 25, 1 << 20  # 128 MiB, in tiles of 4
    source, target = np.ones(size, np.float32), np.ones(size, np.float32)

    def copy(tile0: int, tile1: int, _scratch: np.ndarray) -> None:
        np.copyto(target[tile0 * part : tile1 * part], source[tile0 * part : tile1 * part])

    copying = _fastest(lambda: tiles.pool().run(copy, size // part, 0), repeats)
    return Rates(2 * rows * K * N / product, (source.nbytes + target.nbytes) / copying)


def _fastest(work: Callable[[], object], repeats: int) -> float:
    """Seconds, after one call that is not counted."""
    times = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times[1:])
