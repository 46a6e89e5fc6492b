"""Models of a bag whose weights are read when their turn comes: of several, one is in memory at a time."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..machine import free_memory, resident_memory
from ..operations.planning import arena_peak, no_kernels
from ..operations.shapes import nothing
from .classes import network
from .config import Config
from .layout import expected_tensors
from .network import Network

SPARE = 64e6  # bytes: kernels as they are loaded, and scratch of the threads
OPENING = 64e6  # bytes that opening a model takes for a moment beside its weights: a tensor, and pages of its file


def outline(config: Config) -> Network:
    """A model without weights, to ask how much memory it would need: see `operations.planning`."""
    with no_kernels():
        return network(config, {name: nothing(*shape) for name, shape in expected_tensors(config).items()}, "planned")


def weights_of(outlined: Network) -> int:
    """Bytes of the packed weights that a model with this outline will have."""
    size: int = outlined.ops.packed  # type: ignore[attr-defined]
    return size


def fit_at_once(outlines: Sequence[Network], memory: int | None) -> bool:
    """Whether there is memory for the weights of all these models, and for one segment's work.

    memory: bytes that the process may take (None: what the system has free).
    """
    free = free_memory() if memory is None else memory - resident_memory()
    if free is None:
        return True
    work = 0.0
    for outlined in outlines:
        samples = int(outlined.segment * outlined.samplerate)
        blocks = 4 * outlined.audio_channels * samples * (2 + len(outlined.sources) * (1 + len(outlines)))
        work = max(work, arena_peak(outlined, outlined.valid_length(samples)) + blocks)
    return sum(map(weights_of, outlines)) + work + OPENING + SPARE <= free


class Turn:
    """The one model in memory, of those that share this."""

    def __init__(self) -> None:
        self._held: tuple[Callable[[], Network], Network] | None = None
        self.size = 0  # bytes of its weights

    def network(self, opener: Callable[[], Network], size: int) -> Network:
        """What `opener` makes, or made when it was asked last; the model before it is let go first."""
        if self._held is None or self._held[0] is not opener:
            self._held, self.size = None, 0
            self._held, self.size = (opener, opener()), size
        return self._held[1]


class LateModel:
    """A `Model` that is opened by `opener` when it is called. What it is known to be without its weights, its outline says."""

    backend = "numba"

    def __init__(self, outlined: Network, opener: Callable[[], Network], turn: Turn) -> None:
        self.outline, self.turn, self._opener = outlined, turn, opener
        self.size = weights_of(outlined)
        self.sources, self.recipe = outlined.sources, outlined.recipe
        self.samplerate, self.audio_channels, self.config = outlined.samplerate, outlined.audio_channels, outlined.config

    @property
    def segment(self) -> Any:
        """See `Model`; may be set."""
        return self.outline.segment

    @segment.setter
    def segment(self, seconds: float) -> None:
        self.outline = copy.copy(self.outline)
        self.outline.segment = seconds

    @property
    def max_segment(self) -> Any:
        """See `Model`."""
        return self.outline.max_segment

    def valid_length(self, length: int) -> int:
        """See `Model`."""
        return self.outline.valid_length(length)

    def opened(self) -> Network:
        """The model proper. Raises ModelError where its file has gone meanwhile."""
        opened = copy.copy(self.turn.network(self._opener, self.size))
        opened.segment = self.segment
        return opened

    def __call__(self, mix: np.ndarray) -> np.ndarray:
        """See `Model`. Raises as `opened`."""
        return self.opened()(mix)
