"""Record, replace, or switch off what a model computes while it runs, under the module paths of upstream.

    with dn.trace(layers=["encoder.*"]) as taps:
        model(mix)
    taps["encoder.0"]  # (1, C, F, T), upstream's order of axes

Costs nothing when off. Activations are copied as they pass: recording changes no bit of the output.

Beside the modules' outputs there are extras, which no module of upstream returns. They are recorded only where a pattern
ends with their name (`*.skip`, `crosstransformer.layers.0.self_attn.weights`):

    decoder.N.skip, tdecoder.N.skip   what the layer is given from the encoder
    ….self_attn.heads, .cross_attn.heads       (1, heads, N, C/heads), each head's weighted sum of the values, before the output projection
    ….self_attn.weights, .cross_attn.weights   (1, heads, N, S), how much of each key a query takes; can be recorded, not replaced

What can be switched off, see `ablation.py`.
"""

from __future__ import annotations

import contextlib
import contextvars
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

import numpy as np

from .ablation import Ablation, Parts

Array = np.ndarray
Replace = Mapping[str, Callable[[Array], Array]]

# How an array of ours becomes upstream's: our shapes are (T, F, C), (1, T, C), tokens (N, C), and heads (N, H, C/H).
_TO_UPSTREAM: dict[str, Callable[[Array], Array]] = {
    "TFC": lambda x: x.transpose(2, 1, 0)[None],  # [T, F, C] -> [1, C, F, T]
    "TC": lambda x: x.reshape(-1, x.shape[-1]).T[None],  # [1, T, C] -> [1, C, T]
    "NC": lambda x: x[None],  # [N, C] -> [1, N, C]
    "NHC": lambda x: x.transpose(1, 0, 2)[None],  # [N, H, C/H] -> [1, H, N, C/H]
    "CT": lambda x: x[None],  # [..., T] -> [1, ..., T]
}
_FROM_UPSTREAM: dict[str, Callable[[Array], Array]] = {
    "TFC": lambda y: y[0].transpose(2, 1, 0),
    "TC": lambda y: y[0].T,
    "NC": lambda y: y[0],
    "NHC": lambda y: y[0].transpose(1, 0, 2),
    "CT": lambda y: y[0],
}


def matches(path: str, pattern: str, extra: bool = False) -> bool:
    """Whether a pattern asks for an activation. An extra must be named at its end: `decoder.*` does not ask for `decoder.0.skip`."""
    return fnmatchcase(path, pattern) and (not extra or pattern.rpartition(".")[2] == path.rpartition(".")[2])


class _Tracer:
    def __init__(
        self, layers: Sequence[str] | None, replace: Replace, times: dict[str, float] | None = None, ablate: Sequence[str] = ()
    ) -> None:
        self.layers, self.replace, self.times = layers, replace, times
        self.ablation = Ablation(ablate)
        self._last = time.perf_counter()
        self.taps: dict[str, Array] = {}
        self.seen: dict[str, bool] = {}  # path -> whether it is an extra, in order

    def records(self, path: str, extra: bool) -> bool:
        if self.layers is None:
            return not extra
        return any(matches(path, pattern, extra) for pattern in self.layers)

    def tap(self, path: str, x: Array, axes: str, extra: bool) -> None:
        self.seen[path] = extra
        if self.times is not None:
            self.times[path] = time.perf_counter() - self._last
        if path in self.replace:
            shown = _TO_UPSTREAM[axes](x).copy()
            given = np.asarray(self.replace[path](shown), np.float32)
            if given.shape != shown.shape:
                raise ValueError(f"replacement of {path} has shape {given.shape}, not {shown.shape}")
            x[...] = _FROM_UPSTREAM[axes](given).reshape(x.shape)
        if self.records(path, extra):
            self.taps[path] = np.ascontiguousarray(_TO_UPSTREAM[axes](x)).copy()
        self._last = time.perf_counter()

    def ablates(self, path: str, heads: int) -> bool:
        return path in self.ablation.whole

    def missing(self) -> list[str]:
        """What was asked for and did not come by."""
        patterns = [pattern for pattern in self.layers or () if not any(matches(path, pattern, extra) for path, extra in self.seen.items())]
        return [path for path in self.replace if path not in self.seen] + patterns


_active: contextvars.ContextVar[_Tracer | None] = contextvars.ContextVar("demucs_np_trace", default=None)


