"""From an audio file or array to stems, in memory or in files."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import audio
from ..audio import BLOCK, ArraySource, ClipMode, Encoding, Note, Slice, Source, Spool, Track, warn
from ..errors import AudioError, ModelError
from ..kernels.resample import Resampler, resample
from ..machine import memory_limit
from ..models.bag import BagOfModels
from ..models.recipe import Window
from ..steps import Steps, finished
from ..threads import check_threads, use_threads
from . import apply
from .apply import Event, Options, Progress
from .cut import Cut, Length, Rate, Wanted
from .fitting import fitted
from .loudness import Moments, Normalised, louder
from .outputs import RESIDUAL, Levels, OtherMethod, Outputs
from .progress import as_progress
from .targets import Files, made_folders, output_paths, writable

WAV_16 = Encoding()
ARRAY = "the array"  # what messages call it


class Separator:
    """Separates tracks with one model and one set of options.

    `model` is a model, or what `load_model` takes: a name or a path; it is then loaded when it is first needed. `shifts`, `overlap`,
    `split`, `segment`, `seed`, `threads`, `progress`, `stems`, `window` and `tta` are those of `apply_model`, but `shifts` may be None:
    the model's own, for published models 1 as in upstream; every track starts with the same seed. `normalize`: let the model hear the
    track at a mean of 0 and a standard deviation of 1, and give the stems the track's loudness back (None: if the model's `Recipe` says
    so, as that of the published ones does). `progress=True` shows a bar, on a terminal or in a notebook.

    `memory`: bytes that the process may take, or a size as "2GB" (None: what the system, its control groups and `ulimit -v` leave free).
    Where the model's own segment needs more, the longest one that fits is taken, and a note says so; a UsageError is raised for a `segment`
    that does not fit, and for models whose segment cannot be chosen. A model that is loaded here is loaded with it, see `load_model`.

    Raises UsageError for options that make no sense. Source: `demucs.api.Separator`.
    """

    def __init__(
        self,
        model: BagOfModels | str | Path,
        *,
        shifts: int | None = None,
        overlap: float | None = None,
        split: bool = True,
        segment: float | None = None,
        stems: Sequence[str] | None = None,
        seed: int = 0,
        threads: int | None = None,
        progress: Progress | bool | None = None,
        window: Window | None = None,
        normalize: bool | None = None,
        tta: bool = False,
        memory: int | str | None = None,
    ) -> None:
        self._model = model
        self.options = Options(shifts, split, overlap, segment, seed, tta=tta, window=window, normalize=normalize)
        self.stems = stems
        self.memory = memory_limit(memory)
        check_threads(threads)
        self.threads = threads
        self.progress = as_progress(progress)

    def __repr__(self) -> str:
        return f"Separator({self._model!r}, stems={self.stems!r}, threads={self.threads!r}, {self.options!r})"

    @property
    def model(self) -> BagOfModels:
        """The model, loaded by now."""
        if isinstance(self._model, (str, Path)):
            from ..weights import load_model

            self._model = load_model(self._model, memory=self.memory)
        return self._model

    @property
    def samplerate(self) -> int:
        """Hz, of the stems and of the origin."""
        return self.model.samplerate

    @property
    def audio_channels(self) -> int:
        """Channels of the stems and of the origin."""
        return self.model.audio_channels

    def separate_audio_file(self, path: str | Path, *, track: int | None = None) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Read a file and separate it; `track` chooses one of several audio streams, counted from 1 (None: the default one).

        Returns the track as the model hears it, float32 (channels, samples) at the model's rate, and stem -> float32 (channels, samples).
        Raises AudioError for a file that cannot be read or separated.
        """
        with contextlib.closing(self.read(Path(path), track)) as parts:
            wav = np.concatenate(list(parts), axis=1)
        return wav, self.stems_in_memory(wav, str(path))

    def separate_array(self, wav: np.ndarray, samplerate: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Separate `wav`, float (channels, samples) at `samplerate` Hz, of any number of channels; returns as `separate_audio_file`."""
        wav = self.prepared(np.asarray(wav), samplerate)
        return wav, self.stems_in_memory(wav, ARRAY)

    def prepared(self, wav: np.ndarray, samplerate: int, name: str = ARRAY) -> np.ndarray:
        """`wav`, float (channels, samples) at `samplerate` Hz, as the model wants it. Raises AudioError."""
        if wav.ndim != 2 or wav.dtype.kind != "f":
            raise AudioError(f"{name}: has shape {wav.shape} of {wav.dtype}, but must be floats (channels, samples)")
        audio.check_rate(samplerate, name)
        if 0 in wav.shape:
            raise AudioError(f"{name}: holds no samples")
        audio.check_layout(wav.shape, name)
        wav = np.ascontiguousarray(wav, np.float32)
        audio.check_finite(wav, name, 0, int(samplerate))
        with use_threads(self.threads):
            return resample(audio.convert_channels(wav, self.audio_channels, name), int(samplerate), self.samplerate, self.model.backend)

    def separate_to_files(
        self,
        path: str | Path,
        folder: str | Path,
        *,
        filename: str = "{track}/{stem}.{ext}",
        two_stems: str | None = None,
        other_method: OtherMethod = "add",
        residual: bool = False,
        encoding: Encoding = WAV_16,
        clip: ClipMode = "rescale",
        rate: Rate = None,
        start: float = 0.0,
        duration: float | None = None,
        track: int | None = None,
        note: Note = warn,
    ) -> dict[str, Path]:
        """Separate a file of any length into files below `folder`, in bounded memory; returns stem -> the file written.

        `filename` may hold {parent} (the name of the track's folder), {track}, {trackext}, {stem} and {ext}.
        With `two_stems` that stem is written, and its counterpart: "add" also
        writes `no_X`, the sum of the other stems, "minus" `minus_X`, the track without the stem, "none" nothing more.
        `residual` also writes `residual`, the track less all other files as they are written: together they are the track, to one step
        of the format. With `clip="common"` all have one gain, and are the track with that gain.

        `rate`: Hz of the files, "original" for the track's own, with as many samples as it has (None: the model's). `start` and `duration`
        choose a part, in seconds; it has the samples that a separation of the whole track has there. Title, artist, album, track number,
        date and genre are the track's, with the stem's name in the title.

        "-" is standard input; `track` chooses one of several audio streams, counted from 1 (None: the default one).
        `note` is told what of a damaged file is kept, and which stems were changed against clipping.

        The stems wait on disk, in `folder`, for their peak to be known. Files appear complete or not at all; that they can be written is
        checked before the track is read.
        """
        files = Files(filename, two_stems, other_method, residual, encoding, clip, Wanted(rate, start, duration))
        return finished(self.steps_to_files(path, folder, files, track, note))

    def steps_to_files(
        self, path: str | Path, folder: str | Path, files: Files, track: int | None = None, note: Note = warn
    ) -> Steps[dict[str, Path]]:
        """`separate_to_files` in steps: one for each block of the stems; the mark stands before the first file is written."""
        path, folder = Path(path), Path(folder)
        outputs = Outputs.choose(self.model, self.stems, files.two_stems, files.other_method)
        names = outputs.names + [RESIDUAL] * files.residual
        targets = output_paths(path, folder, files.filename, names, files.encoding.format)
        options = self._fitted(len(outputs.computed), lambda line: note(f"{path}: {line}"))
        with made_folders(folder) as folders, contextlib.ExitStack() as stack:
            folders.prepare(targets.values())

            def spool() -> Spool:
                with writable(folder):
                    return stack.enter_context(Spool(self.audio_channels, folder))

            with writable(folder):
                heard = self._hear(path, track, note, spool, files.wanted.rate, files.residual)
            cut = Cut.choose(files.wanted, heard.length, str(path))
            stems = yield from self._separate(heard, cut, outputs, options, spool, str(path))
            yield True
            mix = Slice(heard.mix, cut.first, cut.first + cut.count) if files.residual else None
            levels = Levels(stems, {name: stem.peak for name, stem in stems.items()}, files.clip, files.encoding, mix)
            for number, (name, target) in enumerate(targets.items()):
                tags = audio.of_stem(heard.tags, name, path.stem)
                frames = self._written(levels.frames(name), cut.count, number, len(targets))
                folders.make(target.parent)  # a track that failed meanwhile may have taken it for its own, and removed it
                audio.write_frames(target, frames, (self.audio_channels, cut.count), cut.rate, files.encoding, tags)
            self._tell(Event("write", len(targets), len(targets), 0.0))
        if told := levels.told():
            note(f"{path}: {told}")
        return targets

    def _written(self, frames: Iterator[np.ndarray], samples: int, number: int, count: int) -> Iterator[np.ndarray]:
        """The frames of file `number` of `count`, told of as they go."""
        done = 0
        for block in frames:
            self._tell(Event("write", number + done / samples, count, None))
            yield block
            done += len(block)

    def _hear(self, path: Path, number: int | None, note: Note, spool: Callable[[], Spool], rate: Rate, residual: bool) -> Heard:
        """Read the file to its end."""
        origin, moments = spool(), Moments()
        with audio.open_track(path, number, note) as track:
            rate = track.samplerate if rate == "original" else rate or self.samplerate
            mix = spool() if residual and rate != self.samplerate else None
            converter, samples = Resampler(track.samplerate, rate, self.model.backend, fine=True), 0

            def also(block: np.ndarray) -> None:
                nonlocal samples
                samples += block.shape[1]
                if mix is not None:
                    mix.append(converter.push(block))

            for block in self._blocks(track, also):
                origin.append(block)
                moments.update(block)
            if mix is not None:
                mix.append(converter.finish())
            length = Length(track.samplerate, samples, self.samplerate, origin.samples)
        return Heard(origin, mix or origin, moments, length, track.tags)

    def _fitted(self, stems: int, note: Note, samples: int | None = None) -> Options:
        """The options, checked, and changed where there is less memory than they need: of a track that is not split, once `samples` are
        known."""
        self.options.check(self.model)
        if not self.options.split and samples is None:
            return self.options
        options, line = fitted(self.model, self.options, stems, self.memory, samples)
        if line:
            note(line)
        return options

    def _separate(
        self, heard: Heard, cut: Cut, outputs: Outputs, options: Options, spool: Callable[[], Spool], name: str
    ) -> Steps[dict[str, Spool]]:
        """The cut of each output, at the files' rate; a step for each block."""
        if not options.split:
            self._fitted(len(outputs.computed), warn, heard.origin.samples)
        stems = {output: spool() for output in outputs.names}
        first, end = cut.context(self.model, options, heard.origin.samples)
        for at, block in self.stems_of(Slice(heard.origin, first, end), heard.moments, outputs.computed, name, options):
            skip, start = max(0, cut.begin - first - at), first + at
            for stem, part in zip(stems.values(), outputs.mix(block, heard.origin, start), strict=True):
                with writable(stem.folder):
                    stem.append(part[:, skip : max(0, cut.end - start)])
            yield False
        if cut.rate == self.samplerate:
            return stems
        converted = {}
        for output, stem in stems.items():
            converted[output] = spool()
            with writable(stem.folder), use_threads(self.threads):
                cut.convert(stem, converted[output].append, self.model.backend)
            stem.close()
        return converted

    def read(self, path: Path, number: int | None = None, note: Note = warn) -> Generator[np.ndarray, None, None]:
        """The file's samples as the model wants them, block by block: float32 (channels, samples). Raises AudioError."""
        with audio.open_track(path, number, note) as track:
            yield from self._blocks(track)

    def _blocks(self, track: Track, also: Callable[[np.ndarray], object] | None = None) -> Generator[np.ndarray, None, None]:
        """As `read`; `also` is given each block before its rate is converted."""
        total, done = math.ceil((track.samples or 0) * self.samplerate / track.samplerate), 0
        self._tell(Event("read", 0, total, None))
        with contextlib.closing(audio.read_blocks(track, self.samplerate, self.audio_channels, self.model.backend, also)) as parts:
            while True:
                with use_threads(self.threads):
                    block = next(parts, None)
                if block is None:
                    return
                done += block.shape[1]
                self._tell(Event("read", done, max(done, total), None))
                yield block

    def stems_in_memory(self, wav: np.ndarray, name: str, **how: Any) -> dict[str, np.ndarray]:
        """The stems of a `prepared` array, at its loudness; `how` is for `apply.blocks`. Raises as `stems_of`."""
        names = apply.wanted_stems(self.model, self.stems)
        moments = Moments()
        for start in range(0, wav.shape[1], BLOCK):
            moments.update(wav[:, start : start + BLOCK])
        out = np.empty((len(names), *wav.shape), np.float32)
        options = self.options if how else None  # whoever says how, says all
        for start, block in self.stems_of(ArraySource(wav), moments, names, name, options, **how):
            out[..., start : start + block.shape[-1]] = block
        return dict(zip(names, out, strict=True))

    def stems_of(
        self, source: Source, moments: Moments, names: list[str], name: str, options: Options | None = None, **how: Any
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Blocks of the stems `names`, (first sample, float32 (stems, channels, samples)), at the track's loudness, `moments`.

        options: None: our own, as there is memory for.

        Raises AudioError, which begins with `name`, for a track that is too short, ModelError for NaN and infinite samples.
        """
        if moments.count < 2:
            raise AudioError(f"{name}: has {moments.count} samples at {self.samplerate} Hz, too few to be separated")
        if options is None:
            options = self._fitted(len(names), warn, source.shape[-1])
        mean, std = np.float32(0), np.float32(1)
        if self.model.normalize if self.options.normalize is None else self.options.normalize:
            mean, std = np.float32(moments.mean), np.float32(moments.std + 1e-8)
        parts = apply.blocks(
            self.model, Normalised(source, mean, std), options, stems=names, threads=self.threads, progress=self.progress, **how
        )
        for start, block in louder(parts, (mean, std)):
            if not np.isfinite(block).all():
                raise ModelError(f"{name}: the model made NaN or infinite samples of it; are its weights damaged?")
            yield start, block

    def _tell(self, event: Event) -> None:
        if self.progress is not None:
            self.progress(event)


@dataclass(frozen=True)
class Heard:
    """A track that was read."""

    origin: Spool  # as the model hears it
    mix: Spool  # at the rate of the files
    moments: Moments
    length: Length
    tags: dict[str, str]
