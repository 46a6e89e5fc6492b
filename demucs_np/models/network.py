"""What all models share: how they are called, and what `apply` asks them."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from ..errors import AudioError
from ..kernels.arena import apart
from ..operations import operations
from ..operations.shapes import nothing
from .config import Config
from .layout import expected_tensors
from .recipe import Recipe
from .taps import check_ablation, shapes, silenced, tap, tracing

Array = np.ndarray


class Network:
    """A model on one of the two backends. A subclass has `forward`, for one mix."""

    config: Any

    def __init__(self, config: Config, backend: str) -> None:
        self.backend = backend
        self.sources, self.samplerate, self.audio_channels = config.sources, config.samplerate, config.audio_channels
        self.segment = config.segment
        self.recipe = Recipe()
        self.ops = operations(backend)

    @property
    def max_segment(self) -> Any:
        """The longest segment in seconds that the model takes; None: any."""
        return None

    @property
    def all_kernels(self) -> bool:
        """Whether a pass is nothing but calls of kernels, which follow from the configuration and the length of the mix."""
        return False

    def valid_length(self, length: int) -> int:
        """The length to pad `length` samples to."""
        return length

    def __call__(self, mix: Array) -> Array:
        """Separate: float32 (batch, channels, samples) -> (batch, sources, channels, samples).

        Raises AudioError for a mix of another shape and for NaN or infinite samples, UsageError for a length that the model cannot take.
        """
        mix = np.ascontiguousarray(mix, np.float32)
        if mix.ndim != 3 or mix.shape[1] != self.audio_channels or 0 in mix.shape:
            raise AudioError(
                f"the mix has shape {mix.shape}, but this model takes (batch, {self.audio_channels}, samples), with at least one sample"
            )
        check_ablation(self.parts)
        out = apart((len(mix), len(self.sources), *mix.shape[1:]))
        mark = self.ops.mark()
        try:
            flags = self.ops.finite(mix)
            if not flags.all():
                raise AudioError("the audio has NaN or infinite samples; repair or re-export it")
            self.ops.free(flags)
            for item, result in zip(mix, out, strict=True):
                if tracing():  # what it looks at, it may take otherwise
                    self.forward(item, result)
                else:
                    self.ops.run(self, item, result)
        except BaseException:
            self.ops.reset(mark)
            raise
        return out

    def parts(self) -> dict[str, int]:
        """What a trace can switch off, with the number of its heads, in order of execution."""
        kind: Any = type(self)
        return _parts(kind, self.config)

    def skip(self, path: str, x: Array, axes: str) -> Array:
        """What a decoder layer is given from the encoder, if a trace does not want it otherwise."""
        return tap(path, silenced(path, x), axes, extra=True)

    def forward(self, mix: Array, out: Array) -> None:
        """mix [channels, n] -> out [sources, channels, n], or its beginning if out is shorter. C-contiguous, of finite numbers."""
        raise NotImplementedError


@lru_cache(maxsize=8)
def _parts(kind: Any, config: Config) -> dict[str, int]:
    """What such a model asks for, running on shapes."""
    model = kind(config, {name: nothing(*shape) for name, shape in expected_tensors(config).items()}, "shapes")
    with shapes() as (_, _, parts):
        model(nothing(1, config.audio_channels, int(config.segment * config.samplerate)))
    return parts
