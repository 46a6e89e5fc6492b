"""Files of models, as other programs write them: containers (`contents`), and what in them describes a model (`FORMATS`)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from ...errors import ModelError, WeightsError
from . import package, published
from .checkpoint import ModelFile
from .contents import Contents, read_contents

# A format: what it is called, whether it is this one, and how it is read. The first that recognises a file's contents reads it.
FORMATS: tuple[tuple[str, Callable[[Contents], bool], Callable[[Contents], ModelFile]], ...] = (
    ("safetensors with the model's class and arguments", published.recognises, published.read),
    ("package of klass, args, kwargs and state", package.recognises, package.read),
)


def read_model_file(path: str | os.PathLike[str]) -> ModelFile:
    """Read a model as its file has it; the format is recognised by the content.

    Raises WeightsError, with the file and the reason in one line, for anything but a complete and exact model.
    """
    path = Path(path)
    try:
        contents = read_contents(path)
        for _, recognises, read in FORMATS:
            if recognises(contents):
                return read(contents)
        raise WeightsError("not a Demucs model: it holds no package of klass, args, kwargs and state")
    except RecursionError:
        raise WeightsError(f"{path}: its contents are nested too deeply") from None
    except ModelError as error:
        raise WeightsError(f"{path}: {error}") from None
