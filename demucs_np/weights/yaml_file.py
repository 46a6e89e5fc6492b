"""Read YAML that someone else wrote: plain values only, nothing executed, bounded whatever it says."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from ..errors import WeightsError
from .files import open_plain

MAX_BYTES = 1 << 18  # a configuration has a few thousand
MAX_DEPTH = 50


def read_yaml(path: Path) -> dict[Any, Any]:
    """The mapping that a YAML file holds: dicts, lists, texts, numbers, null.

    Raises WeightsError naming the file: for other tags than `!!python/tuple` (a list), for aliases, which can stand for more than fits in
    memory, and for what is too large, too deep or no mapping.
    """
    import yaml

    try:
        with open_plain(path) as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise WeightsError(f"{path}: more than {MAX_BYTES >> 10} kB, too long for a configuration")
        content = yaml.load(data.decode(), _loader())  # a SafeLoader
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror or error}") from None
    except WeightsError:
        raise
    except Exception as error:  # dates that are none, tags that do not fit, brackets without an end: all kinds
        raise WeightsError(f"{path}: not valid YAML ({' '.join(str(error).split())[:200] or type(error).__name__})") from None
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: not a mapping of names to values")
    return content


def _sequence(loader: Any, node: Any) -> Any:
    return loader.construct_sequence(node)


@functools.cache
def _loader() -> Any:
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc, unused-ignore]  # untyped, or not, as stubs are there
        depth = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError(f"it uses the alias *{self.peek_event().anchor}: write out what it stands for")
            self.depth += 1
            if self.depth > MAX_DEPTH:
                raise yaml.YAMLError("nested too deeply")
            node = super().compose_node(parent, index)
            self.depth -= 1
            return node

    Loader.add_constructor("tag:yaml.org,2002:python/tuple", _sequence)
    return Loader
