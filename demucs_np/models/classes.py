"""From a configuration to the class of its model."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .config import Config, DemucsConfig, HTDemucsConfig
from .network import Network


def network(config: Config, tensors: Mapping[str, np.ndarray], backend: str) -> Network:
    """The model of a configuration. Its module is imported only now, when it is known which is needed."""
    if isinstance(config, HTDemucsConfig):
        from .htdemucs import HTDemucs

        return HTDemucs(config, tensors, backend)
    if isinstance(config, DemucsConfig):
        from .demucs import Demucs

        return Demucs(config, tensors, backend)
    from .hdemucs import HDemucs

    return HDemucs(config, tensors, backend)
