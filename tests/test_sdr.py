"""The signal-to-distortion ratio against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from demucs_np.demo.sdr import sdr


def stereo(*samples: float) -> np.ndarray:
    return np.array([samples, samples], np.float32)


@pytest.mark.parametrize(
    ("true", "estimate", "expected"),
    [
        ((1.0, -1.0), (0.0, 0.0), 0.0),  # silence as the estimate: the error is the signal
        ((1.0, -1.0), (0.9, -0.9), 20.0),  # a tenth of the amplitude is missing
        ((3.0, 4.0), (3.0, 3.0), 10 * math.log10(25)),  # 25 / 1
        ((1.0, 1.0), (3.0, 3.0), 10 * math.log10(1 / 4)),  # the error is larger than the signal
        ((1.0, 0.0), (1.0, 0.0), math.inf),
        ((0.0, 0.0), (1.0, 0.0), -math.inf),
    ],
)
def test_values(true: tuple[float, ...], estimate: tuple[float, ...], expected: float) -> None:
    assert sdr(stereo(*true), stereo(*estimate)) == pytest.approx(expected, abs=1e-5)


def test_all_channels_count_together() -> None:
    true = np.array([[2.0, 0.0], [0.0, 1.0]])
    estimate = np.array([[2.0, 0.0], [0.0, 0.5]])
    assert sdr(true, estimate) == pytest.approx(10 * math.log10(5 / 0.25))


def test_silence_from_silence_is_not_a_number() -> None:
    assert math.isnan(sdr(stereo(0.0, 0.0), stereo(0.0, 0.0)))


def test_sums_do_not_lose_small_errors() -> None:
    """A float32 sum of a million squares would be wrong in the third digit."""
    true = np.ones((2, 1_000_000), np.float32)
    assert sdr(true, true * np.float32(1.5)) == pytest.approx(10 * math.log10(4), abs=1e-9)


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"shapes \(2, 3\) and \(2, 4\) differ"):
        sdr(np.zeros((2, 3)), np.zeros((2, 4)))
