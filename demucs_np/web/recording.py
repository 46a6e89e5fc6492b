"""Tapes for the modules: as a program, in a process that computes as they do: `python -m demucs_np.web.recording CONFIGS.json FOLDER`.

How weights are packed depends on the width of vectors, which is fixed when the package is imported.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from ..errors import ModelError
from ..models.config import Config, config_from_arguments
from .tape import check, record, text


def length_of(config: Config) -> int:
    """Samples of a model's segment. Raises ModelError for a model that a page cannot run."""
    check(config)
    if not getattr(config, "use_train_segment", True):
        raise ModelError("this HTDemucs cannot be recorded: it takes any length (use_train_segment=False), and a tape is of one length")
    return int(config.segment * config.samplerate)


def tape_of(config: Config, modules: Mapping[str, str]) -> str:
    """The tape of a configuration's segment as JSON, with the SHA-256 of the modules that it is for."""
    from .modules import KERNELS

    tape = record(config, length_of(config))
    if missing := [name for name, _ in tape["kernels"] if name not in KERNELS]:
        raise ModelError(f"this model cannot be recorded: the modules have no {', '.join(missing)}")
    return text({**tape, "modules": dict(modules)})


def main() -> None:
    """Configurations: a list of {"name", "klass", "arguments", "modules"}; writes NAME for each."""
    wanted: list[dict[str, Any]] = json.loads(Path(sys.argv[1]).read_text())
    for one in wanted:
        segment = one["arguments"]["segment"]
        exact = Fraction(segment) if isinstance(segment, str) else segment
        config = config_from_arguments(one["klass"], (), {**one["arguments"], "segment": exact})
        (Path(sys.argv[2]) / one["name"]).write_text(tape_of(config, one["modules"]))


if __name__ == "__main__":
    main()
