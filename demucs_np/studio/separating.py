"""One track of the library through a model: stems appear block by block, and can be heard before the last one is there."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from .. import audio
from ..audio import Spool
from ..errors import AudioError, ModelError
from ..models.bag import BagOfModels
from ..separation import apply
from ..separation.apply import Event, Options
from ..separation.separator import Moments, Normalised
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
        began = time.monotonic()
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir()
        try:
            with contextlib.ExitStack() as stack:
                origin = stack.enter_context(Spool(model.audio_channels, self.work))
                moments = self._read(model, origin, tell)
                for name in ("mix", *stems):
                    self.writers[name] = stack.enter_context(
                        WaveWriter(self.work / f"{name}.wav", model.audio_channels, model.samplerate, self.length)
                    )
                self._separate(model, options, stems, origin, moments, tell)
                for writer in self.writers.values():
                    writer.finish()
            shutil.rmtree(self.final, ignore_errors=True)
            os.replace(self.work, self.final)
        except BaseException:
            shutil.rmtree(self.work, ignore_errors=True)
            raise
        return time.monotonic() - began

    def _read(self, model: BagOfModels, origin: Spool, tell: Tell) -> Moments:
        moments = Moments()
        tell("reading", 0.0, None, 0)
        with audio.open_track(self.source) as track:
            total = math.ceil((track.samples or 0) * model.samplerate / track.samplerate)
            for block in audio.read_blocks(track, model.samplerate, model.audio_channels, model.backend):
                origin.append(block)
                moments.update(block)
                tell("reading", min(1.0, origin.samples / max(1, total)), None, 0)
        if moments.count < 2:
            raise AudioError(f"has {moments.count} samples at {model.samplerate} Hz, too few to be separated")
        self.length = origin.samples
        return moments

    def _separate(self, model: BagOfModels, options: Options, stems: list[str], origin: Spool, moments: Moments, tell: Tell) -> None:
        mean, std = np.float32(moments.mean), np.float32(moments.std + 1e-8)

        def progress(event: Event) -> None:
            tell("separating" if event.done else "starting", event.done / event.total, event.seconds_left, self.ready)

        for start, block in apply.blocks(model, Normalised(origin, mean, std), options, stems=stems, progress=progress):
            block *= std
            block += mean
            if not np.isfinite(block).all():
                raise ModelError("the model made NaN or infinite samples of it; are its weights damaged?")
            stop = start + block.shape[-1]
            self.writers["mix"].append(origin.read(start, stop))
            for name, stem in zip(stems, block, strict=True):
                self.writers[name].append(stem)
            self.ready = stop
