"""From an audio file or array to stems: the track's normalisation, the choice of stems, and the files that are written."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .. import audio
from ..audio import BLOCK, ArraySource, ClipMode, Encoding, Note, Source, Spool, warn
from ..errors import AudioError, DemucsError, ModelError, UsageError, reason_of
from ..kernels.resample import resample
from ..models.bag import BagOfModels
from ..models.recipe import Window
from ..threads import use_threads
from . import apply
from .apply import Event, Options, Progress
from .progress import as_progress
from .targets import check_targets
from .windows import Block, Loudness

OtherMethod = Literal["add", "minus", "none"]
WAV_16 = Encoding()
ARRAY = "the array"  # what messages call it


class Separator:
    """Separates tracks with one model and one set of options.

    `model` is a model, or what `load_model` takes: a name or a path; it is then loaded when it is first needed. `shifts`, `overlap`,
    `split`, `segment`, `seed`, `threads`, `progress`, `stems` and `window` are those of `apply_model`, but `shifts` may be None too: the
    model's own, for published models 1 as in upstream; every track starts with the same seed. `normalize`: let the model hear the
    track at a mean of 0 and a standard deviation of 1, and give the stems the track's loudness back (None: if the model's `Recipe` says
    so, as that of the published ones does). `progress=True` shows a bar, on a terminal or in a notebook.

    Source: `demucs.api.Separator`.
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
    ) -> None:
        self._model = model
        self.options = Options(shifts, split, overlap, segment, seed, window=window, normalize=normalize)
        self.stems = stems
        self.threads = threads
        self.progress = as_progress(progress)

    def __repr__(self) -> str:
        return f"Separator({self._model!r}, stems={self.stems!r}, threads={self.threads!r}, {self.options!r})"

    @property
    def model(self) -> BagOfModels:
        """The model, loaded by now."""
        if isinstance(self._model, (str, Path)):
            from ..weights import load_model

            self._model = load_model(self._model)
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
        encoding: Encoding = WAV_16,
        clip: ClipMode = "rescale",
        track: int | None = None,
        note: Note = warn,
    ) -> dict[str, Path]:
        """Separate a file of any length into files below `folder`, in bounded memory; returns stem -> the file written.

        `filename` may hold {parent} (the name of the track's folder), {track}, {trackext}, {stem} and {ext}.
        With `two_stems` that stem is written, and its counterpart: "add" also
        writes `no_X`, the sum of the other stems, "minus" `minus_X`, the track without the stem, "none" nothing more.

        "-" is standard input; `track` chooses one of several audio streams, counted from 1 (None: the default one).
        `note` is told what of a damaged file is kept.

        The stems wait on disk, in `folder`, for their peak to be known. Files appear complete or not at all; that they can be written is
        checked before the track is read.
        """
        path, folder = Path(path), Path(folder)
        outputs = Outputs.choose(self.model, self.stems, two_stems, other_method)
        targets = output_paths(path, folder, filename, outputs.names, encoding.format)
        self.options.check(self.model)
        with _folders(folder) as folders, contextlib.ExitStack() as stack:
            for target in targets.values():
                folders.make(target.parent)
            check_targets(targets.values())
            with _writable(folder):
                origin = stack.enter_context(Spool(self.audio_channels, folder))
                moments = Moments()
                for block in self.read(path, track, note):
                    origin.append(block)
                    moments.update(block)
            with _writable(folder):
                spools = [stack.enter_context(Spool(self.audio_channels, folder)) for _ in outputs.names]
            for start, block in self.stems_of(origin, moments, outputs.computed, str(path)):
                with _writable(folder):
                    for spool, part in zip(spools, outputs.mix(block, origin, start), strict=True):
                        spool.append(part)
            for number, (target, spool) in enumerate(zip(targets.values(), spools, strict=True)):
                self._tell(Event("write", number, len(spools), None))
                audio.write(target, spool, self.samplerate, encoding, clip, spool.peak)
                spool.close()
            self._tell(Event("write", len(spools), len(spools), 0.0))
        return targets

    def read(self, path: Path, number: int | None = None, note: Note = warn) -> Generator[np.ndarray, None, None]:
        """The file's samples as the model wants them, block by block: float32 (channels, samples). Raises AudioError."""
        with audio.open_track(path, number, note) as track:
            total, done = math.ceil((track.samples or 0) * self.samplerate / track.samplerate), 0
            self._tell(Event("read", 0, total, None))
            with contextlib.closing(audio.read_blocks(track, self.samplerate, self.audio_channels, self.model.backend)) as parts:
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
        for start, block in self.stems_of(ArraySource(wav), moments, names, name, **how):
            out[..., start : start + block.shape[-1]] = block
        return dict(zip(names, out, strict=True))

    def stems_of(self, source: Source, moments: Moments, names: list[str], name: str, **how: Any) -> Iterator[tuple[int, np.ndarray]]:
        """Blocks of the stems `names`, (first sample, float32 (stems, channels, samples)), at the track's loudness, `moments`.

        Raises AudioError, which begins with `name`, for a track that is too short, ModelError for NaN and infinite samples.
        """
        if moments.count < 2:
            raise AudioError(f"{name}: has {moments.count} samples at {self.samplerate} Hz, too few to be separated")
        mean, std = np.float32(0), np.float32(1)
        if self.model.normalize if self.options.normalize is None else self.options.normalize:
            mean, std = np.float32(moments.mean), np.float32(moments.std + 1e-8)
        parts = apply.blocks(
            self.model, Normalised(source, mean, std), self.options, stems=names, threads=self.threads, progress=self.progress, **how
        )
        for start, block in louder(parts, (mean, std)):
            if not np.isfinite(block).all():
                raise ModelError(f"{name}: the model made NaN or infinite samples of it; are its weights damaged?")
            yield start, block

    def _tell(self, event: Event) -> None:
        if self.progress is not None:
            self.progress(event)


