"""The interface of `demucs.api`, for programs that were written for it: `import demucs_np.api as api`.

Arrays are NumPy's; a PyTorch tensor that is given comes back as tensors, where PyTorch is installed. Other programs will rather use
`demucs_np.Separator`. Source: `demucs.api`.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .audio import ArraySource, ClipMode, Encoding, write
from .errors import AudioError, ModelError, UsageError
from .models.bag import BagOfModels
from .separation import separator
from .separation.separator import ARRAY
from .separation.windows import Chunk
from .weights import list_models as _list_models
from .weights import load_model

Callback = Callable[[dict[str, Any]], object]


class LoadAudioError(AudioError):
    """An audio file that cannot be read."""


class LoadModelError(ModelError):
    """A model that is unknown, or cannot be had."""


class _NotProvided:
    def __repr__(self) -> str:
        return "NotProvided"


NotProvided = _NotProvided()


class Separator:
    """A model and how it is run. Arguments have the names, the order and the defaults of `demucs.api.Separator`.

    - `model`: any name that `demucs_np.load_model` takes; `repo`: a folder of models. Loaded at once: raises LoadModelError.
    - `device` is accepted and makes no difference; `jobs` is the number of CPU threads (0: all cores).
    - `shifts`, `overlap`, `split`, `segment`: as in `demucs_np.apply_model`. The random delays are drawn from the module `random`, so
      that `random.seed(...)` before a separation decides about them. The first one of an HTDemucs is upstream's; after it upstream's
      transformer draws from `random` in every call, and ours does not.
    - `progress`: True shows a bar, on a terminal or in a notebook.
    - `callback` is called before and after each chunk with a dictionary: `callback_arg`, and over it `model_idx_in_bag`, `shift_idx`,
      `segment_offset`, `audio_length` (samples), `models` and `state` ("start" or "end"). What it raises ends the separation.
    """

    def __init__(
        self,
        model: str = "htdemucs",
        repo: Path | None = None,
        device: str = "cpu",
        shifts: int = 1,
        overlap: float = 0.25,
        split: bool = True,
        segment: float | None = None,
        jobs: int = 0,
        progress: bool = False,
        callback: Callback | None = None,
        callback_arg: Mapping[str, Any] | None = None,
    ) -> None:
        self._name = model
        try:
            self._model = load_model(model, repo=repo)
        except ModelError as error:
            raise LoadModelError(str(error)) from error
        self._options: dict[str, Any] = {}
        self.update_parameter(
            device, shifts, overlap, split, segment, jobs, progress=progress, callback=callback, callback_arg=callback_arg
        )

    def update_parameter(
        self,
        device: str | _NotProvided = NotProvided,
        shifts: int | _NotProvided = NotProvided,
        overlap: float | _NotProvided = NotProvided,
        split: bool | _NotProvided = NotProvided,
        segment: float | _NotProvided | None = NotProvided,
        jobs: int | _NotProvided = NotProvided,
        progress: bool | _NotProvided = NotProvided,
        callback: Callback | _NotProvided | None = NotProvided,
        callback_arg: Mapping[str, Any] | _NotProvided | None = NotProvided,
    ) -> None:
        """Change what is given, and leave the rest."""
        given = {
            "device": device, "shifts": shifts, "overlap": overlap, "split": split, "segment": segment, "jobs": jobs,
            "progress": progress, "callback": callback, "callback_arg": callback_arg,
        }  # fmt: skip
        self._options |= {name: value for name, value in given.items() if not isinstance(value, _NotProvided)}

    @property
    def samplerate(self) -> int:
        """Hz, of the model and of what comes back."""
        return self._model.samplerate

    @property
    def audio_channels(self) -> int:
        """Channels of the model and of what comes back."""
        return self._model.audio_channels

    @property
    def model(self) -> BagOfModels:
        """The model, always as a bag."""
        return self._model

    def separate_audio_file(self, file: str | Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Read a file and separate it: the track as the model hears it, float32 (channels, samples), and stem -> the same.

        Raises LoadAudioError for a file that cannot be read, AudioError for one that cannot be separated.
        """
        own = self._own()
        try:
            wav = np.concatenate(list(own.read(Path(file))), axis=1)
        except AudioError as error:
            raise LoadAudioError(str(error)) from error
        return wav, self._stems(own, wav, str(file))

    def separate_tensor(self, wav: Any, sr: int | None = None) -> tuple[Any, dict[str, Any]]:
        """Separate `wav`, float (channels, samples) at `sr` Hz (None: the model's rate), an array or a PyTorch tensor: returns the wave
        at the model's rate and channels, and stem -> the same, all of the kind that was given. Raises AudioError.
        """
        torch = sys.modules.get("torch")
        tensor = torch is not None and isinstance(wav, torch.Tensor)
        own = self._own()
        origin = own.prepared(np.asarray(wav.detach().cpu() if tensor else wav), self.samplerate if sr is None else sr)
        stems = self._stems(own, origin, ARRAY)
        if torch is None or not tensor:
            return origin, stems
        return torch.from_numpy(origin), {name: torch.from_numpy(stem) for name, stem in stems.items()}

    def _own(self) -> separator.Separator:
        options = self._options
        return separator.Separator(
            self._model,
            shifts=options["shifts"],
            overlap=options["overlap"],
            split=options["split"],
            segment=options["segment"],
            threads=options["jobs"] or None,
            progress=options["progress"],
        )

    def _stems(self, own: separator.Separator, wav: np.ndarray, name: str) -> dict[str, np.ndarray]:
        """The stems; models run one after the other, and the module `random` moves on, as upstream's do."""
        delays = random.Random()
        delays.setstate(random.getstate())
        try:
            return own.stems_in_memory(wav, name, on_chunk=self._listener(wav.shape[1]), in_turn=True, draw=delays)
        finally:
            random.setstate(delays.getstate())

    def _listener(self, length: int) -> Callable[[Chunk], object] | None:
        callback = self._options["callback"]
        if callback is None:
            return None
        always = {**(self._options["callback_arg"] or {}), "audio_length": length, "models": len(self._model.models)}

        def tell(chunk: Chunk) -> None:
            where = {"model_idx_in_bag": chunk.member, "shift_idx": chunk.passing, "segment_offset": chunk.offset, "state": chunk.state}
            callback({**always, **where})

        return tell

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self._options.items() if value is not None)
        return f"Separator({self._name!r}, {shown})"


