"""Operations that hand every call on to others, and keep what it was: what profiles and times are made of."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from ..kernels.layer import Conv, Norm
from .protocol import Operations

BOOKKEEPING = {"name", "prepare", "prepare_recurrent", "prepare_table", "run", "mark", "free", "make_room", "reset"}
# Operations of the whole model, which belong to none of its modules.
UNPLACED = {
    "finite", "pad", "transpose", "resample", "stft", "istft", "normalize", "normalize_mono", "restore", "denormalize",
    "magnitude", "phase_mask", "wiener",
}  # fmt: skip


@dataclass(frozen=True)
class Call:
    """One operation. Arrays are there by shape and type alone: what they held is free to be used again."""

    name: str
    path: str  # upstream, of the module that it belongs to; its own name, if to none
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    result: Any
    seconds: float


class Recorder:
    """Stands in for `ops`. What has no weights (attention, a copy) belongs to the module whose weights were used last."""

    def __init__(self, ops: Operations) -> None:
        self._ops = ops
        self._place = ""
        self.calls: list[Call] = []

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._ops, name)
        return function if name in BOOKKEEPING or not callable(function) else self._recording(name, function)

    def _recording(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def record(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            result = function(*args, **kwargs)
            seconds = time.perf_counter() - began
            path = name if name in UNPLACED else self._path(args, kwargs)
            self.calls.append(Call(name, path, outlined(args), {key: outlined(kwargs[key]) for key in kwargs}, outlined(result), seconds))
            return result

        return record

    def _path(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        given = kwargs.get("path") or next((a.path for a in (*args, *kwargs.values()) if isinstance(a, (Conv, Norm)) and a.path), None)
        if given is None:
            return self._place
        self._place = str(given).rpartition(".")[0]
        return str(given)


def outlined(value: Any) -> Any:
    """`value` with zeros, which share one place, for the numbers of its arrays."""
    if isinstance(value, np.ndarray):
        return np.ndarray(value.shape, value.dtype, bytes(value.itemsize), strides=(0,) * value.ndim)
    return type(value)(map(outlined, value)) if isinstance(value, (list, tuple)) else value


@contextlib.contextmanager
def recording(model: Any) -> Iterator[list[Call]]:
    """Within the block the operations that a model runs are appended to the list."""
    recorder = Recorder(model.ops)
    model.ops = cast(Operations, recorder)
    try:
        yield recorder.calls
    finally:
        model.ops = recorder._ops
