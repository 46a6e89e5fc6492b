"""Models whose weights are drawn from a seed, on this package's own engine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError
from ..models.layout import expected_tensors
from .recipe import draw_tensors, tensors_digest
from .record import Golden

if TYPE_CHECKING:
    from ..models.bag import Model


def seeded_model(golden: Golden, backend: str = "numba") -> Model:
    """The golden file's model with its weights drawn again.

    Raises UsageError when they were not drawn from a seed, or when what is drawn is not what upstream was given.
    """
    if "seed" not in golden.weights:
        raise UsageError("the golden file's weights were not drawn from a seed: name the model it was made from (-n MODEL)")
    tensors = draw_tensors(golden.weights["seed"], expected_tensors(golden.config))
    if tensors_digest(tensors) != golden.weights["sha256"]:
        raise UsageError("the weights drawn from the golden file's seed are not those it was made with: make it again with this version")
    from ..weights import build
    from ..weights.formats.checkpoint import Checkpoint

    model: Model = build(Checkpoint(Path(f"seed {golden.weights['seed']}"), golden.config, tensors), backend)
    return model
