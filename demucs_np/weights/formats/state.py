"""Tensors by name and nothing else: a state dictionary, alone or inside what a training program saved with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import ModelError, WeightsError
from ...models.config import config_from_arguments
from . import second
from .checkpoint import ModelFile, exact_tensors
from .contents import Contents
from .described import Described, beside
from .foreign import architecture
from .stored import Stored

# Where training programs put the state, the better one first: `best_state` and `state` of the reference, others of MSST and Lightning.
PLACES = ("best_state", "state", "state_dict", "model_state_dict", "ema_model_state_dict", "model")
# What wrappers put before every name. An averaged model (EMA) beside the trained one is the one that was evaluated.
AVERAGED = ("ema_model.", "ema.")
WRAPPERS = ("module.", "_orig_mod.", "model.", "online_model.", *AVERAGED)
ALONE = (
    "tensors alone, which nothing describes: put the YAML of its training beside it, or give it with --config, "
    "or name a model of the same shape with --like NAME --stems A,B,C"
)


def recognises(contents: Contents) -> bool:
    """Whether there is a state in it."""
    return bool(find(contents.value))


def read(contents: Contents, described: Described | None = None) -> ModelFile:
    """The model that `described`, or else a configuration beside the file, describes.

    Raises WeightsError (its text without the path) if there is none, or it describes other tensors than these.
    """
    state = unwrapped(find(contents.value))
    if whose := architecture(state):
        raise WeightsError(f"holds the tensors of {whose}: not a Demucs architecture; this package runs HTDemucs, HDemucs and Demucs")
    described = described or beside(contents.path) or (second.describe(state) if second.recognises(state) else None)
    if described is None:
        raise WeightsError(ALONE)
    try:
        config = config_from_arguments(described.klass, (), described.kwargs)
    except ModelError as error:
        raise WeightsError(f"{described.source} describes no model: {error}") from None
    try:
        tensors = exact_tensors(config, state)
    except ModelError as error:
        raise WeightsError(f"not the model that {described.source} describes: {error}") from None
    return ModelFile(contents.path, config, (), described.kwargs, tensors, described.recipe)


def find(value: Any) -> Mapping[str, Any]:
    """The state in what was saved; empty if there is none."""
    inner = [value.get(place) for place in PLACES] if isinstance(value, Mapping) else []
    return next((each for each in (value, *inner) if _is_state(each)), {})


def _is_state(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and all(isinstance(key, str) for key in value)
        and any(isinstance(item, Stored) for item in value.values())
    )


def unwrapped(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """The state under the names that the model itself has for its tensors."""
    for prefix in AVERAGED:
        if averaged := {name: tensor for name, tensor in state.items() if name.startswith(prefix)}:
            state = averaged
    while wrappers := [prefix for prefix in WRAPPERS if all(name.startswith(prefix) for name in state)]:
        state = {name.removeprefix(wrappers[0]): tensor for name, tensor in state.items()}
    return state
