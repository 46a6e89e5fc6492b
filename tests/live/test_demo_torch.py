"""The bundled model on 20 held-out songs, here and in PyTorch: the same SDR, and the table that the documentation quotes.

`pytest -m torch tests/live/test_demo_torch.py -s` prints the table.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from demucs.apply import apply_model
from demucs.hf import load_safetensors_model

from demucs_np import Separator
from demucs_np.demo.run import DEMO_MODEL
from demucs_np.demo.sdr import sdr
from demucs_np.demo.song import STEMS, make_song, mixture
from demucs_np.demo.synth import SAMPLE_RATE

pytestmark = pytest.mark.torch

HELD_OUT = range(20)
LEAST = {"drums": 10.4, "bass": 10.4, "other": 7.4, "vocals": 7.3}  # dB that the median song must gain; it gains a third of a dB more


def with_torch(model: torch.nn.Module, mix: np.ndarray) -> dict[str, np.ndarray]:
    """As `demucs.api.Separator` does for shifts = 0."""
    wav = torch.from_numpy(mix)
    mono = wav.mean(0)
    scale = mono.std() + 1e-8
    with torch.no_grad():
        out = apply_model(model, ((wav - mono.mean()) / scale)[None], shifts=0, split=True, overlap=0.25)[0]
    return dict(zip(model.sources, (out * scale + mono.mean()).numpy(), strict=True))


def test_same_sdr_and_enough() -> None:
    reference = load_safetensors_model(str(DEMO_MODEL))
    separator = Separator(Path(DEMO_MODEL), shifts=0)
    before = np.empty((len(HELD_OUT), len(STEMS)))
    ours, theirs, sums = np.empty_like(before), np.empty_like(before), np.empty(len(HELD_OUT))
    for row, seed in enumerate(HELD_OUT):
        true = make_song(seed)
        mix = mixture(true)
        _, estimates = separator.separate_array(mix, SAMPLE_RATE)
        expected = with_torch(reference, mix)
        for column, stem in enumerate(STEMS):
            before[row, column] = sdr(true[stem], mix)
            ours[row, column] = sdr(true[stem], estimates[stem])
            theirs[row, column] = sdr(true[stem], expected[stem])
        sums[row] = sdr(mix, np.sum([estimates[stem] for stem in STEMS], axis=0))
        assert np.abs(ours[row] - theirs[row]).max() < 0.01

    gained = ours - before
    print("\nstem      mixture  separated   gained  worst  best")
    for column, stem in enumerate(STEMS):
        middle = [float(np.median(x[:, column])) for x in (before, ours, gained)]
        print(
            f"{stem:<9}{middle[0]:>8.2f}{middle[1]:>11.2f}{middle[2]:>9.2f}{gained[:, column].min():>7.2f}{gained[:, column].max():>6.2f}"
        )
    print(f"sum of the stems: median {np.median(sums):.1f} dB, least {sums.min():.1f} dB SNR")
    for column, stem in enumerate(STEMS):
        assert np.median(gained[:, column]) > LEAST[stem], stem
    assert sums.min() > 35
