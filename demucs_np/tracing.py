"""Record, or replace, the activations of a model while it runs, under the module paths of the reference.

    with dn.trace(layers=["encoder.*"]) as taps:
        model(mix)
    taps["encoder.0"]  # (1, C, F, T), the reference's order of axes

Costs nothing when off. Activations are copied as they pass: recording changes no bit of the output.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

import numpy as np

Array = np.ndarray
Replace = Mapping[str, Callable[[Array], Array]]

# How an array of ours becomes the reference's: our shapes are (T, F, C), (1, T, C) and tokens (N, C).
_TO_REFERENCE: dict[str, Callable[[Array], Array]] = {
    "TFC": lambda x: x.transpose(2, 1, 0)[None],  # [T, F, C] -> [1, C, F, T]
    "TC": lambda x: x.reshape(-1, x.shape[-1]).T[None],  # [1, T, C] -> [1, C, T]
    "NC": lambda x: x[None],  # [N, C] -> [1, N, C]
    "CT": lambda x: x[None],  # [..., T] -> [1, ..., T]
}
_FROM_REFERENCE: dict[str, Callable[[Array], Array]] = {
    "TFC": lambda y: y[0].transpose(2, 1, 0),
    "TC": lambda y: y[0].T,
    "NC": lambda y: y[0],
    "CT": lambda y: y[0],
}


class _Tracer:
    def __init__(self, layers: Sequence[str] | None, replace: Replace) -> None:
        self.layers, self.replace = layers, replace
        self.taps: dict[str, Array] = {}
        self.seen: list[str] = []

    def tap(self, path: str, x: Array, axes: str) -> None:
        self.seen.append(path)
        if path in self.replace:
            shown = _TO_REFERENCE[axes](x).copy()
            given = np.asarray(self.replace[path](shown), np.float32)
            if given.shape != shown.shape:
                raise ValueError(f"replacement of {path} has shape {given.shape}, not {shown.shape}")
            x[...] = _FROM_REFERENCE[axes](given).reshape(x.shape)
        if self.layers is None or any(fnmatchcase(path, pattern) for pattern in self.layers):
            self.taps[path] = np.ascontiguousarray(_TO_REFERENCE[axes](x)).copy()


_active: contextvars.ContextVar[_Tracer | None] = contextvars.ContextVar("demucs_np_trace", default=None)


@contextlib.contextmanager
def trace(layers: Sequence[str] | None = None, replace: Replace | None = None) -> Iterator[dict[str, Array]]:
    """Within the block, models of this thread record their activations: a dict, path -> float32 array, of the last call.

    layers: patterns (`encoder.*`) of the paths to record, None for all. replace: for a path, a function that is given the activation
    and returns another of the same shape, which the model goes on with.
    Raises ValueError at the end of the block if a path in `replace` or a pattern in `layers` matched nothing.
    """
    tracer = _Tracer(layers, dict(replace or {}))
    token = _active.set(tracer)
    try:
        yield tracer.taps
    finally:
        _active.reset(token)
    if tracer.seen:
        missing = [path for path in tracer.replace if path not in tracer.seen]
        missing += [pattern for pattern in layers or () if not any(fnmatchcase(path, pattern) for path in tracer.seen)]
        if missing:
            raise ValueError(f"no activation matches {', '.join(missing)}; there are {', '.join(dict.fromkeys(tracer.seen))}")


def tap(path: str, x: Array, axes: str) -> Array:
    """Called by the models where an activation of the reference exists: records or replaces x if a trace is on. Returns x."""
    tracer = _active.get()
    if tracer is not None:
        tracer.tap(path, x, axes)
    return x


def tracing() -> bool:
    """Whether a trace is on, for taps that cost something to prepare."""
    return _active.get() is not None
