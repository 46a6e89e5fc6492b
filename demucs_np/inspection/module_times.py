"""The share of each module in the time that a model takes for a segment."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from ..operations.recording import UNPLACED
from ..threads import use_threads
from .outline import Module
from .profiling import Operation, record

# Operations outside all modules, and what the table calls them.
NAMES = {
    "stft": "spectrogram", "istft": "waveform", "wiener": "masks", "phase_mask": "masks", "magnitude": "masks", "restore": "masks",
    "normalize": "input statistics", "normalize_mono": "input statistics", "resample": "resampling",
}  # fmt: skip
REST = "copies, padding and the interpreter"


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds of one call of a model."""

    total: float
    modules: dict[str, float]  # path -> in operations of the module and of the modules in it
    outside: dict[str, float]  # what -> in no module


def measure(model: Any, tree: Sequence[Module], *, threads: int | None = None, runs: int = 2) -> Times:
    """Run `model` on noise as long as `tree` says, once to warm up, and take the fastest of `runs`.

    An operation that serves several modules (the transformer's feed-forward, a norm inside a convolution) counts for the first.
    """
    assert tree[0].shape is not None
    mix = np.random.default_rng(0).standard_normal((1, *tree[0].shape[2:])).astype(np.float32)
    best: Times | None = None
    with use_threads(threads):
        model(mix)
        for _ in range(runs):
            with record(model) as operations:
                start = time.perf_counter()
                model(mix)
                total = time.perf_counter() - start
            if best is None or total < best.total:
                best = add_up(operations, tree, total)
    assert best is not None
    return best


def add_up(operations: Sequence[Operation], tree: Sequence[Module], total: float) -> Times:
    """Give every operation to the innermost module that its path names, and to all that hold that module."""
    known = {module.path for module in tree}
    modules: dict[str, float] = {}
    outside: dict[str, float] = {}
    for operation in operations:
        path = module_of(operation, known)
        if not path:
            what = NAMES.get(operation.path, REST) if operation.path in UNPLACED else REST
            outside[what] = outside.get(what, 0) + operation.seconds
        while path:
            modules[path] = modules.get(path, 0) + operation.seconds
            path = path.rpartition(".")[0]
    outside[REST] = outside.pop(REST, 0) + total - sum(operation.seconds for operation in operations)
    return Times(total, modules, outside)


def module_of(operation: Operation, known: Collection[str]) -> str:
    """The innermost module that an operation belongs to; "" if to none."""
    path = operation.path
    while path and path not in known:
        path = path.rpartition(".")[0]
    return path
