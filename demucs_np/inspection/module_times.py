"""The share of each module in the time that a model takes for a segment."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..threads import use_threads
from .outline import Module
from .profiling import UNPLACED, Operation, record

# Operations outside all modules, and what the table calls them.
NAMES = {"stft": "spectrogram", "istft": "waveform", "wiener": "masks", "normalize": "input statistics"}
REST = "copies, padding and the interpreter"


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds of one call of a model."""

    total: float
    modules: dict[str, float]  # path -> in operations of the module and of the modules in it
    outside: dict[str, float]  # what -> in no module


def measure(model: Any, tree: Sequence[Module], *, threads: int | None = None, runs: int = 2) -> Times:
    """Run `model` on noise as long as `tree` says, once to warm up, and take the fastest of `runs`.

    Operations are told apart by the weights they are given. One that serves several modules (the transformer's feed-forward, a norm
    inside a convolution) counts for the first that has them all.
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
    kinds = {module.path: module.kind for module in tree}
    modules: dict[str, float] = {}
    outside: dict[str, float] = {}
    for operation in operations:
        path = module_of(operation, kinds)
        if not path:
            what = NAMES.get(operation.path, REST) if operation.path in UNPLACED else REST
            outside[what] = outside.get(what, 0) + operation.seconds
        while path:
            modules[path] = modules.get(path, 0) + operation.seconds
            path = path.rpartition(".")[0]
    outside[REST] = outside.pop(REST, 0) + total - sum(operation.seconds for operation in operations)
    return Times(total, modules, outside)


def module_of(operation: Operation, kinds: Mapping[str, str]) -> str:
    """The module of the reference that an operation belongs to; "" if to none."""
    path = operation.path
    for ours, theirs in (
        ("crosstransformer.norms.0", "crosstransformer.norm_in"),
        ("crosstransformer.norms.1", "crosstransformer.norm_in_t"),
    ):
        path = path.replace(ours, theirs)
    if layer := re.match(r"crosstransformer\.layers(_t)?\.\d+", path):
        attention = next((f"{layer[0]}.{name}" for name in ("self_attn", "cross_attn") if f"{layer[0]}.{name}" in kinds), layer[0])
        if operation.label.startswith("attention") or path.endswith((".query", ".key_value", ".query_key_value")):
            path = attention
        elif path.endswith(".project"):
            path = f"{attention}.out_proj"
    if (residual := re.match(r"((?:en|de)coder\.\d+)\.dconv", path)) and residual[0] not in kinds:  # it is a place in a Sequential
        places = [f"{residual[1]}.{number}" for number in range(8)]
        path = next((place for place in places if kinds.get(place) == "DConv"), residual[1]) + path[residual.end() :]
    if step := re.match(r"(.+?\.layers\.\d+)\.(\d+)(?:\.(\d+))?", path):
        # DConv keeps its steps as (0 convolution, 1 norm, 2 LSTM and attention, 3 convolution); the reference numbers them through.
        parts = sum(kinds.get(f"{step[1]}.{number}") in ("BLSTM", "LocalState") for number in (3, 4))
        path = {"2": f"{step[1]}.{3 + int(step[3] or 0)}", "3": f"{step[1]}.{3 + parts}"}.get(step[2], path)
    while path and path not in kinds:
        path = path.rpartition(".")[0]
    return path
