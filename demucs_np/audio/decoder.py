"""What every decoder offers, and how it says that it cannot go on."""

from __future__ import annotations

from typing import Protocol

import numpy as np


class Undecodable(Exception):  # noqa: N818 - another decoder may know better: not yet an error
    """This decoder cannot open the file, or cannot go on. The text is the reason, as a part of a sentence."""


class Decoder(Protocol):
    """An open file, read from its beginning to its end."""

    samplerate: int  # Hz
    channels: int
    samples: int | None  # as the file's header says; None: it does not say

    @property
    def tags(self) -> dict[str, str]:
        """Of the names in `tags.NAMES`, those that the file has."""

    def read(self, size: int) -> np.ndarray:
        """The next `size` frames, float32 (frames, channels); fewer at the end only, none after it. Raises Undecodable."""

    def damage(self) -> str:
        """After the end: what could not be decoded, as a part of a sentence; "" if all could."""
