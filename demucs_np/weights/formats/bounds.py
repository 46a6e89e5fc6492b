"""What a file may ask for, before anything of it is hashed, printed or multiplied out: hostile files are small and ask for much."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import MAX_INTEGER, WeightsError

MAX_NESTING = 100  # lists in lists
MAX_ITEMS = 1_000_000  # in all of them, each counted as often as it is met
MAX_AXES = 8  # of a tensor


def bounded(value: Any) -> Any:
    """The same value: containers that are not nested or multiplied beyond measure. Raises WeightsError (its text without the path)."""
    waiting, seen = [(value, 0)], 0
    while waiting:
        item, depth = waiting.pop()
        seen += 1
        if depth > MAX_NESTING or seen > MAX_ITEMS:
            raise WeightsError("its lists are nested too deep, or too many, for a model")
        if isinstance(item, Mapping):
            waiting += [(part, depth + 1) for part in item.values()]
        elif isinstance(item, (list, tuple)):
            waiting += [(part, depth + 1) for part in item]
        elif isinstance(item, int) and abs(item) >= MAX_INTEGER:
            raise WeightsError("it holds a number too large for a model")
    return value
