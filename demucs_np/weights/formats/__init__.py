"""Files of models, as other programs write them: containers (`contents`), and what in them describes a model (`FORMATS`)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from ...errors import ModelError, UsageError, WeightsError
from . import package, published, second, state
from .checkpoint import ModelFile
from .contents import Contents, read_contents
from .described import Described

# A format whose files describe themselves: whether it is this one, and how it is read. The first that recognises a file reads it.
FORMATS: tuple[tuple[Callable[[Contents], bool], Callable[[Contents], ModelFile]], ...] = (
    (published.recognises, published.read),
    (package.recognises, package.read),
    (lambda contents: second.quantised(contents.value), second.read_quantised),
)


def read_model_file(path: str | os.PathLike[str], described: Described | None = None) -> ModelFile:
    """Read a model as its file has it; the format is recognised by the content.

    `described` is what the file itself does not say, where it holds tensors alone (None: a configuration that lies beside it).

    Raises WeightsError, with the file and the reason in one line, for anything but a complete and exact model, UsageError for a
    description of a file that describes itself.
    """
    path = Path(path)
    try:
        return _read(read_contents(path), described)
    except RecursionError:
        raise WeightsError(f"{path}: its contents are nested too deeply") from None
    except ModelError as error:
        text = str(error)
        raise WeightsError(text if text.startswith(str(path)) else f"{path}: {text}") from None


def _read(contents: Contents, described: Described | None) -> ModelFile:
    for recognises, read in FORMATS:
        if recognises(contents):
            if described:
                raise UsageError(f"{contents.path} says itself what model it is: leave out {described.source}")
            return read(contents)
    if state.recognises(contents):
        return state.read(contents, described)
    keys = contents.value.keys() if isinstance(contents.value, dict) else ()
    if {"param_groups", "optimizer", "optimizer_state_dict", "optimizer_states"} & {key for key in keys if isinstance(key, str)}:
        raise WeightsError("holds the state of an optimiser and no model's weights; name the checkpoint that has those")
    raise WeightsError("not a Demucs model: it holds no package of klass, args, kwargs and state, and no state dictionary")
