"""Hybrid Demucs (version 3): the two U-Nets without a transformer, joined where both have reached the same rate.

Its innermost layers hold BLSTM and LocalState instead. `hybrid=False` leaves the U-Net over the spectrogram alone; `hybrid_old` keeps
an error of the first published models, which were trained with it. Upstream: `demucs.hdemucs.HDemucs`; paper: Défossez 2021.
"""

from __future__ import annotations

from typing import Any

from ..errors import ModelError, UsageError
from . import spectral
from .blocks import Array, Tensors
from .config import HDemucsConfig
from .hybrid import Hybrid


class HDemucs(Hybrid):
    """Hybrid Demucs, ready to separate. `tensors`: every parameter under its name in upstream's state."""

    config: HDemucsConfig

    def __init__(self, config: HDemucsConfig, tensors: Tensors, backend: str = "numba") -> None:
        last = config.layers()[-1]
        if (
            last.time is not None and not last.last_freq
        ):  # upstream makes such a model, and cannot run it: both decoders begin with one zero
            raise ModelError(f"{config.klass}: the branches do not meet: nfft={config.nfft} needs more layers than {config.depth}")
        super().__init__(config, tensors, backend)

    def bottom(self, x: Array, xt: Array) -> tuple[None, None]:
        """The decoders start from zeros: all they get comes through the skips."""
        return None, None

    def spectrogram(self, mix: Array) -> Array:
        n_fft = self.config.nfft
        if self.config.hybrid:
            return spectral.spectrogram(self.ops, mix, n_fft, zeros=self.config.hybrid_old)
        if mix.shape[1] <= n_fft // 2:
            raise UsageError(f"the mix has {mix.shape[1]} samples, but this model (hybrid=False) needs more than {n_fft // 2}")
        return spectral.spectrogram_centered(self.ops, mix, n_fft)

    def waveform(self, z: Array, out: Array, **affine: Any) -> None:
        inverse = spectral.waveform_centered
        if self.config.hybrid:
            inverse = spectral.waveform_late if self.config.hybrid_old else spectral.waveform
        inverse(self.ops, z, self.config.nfft, out.shape[1], out=out, **affine)
