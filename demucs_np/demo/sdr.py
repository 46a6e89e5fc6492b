"""The signal-to-distortion ratio, the one measure of separation used here."""

from __future__ import annotations

import math

import numpy as np


def sdr(true: np.ndarray, estimate: np.ndarray) -> float:
    """`10 log10(Σ s² / Σ (s - ŝ)²)` in dB over all channels and samples, the definition of the 2021 Music Demixing Challenge.

    Both have one shape, (channels, samples). A perfect estimate gives infinity; silence as the truth gives -infinity, or NaN if
    the estimate is silent as well. Sums are float64. Source: Mitsufuji et al., "Music Demixing Challenge 2021", section 2.3.
    """
    if true.shape != estimate.shape:
        raise ValueError(f"shapes {true.shape} and {estimate.shape} differ")
    signal = float(np.sum(np.square(true, dtype=np.float64)))
    error = float(np.sum(np.square(np.subtract(true, estimate, dtype=np.float64))))
    if error == 0.0:
        return math.inf if signal > 0.0 else math.nan
    return 10.0 * math.log10(signal / error) if signal > 0.0 else -math.inf
