"""Demucs music source separation in NumPy and Numba: the published weights, PyTorch's numbers, no machine-learning runtime.

The public names are loaded when they are first used, so that `import demucs_np` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .errors import AudioError, DemucsError, ModelError, UsageError, WeightsError

if TYPE_CHECKING:
    from .models.bag import BagOfModels
    from .models.taps import trace
    from .separation.apply import Event, apply_model
    from .separation.separator import Separator
    from .separation.stream import Stream
    from .weights import load_model

__version__ = "0.1.0"

__all__ = [
    "AudioError",
    "BagOfModels",
    "DemucsError",
    "Event",
    "ModelError",
    "Separator",
    "Stream",
    "UsageError",
    "WeightsError",
    "__version__",
    "apply_model",
    "load_model",
    "trace",
]

_HOMES = {
    "BagOfModels": ".models.bag",
    "Event": ".separation.apply",
    "Separator": ".separation.separator",
    "Stream": ".separation.stream",
    "apply_model": ".separation.apply",
    "load_model": ".weights",
    "trace": ".models.taps",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
