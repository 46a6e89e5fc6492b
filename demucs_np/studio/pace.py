"""How long a separation takes here: measured with the tracks that were done, estimated before the first one."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

from ..threads import default_threads
from ..weights import catalog

# Seconds of one core's work for a second of audio at the usual overlap, roughly, until a track was measured.
ESTIMATE = {"HTDemucs": 1.3, "HDemucs": 0.6, "Demucs": 0.9, "demo": 0.05}


class Pace:
    """Seconds of work for a second of audio, with one pass and no overlap, by model. Kept in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: dict[str, float] = {}
        with contextlib.suppress(OSError, ValueError):
            self._known = {str(name): float(value) for name, value in json.loads(path.read_text()).items()}

    def of(self, name: str) -> float:
        """For one pass without overlap."""
        if name in self._known:
            return self._known[name]
        bag = catalog.BAGS.get(name)
        kind = "demo" if name == catalog.DEMO.name else bag.architecture if bag and bag.architecture in ESTIMATE else "HTDemucs"
        return ESTIMATE[kind] * (len(set(bag.signatures)) if bag else 1) / default_threads()

    def measured(self, name: str, shifts: int, overlap: float, pace: float) -> None:
        """Remember what a track took, in seconds for a second of audio."""
        self._known[name] = pace * (1 - overlap) / max(1, shifts)
        temporary = self.path.with_suffix(".part")
        with contextlib.suppress(OSError):
            temporary.write_text(json.dumps(self._known))
            os.replace(temporary, self.path)
