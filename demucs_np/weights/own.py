"""The user's own models, by names of their choice: a folder of converted files and bags, where every command finds them.

The folder is `DEMUCS_NP_MODELS`, or else `demucs-np/models` where the system keeps programs' data for a user.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import ModelError, UsageError
from . import catalog
from .convert import convert_file
from .files import written_whole
from .formats.described import Described
from .repo import LocalRepo

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def folder() -> Path:
    """Where they lie; it need not exist."""
    if explicit := os.environ.get("DEMUCS_NP_MODELS"):
        return Path(explicit)
    if sys.platform == "win32":
        data = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        data = "~/Library/Application Support"
    else:
        data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(os.path.expanduser(data)) / "demucs-np" / "models"


def catalogue() -> LocalRepo | None:
    """The models and bags that there are; None before the first."""
    return LocalRepo(folder()) if folder().is_dir() else None


def has(name: str) -> bool:
    """Whether it is the name of one."""
    own = catalogue()
    return own is not None and (name in own.files or name in own.bags)


def add(source: Path, name: str, described: Described | None = None, stems: Sequence[str] | None = None) -> Path:
    """Convert a model's file into the folder, or copy a bag's `.yaml`, whose models must have names already. Returns what was written.

    Raises UsageError for a name that cannot be one or is taken, WeightsError for a file that holds no model.
    """
    if not NAME.fullmatch(name) or name.endswith((".yaml", ".safetensors")):
        raise UsageError(f"{name!r} cannot be a model's name: letters, digits, and . _ - after the first, at most 64")
    if name in catalog.BAGS or name in catalog.OTHERS or name in catalog.LEGACY or name == catalog.DEMO.name:
        raise UsageError(f"{name!r} is the name of a published model; choose another")
    if has(name):
        raise UsageError(f"there is a model {name!r} already; choose another, or first `demucs-np models remove {name}`")
    if source.suffix in (".yaml", ".yml"):
        from .resolve import resolve

        resolve(source)  # its models can be found
        target = folder() / f"{name}.yaml"
        content = source.read_bytes()
        with written_whole(target) as file:
            file.write(content)
        return target
    return convert_file(source, folder() / f"{name}.safetensors", described, stems)


def remove(name: str) -> Path:
    """Delete a model or bag that was added; returns what it was. Raises ModelError for a name that none has."""
    own = catalogue()
    path = own and (own.files.get(name) or own.bags.get(name))
    if not path:
        raise ModelError(f"there is no model {name!r} among your own; `demucs-np models list` shows them")
    path.unlink()
    return path
