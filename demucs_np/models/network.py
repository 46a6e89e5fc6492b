"""What all models share: how they are called, and what `apply` asks them."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import AudioError, UsageError
from ..operations import operations
from .config import Config

Array = np.ndarray


class Network:
    """A model on one of the two backends. A subclass has `forward`, for one mix."""

    def __init__(self, config: Config, backend: str) -> None:
        self.backend = backend
        self.sources, self.samplerate, self.audio_channels = config.sources, config.samplerate, config.audio_channels
        self.segment = config.segment
        self.ops = operations(backend)

    @property
    def max_segment(self) -> Any:
        """The longest segment in seconds that the model takes; None: any."""
        return None

    def valid_length(self, length: int) -> int:
        """The length to pad `length` samples to."""
        return length

    def __call__(self, mix: Array) -> Array:
        """Separate: float32 (batch, channels, samples) -> (batch, sources, channels, samples).

        Raises AudioError for NaN or infinite samples, UsageError for another number of channels or a length that the model cannot take.
        """
        mix = np.ascontiguousarray(mix, np.float32)
        if mix.ndim != 3 or mix.shape[1] != self.audio_channels or mix.shape[2] == 0:
            raise UsageError(f"the mix has shape {mix.shape}; the model takes (batch, {self.audio_channels}, samples)")
        if not np.isfinite(mix).all():
            raise AudioError("the audio has NaN or infinite samples; repair or re-export it")
        try:
            return np.stack([self.forward(item) for item in mix])
        finally:
            self.ops.reset()

    def forward(self, mix: Array) -> Array:
        """mix [channels, n] -> [sources, channels, n]."""
        raise NotImplementedError