def save_audio(
    wav: Any,
    path: str | Path,
    samplerate: int,
    bitrate: int = 320,
    clip: ClipMode = "rescale",
    bits_per_sample: Literal[16, 24, 32] = 16,
    as_float: bool = False,
    preset: int = 2,
) -> None:
    """Write `wav`, float (channels, samples), to a .wav, .flac or .mp3, made quieter if it would clip (`clip`).

    `preset` is accepted: the MP3 encoder has one. Raises ValueError for another ending, UsageError for 32 bits that are not float,
    AudioError for a file that cannot be written.
    """
    ending = Path(path).suffix.lower()
    if ending not in (".wav", ".flac", ".mp3"):
        raise ValueError(f"Invalid suffix for path: {ending}")
    if bits_per_sample == 32 and not as_float and ending == ".wav":
        raise UsageError("32-bit WAV holds floating-point samples here: pass as_float=True, or bits_per_sample=24")
    bits = 16 if ending == ".mp3" else 32 if as_float and ending == ".wav" else bits_per_sample
    audio = ArraySource(np.asarray(wav.detach().cpu() if hasattr(wav, "detach") else wav, np.float32))
    write(path, audio, samplerate, Encoding(ending[1:], bits, bitrate), clip)  # type: ignore[arg-type]


def list_models(repo: Path | None = None) -> dict[str, list[str]]:
    """The names that `Separator` takes, of `repo` or of what is published and bundled: {"single": signatures, "bag": names}."""
    return _list_models(repo)
