"""Every failure that a user can cause or meet, each with one line that says what, where and what to do."""

from __future__ import annotations

import operator
from typing import Any


class DemucsError(Exception):
    """Base of all errors that this package raises on purpose. The command prints its text and exits with `status`."""

    status = 1


class UsageError(DemucsError):
    """The options do not fit each other or the model (a stem it has not, a segment longer than it allows)."""

    status = 2


class AudioError(DemucsError):
    """An audio file or array that cannot be read, written or separated."""


class ModelError(DemucsError):
    """A model that is unknown, cannot be had, or is not one this package can run."""


class WeightsError(ModelError):
    """A weights file that is truncated, foreign, or does not hold exactly the tensors its model needs."""


class AudioWarning(UserWarning):
    """An audio file was not read, or a stem not written, just as it is: what was kept, or changed."""


class CacheWarning(UserWarning):
    """Compiled kernels could not be kept, or what was kept could not be used."""


MAX_TEXT = 60  # characters of a value in a message
MAX_INTEGER = 1 << 128


def shown(value: object) -> str:
    """A value in a message: short, and of a container only what it is. Files hold values whose `repr` never ends."""
    if isinstance(value, (str, bytes)):
        return repr(value) if len(value) <= MAX_TEXT else f"{value[:MAX_TEXT]!r} …"
    if value is None or isinstance(value, (bool, float)) or (isinstance(value, int) and abs(value) < MAX_INTEGER):
        return repr(value)
    return f"a {type(value).__name__}"


def check_whole(name: str, value: Any, least: int) -> None:
    """Raise UsageError unless the option `name` has a whole number, `least` or more."""
    try:
        enough = operator.index(value) >= least
    except TypeError:
        raise UsageError(f"{name} is {shown(value)}, but must be a whole number") from None
    if not enough:
        raise UsageError(f"{name} is {value}, but must be {least} or more")


def reason_of(error: BaseException) -> str:
    """What went wrong, as a part of a sentence."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    text = str(getattr(error, "error_string", "") or error or type(error).__name__)
    if "SF_INFO struct incomplete" in text:  # what libsndfile says to a header with 0 Hz
        return "its header gives no sample rate"
    return text.strip(" .").lower()
