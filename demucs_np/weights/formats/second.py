"""The second generation's published files: a bare state dictionary, or a quantised one packed with zlib; the rest is in the shapes.

Source: `demucs/pretrained.py` and `demucs/utils.py` of demucs 2.0.3.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ...errors import WeightsError
from ...models.config import config_from_arguments
from .checkpoint import ModelFile, exact_tensors
from .contents import Contents
from .described import Described
from .stored import Stored

KLASS = "demucs.model.Demucs"
STEMS = ("drums", "bass", "other", "vocals")
MIN_SIZE, GROUP_SIZE = 1, 8  # MiB, and values that share a width: of demucs_quantized
QUANTISED: dict[str, Any] = {"sources": list(STEMS)}
NAMES = re.compile(r"(encoder|decoder)\.\d+\.[02]\.(weight|bias)|lstm\.(lstm|linear)\.\w+")


def recognises(state: Mapping[str, Any]) -> bool:
    """Whether a state's names are those of a second-generation Demucs."""
    return {"encoder.0.0.weight", "decoder.0.0.weight", "decoder.0.2.weight"} <= state.keys() and all(map(NAMES.fullmatch, state))


def quantised(state: Any) -> bool:
    """Whether it is a quantised state of before such states described themselves: the one that was published is the only one known."""
    return isinstance(state, Mapping) and {"quantized", "others"} <= state.keys() and "meta" not in state


def read_quantised(contents: Contents) -> ModelFile:
    """The published `demucs_quantized`: the standard shape, quantised with these arguments."""
    config = config_from_arguments(KLASS, (), QUANTISED)
    state = {**contents.value, "__quantized": True, "meta": {"init_kwargs": {"min_size": MIN_SIZE, "group_size": GROUP_SIZE}}}
    return ModelFile(contents.path, config, (), QUANTISED, exact_tensors(config, state))


def describe(state: Mapping[str, Any]) -> Described:
    """The model, from its shapes. Raises WeightsError for the first generation's and for stems that nobody names."""

    def shape(name: str) -> tuple[int, ...]:
        stored = state.get(name)
        if not isinstance(stored, Stored) or len(stored.array.shape) != 3:
            raise WeightsError(f"tensor {name} has not the shape of a convolution's weight")
        return stored.array.shape

    depth = sum(re.fullmatch(r"encoder\.\d+\.0\.weight", name) is not None for name in state)
    channels, audio_channels, kernel_size = shape("encoder.0.0.weight")
    outputs = shape(f"decoder.{depth - 1}.2.weight")[1]
    if outputs != len(STEMS) * audio_channels:
        raise WeightsError("a second-generation Demucs with other stems than the published ones, which nothing names")
    if channels == 100:
        raise WeightsError("a Demucs of the first generation (100 channels, a gigabyte): not supported")
    kwargs = {
        "sources": list(STEMS),
        "audio_channels": audio_channels,
        "channels": channels,
        "depth": depth,
        "kernel_size": kernel_size,
        "context": shape("decoder.0.0.weight")[2],
        "lstm_layers": sum(re.fullmatch(r"lstm\.lstm\.weight_ih_l\d+", name) is not None for name in state),
    }
    return Described("its shapes", KLASS, kwargs)
