"""Published and private weights: which models there are, fetching and checking them, and building a model from a file."""

from __future__ import annotations

import os
from typing import Any

from ..errors import ModelError
from ..models.config import DemucsConfig, HTDemucsConfig
from .checkpoint import Checkpoint, read_checkpoint

__all__ = ["load_model"]


def load_model(name_or_path: str | os.PathLike[str], *, repo: str | os.PathLike[str] | None = None, backend: str = "numba") -> Any:
    """A model ready to run, from the path of a `.safetensors` file.

    Raises WeightsError for a file that does not hold exactly a model this package can run.
    """
    if not os.fspath(name_or_path).endswith(".safetensors"):
        raise ModelError(f"unknown model {os.fspath(name_or_path)!r}; give the path of a .safetensors file")
    return build(read_checkpoint(name_or_path), backend)


def build(checkpoint: Checkpoint, backend: str) -> Any:
    """The model of a checkpoint. Model code is imported here, when it is known which is needed."""
    config = checkpoint.config
    if isinstance(config, HTDemucsConfig):
        from ..models.htdemucs import HTDemucs

        return HTDemucs(config, checkpoint.tensors, backend=backend)
    if isinstance(config, DemucsConfig):
        from ..models.demucs import Demucs

        return Demucs(config, checkpoint.tensors, backend=backend)
    from ..models.hdemucs import HDemucs

    return HDemucs(config, checkpoint.tensors, backend=backend)