class Moments:
    """Mean and unbiased standard deviation of a track's mono mix, gathered block by block in float64."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = 0.0
        self._squares = 0.0  # sum of squared distances from the mean

    def update(self, wav: np.ndarray) -> None:
        """Add float32 (channels, samples)."""
        count = wav.shape[1]
        if count == 0:
            return
        mono = wav.mean(axis=0, dtype=np.float64)
        mean = float(mono.mean())
        delta, total = mean - self.mean, self.count + count
        self._squares += float(np.square(mono - mean).sum()) + delta * delta * self.count * count / total
        self.mean += delta * count / total
        self.count = total

    @property
    def std(self) -> float:
        """NaN for a single sample."""
        return math.sqrt(self._squares / (self.count - 1)) if self.count > 1 else math.nan


class Normalised:
    """A source with the track's mean removed and divided by its standard deviation."""

    def __init__(self, source: Source, mean: np.float32, std: np.float32) -> None:
        self._source, self._mean, self._std = source, mean, std

    @property
    def shape(self) -> tuple[int, ...]:
        return self._source.shape

    @property
    def ended(self) -> bool:
        """False while the track is still growing."""
        return getattr(self._source, "ended", True)

    def read(self, start: int, stop: int) -> np.ndarray:
        out: np.ndarray = self._source.read(start, stop) - self._mean
        out /= self._std
        return out


def louder(blocks: Iterator[Block], level: Loudness) -> Iterator[Block]:
    """The blocks, which models made of a `Normalised` track, with its loudness (mean, deviation) given back, in place."""
    for start, block in blocks:
        block *= level[1]
        block += level[0]
        yield start, block


@dataclass(frozen=True)
class Outputs:
    """Which stems the model has to compute, and what is written from them."""

    computed: list[str]
    names: list[str]

    @classmethod
    def choose(cls, model: BagOfModels, stems: Sequence[str] | None, two_stems: str | None, other_method: OtherMethod) -> Outputs:
        """Raises UsageError for a stem that the model does not have."""
        if two_stems is None:
            names = apply.wanted_stems(model, stems)
            return cls(names, names)
        if stems is not None:
            raise UsageError("either choose the stems to write, or two stems: not both")
        apply.wanted_stems(model, [two_stems])
        if other_method == "add":
            return cls(list(model.sources), [two_stems, f"no_{two_stems}"])
        return cls([two_stems], [two_stems] + ([f"minus_{two_stems}"] if other_method == "minus" else []))

    def mix(self, block: np.ndarray, origin: Source, start: int) -> Sequence[np.ndarray]:
        """What is written, from computed (stems, channels, samples) that begin at sample `start` of the track."""
        if self.names == self.computed:
            return block  # type: ignore[return-value]
        stem = block[self.computed.index(self.names[0])]
        if self.names[1].startswith("minus_"):
            return [stem, origin.read(start, start + block.shape[-1]) - stem]
        others = np.zeros_like(stem)
        for name, part in zip(self.computed, block, strict=True):
            if name != self.names[0]:
                others += part
        return [stem, others]


def output_paths(track: Path, folder: Path, filename: str, names: Sequence[str], ext: str) -> dict[str, Path]:
    """Stem -> file, from the template. Raises UsageError if stems would overwrite each other or the track."""
    head, _, tail = ("stdin", "", "") if str(track) == "-" else track.name.rpartition(".")
    if head in ("", ".", ".."):  # no name for a folder: `...wav` would put its stems outside
        head = track.name
    fields = {"parent": track.absolute().parent.name, "track": head, "trackext": tail, "ext": ext}
    paths: dict[str, Path] = {}
    for name in names:
        try:
            paths[name] = folder / filename.format(stem=name, **fields)
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            raise UsageError(
                f'"{filename}" is not a name for the files: it may hold {{parent}}, {{track}}, {{trackext}}, {{stem}} and {{ext}} ({error})'
            ) from error
    if len(set(paths.values())) != len(paths):
        raise UsageError(f'with the name "{filename}" all stems of a track would be one file: put {{stem}} into it')
    if any(path.resolve() == track.resolve() for path in paths.values()):
        raise UsageError(f'{track}: would be overwritten by its own stem with the name "{filename}"')
    return paths


class _Folders:
    """Folders that were made for a track, to be removed again if it fails."""

    def __init__(self) -> None:
        self.made: list[Path] = []

    def make(self, folder: Path) -> None:
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        with _writable(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self.made += reversed(missing)


@contextlib.contextmanager
def _folders(folder: Path) -> Iterator[_Folders]:
    folders = _Folders()
    try:
        folders.make(folder)
        yield folders
    except BaseException:
        for made in reversed(folders.made):
            with contextlib.suppress(OSError):  # something else is in it
                made.rmdir()
        raise


@contextlib.contextmanager
def _writable(folder: Path) -> Iterator[None]:
    try:
        yield
    except DemucsError:
        raise
    except OSError as error:
        raise AudioError(f"{folder}: cannot be written to ({reason_of(error)}); choose another folder or free some space") from error