@contextlib.contextmanager
def trace(
    layers: Sequence[str] | None = None,
    replace: Replace | None = None,
    times: dict[str, float] | None = None,
    ablate: Sequence[str] = (),
) -> Iterator[dict[str, Array]]:
    """Within the block, models of this thread record their activations: a dict, path -> float32 array, of the last call.

    layers: patterns (`encoder.*`) of the paths to record, None for all but the extras. replace: for a path, a function that is given
    the activation and returns another of the same shape, which the model goes on with; it may change the array it is given.
    times: filled with the seconds from each activation to the one before it, recording apart. ablate: what is switched off, so that it
    adds nothing: `crosstransformer.layers.0.self_attn:3` a head, without `:3` all that attention adds to its input,
    `crosstransformer.layers.0.linear2` what the feed-forward adds, `encoder.1.dconv` a residual branch, `decoder.0.skip` what a decoder
    layer is given from its encoder layer; `demucs-np inspect` lists them all. With `layers=[]` nothing is recorded.

    Raises ValueError for a replacement of another shape or of attention weights, TypeError for `layers` or `ablate` that is a single
    string, UsageError, when a model is called, for what it cannot switch off, and at the end of the block ValueError if a path in
    `replace` or a pattern in `layers` matched nothing.
    """
    for name, value in (("layers", layers), ("ablate", ablate)):
        if isinstance(value, str):
            raise TypeError(f"{name} must be a list: [{value!r}]")
    if fixed := [path for path in replace or () if path.endswith("_attn.weights")]:
        raise ValueError(f"{fixed[0]} can be recorded, not replaced; replace {fixed[0].removesuffix('weights')}heads")
    tracer = _Tracer(layers, dict(replace or {}), times, ablate)
    token = _active.set(tracer)
    try:
        yield tracer.taps
    finally:
        _active.reset(token)
    if tracer.seen and (missing := tracer.missing()):
        raise ValueError(f"no activation matches {', '.join(missing)}; there are {', '.join(tracer.seen)}")


class _ShapeTracer(_Tracer):
    """Notes what would be recorded, and what could be switched off."""

    def __init__(self) -> None:
        super().__init__(None, {})
        self.outputs: dict[str, tuple[int, ...]] = {}
        self.extras: dict[str, tuple[int, ...]] = {}
        self.parts: dict[str, int] = {}

    def ablates(self, path: str, heads: int) -> bool:
        self.parts[path] = max(heads, self.parts.get(path, 0))
        return False

    def records(self, path: str, extra: bool) -> bool:
        return False

    def tap(self, path: str, x: Array, axes: str, extra: bool) -> None:
        (self.extras if extra else self.outputs)[path] = _TO_UPSTREAM[axes](x).shape


@contextlib.contextmanager
def shapes() -> Iterator[tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]], dict[str, int]]]:
    """Within the block, the shapes of what a trace of this thread would record, of the modules' outputs and of extras; and the parts
    that it could switch off, with the number of their heads."""
    tracer = _ShapeTracer()
    token = _active.set(tracer)
    try:
        yield tracer.outputs, tracer.extras, tracer.parts
    finally:
        _active.reset(token)


def tap(path: str, x: Array, axes: str, *, extra: bool = False) -> Array:
    """Called by the models where an activation of upstream exists: records or replaces x if a trace is on. Returns x."""
    tracer = _active.get()
    if tracer is not None:
        tracer.tap(path, x, axes, extra)
    return x


def tracing() -> bool:
    """Whether a trace is on, for taps that cost something to prepare."""
    return _active.get() is not None


def asked(path: str) -> bool:
    """Whether a trace asks by name for this extra, which is computed for nothing else."""
    tracer = _active.get()
    return tracer is not None and tracer.records(path, extra=True)


def check_ablation(parts: Callable[[], Parts]) -> None:
    """Called where a model begins: raises UsageError if a trace switches off what is none of the model's `parts`."""
    tracer = _active.get()
    if tracer is not None and tracer.ablation.names:
        tracer.ablation.check(parts())


def ablated(path: str) -> bool:
    """Asked by the models where a part of upstream's adds to the rest: whether a trace has switched it off."""
    tracer = _active.get()
    return tracer is not None and tracer.ablates(path, 0)


def silenced(path: str, x: Array, heads: int = 0) -> Array:
    """x [..., heads*D] with zeros where a trace has switched off the part, or one of its heads. Changes x."""
    tracer = _active.get()
    if tracer is not None:
        if tracer.ablates(path, heads):
            x[...] = 0
        for head in tracer.ablation.heads.get(path, ()):
            width = x.shape[-1] // heads
            x[..., head * width : (head + 1) * width] = 0
    return x
