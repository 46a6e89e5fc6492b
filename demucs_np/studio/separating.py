"""One track of the library through a model: stems appear block by block, and can be heard before the last one is there."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..audio import Spool
from ..models.bag import BagOfModels
from ..separation.apply import Event, Options
from ..separation.loudness import Moments
from ..separation.separator import Separator
from .waves import WaveWriter

Tell = Callable[[str, float, float | None, int], None]  # stage, part, seconds left, samples that are ready


class Separation:
    """A track in work. `writers` holds a stem's file and pictures by its name, "mix" first, once its length is known."""

    def __init__(self, source: Path, work: Path, final: Path) -> None:
        self.source, self.work, self.final = source, work, final
        self.writers: dict[str, WaveWriter] = {}
        self.length = 0
        self.ready = 0

    def run(self, model: BagOfModels, options: Options, stems: list[str], tell: Tell) -> float:
        """Returns the seconds it took. What `tell` raises ends it; nothing is left behind then."""

        def progress(event: Event) -> None:
            stage = "reading" if event.stage == "read" else "separating" if event.done else "starting"
            tell(stage, event.done / max(1, event.total), event.seconds_left, self.ready)

        began = time.monotonic()
        separator = Separator(model, shifts=options.shifts, overlap=options.overlap, progress=progress)
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir()
        try:
            with contextlib.ExitStack() as stack:
                origin = stack.enter_context(Spool(model.audio_channels, self.work))
                moments = Moments()
                for block in stack.enter_context(contextlib.closing(separator.read(self.source))):
                    origin.append(block)
                    moments.update(block)
                self.length = origin.samples
                for name in ("mix", *stems):
                    self.writers[name] = stack.enter_context(
                        WaveWriter(self.work / f"{name}.wav", model.audio_channels, model.samplerate, self.length)
                    )
                for start, block in separator.stems_of(origin, moments, stems, str(self.source)):
                    self._append(origin.read(start, start + block.shape[-1]), stems, block)
                for writer in self.writers.values():
                    writer.finish()
            shutil.rmtree(self.final, ignore_errors=True)
            os.replace(self.work, self.final)
        except BaseException:
            shutil.rmtree(self.work, ignore_errors=True)
            raise
        return time.monotonic() - began

    def _append(self, mix: np.ndarray, stems: list[str], block: np.ndarray) -> None:
        self.writers["mix"].append(mix)
        for name, stem in zip(stems, block, strict=True):
            self.writers[name].append(stem)
        self.ready += mix.shape[1]
