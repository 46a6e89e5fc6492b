"""What a model says of how it is to be run, and that one may say otherwise."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from fakes import FakeModel

from demucs_np import Separator, Stream, apply_model
from demucs_np.errors import ModelError
from demucs_np.models.bag import BagOfModels
from demucs_np.models.recipe import Recipe

SIZE = 400  # samples of a segment


def track(length: int, channels: int = 2) -> np.ndarray:
    return np.random.default_rng(length).standard_normal((channels, length)).astype(np.float32) + np.float32(0.3)


def flat(model: Any, mix: np.ndarray, size: int, num_overlap: int) -> np.ndarray:
    """Chunks of `size` samples, every `size // num_overlap`, the last filled up with zeros, and the plain mean of what they gave."""
    total = np.zeros((len(model.sources), *mix.shape), np.float32)
    count = np.zeros(mix.shape[1], np.float32)
    for start in range(0, mix.shape[1], size // num_overlap):
        part = mix[:, start : start + size]
        output = model(np.pad(part, ((0, 0), (0, size - part.shape[1])))[None])[0]
        total[..., start : start + size] += output[..., : part.shape[1]]
        count[start : start + size] += 1
    return total / count


def msst(num_overlap: int, normalize: bool = False) -> Recipe:
    return Recipe(0, Fraction(num_overlap - 1, num_overlap), "flat", normalize)


@pytest.mark.parametrize("num_overlap", [1, 2, 3, 4])
@pytest.mark.parametrize("length", [1, 133, SIZE, SIZE + 1, 1050])
@pytest.mark.parametrize("kind", ["hdemucs", "htdemucs", "demucs"])
def test_flat_average(kind: str, length: int, num_overlap: int) -> None:
    model = FakeModel(kind)
    expected = flat(model, track(length), SIZE, num_overlap)
    model.recipe = msst(num_overlap)
    np.testing.assert_array_equal(apply_model(model, track(length)), expected)


def test_separator_follows_the_recipe() -> None:
    model = FakeModel(channels=1)
    model.recipe, model.normalize = msst(2), False
    mix = track(1050, 1)
    _, stems = Separator(model).separate_array(mix, model.samplerate)
    np.testing.assert_array_equal(np.stack(list(stems.values())), flat(model, mix, SIZE, 2))
    # Otherwise on request.
    plain = FakeModel(channels=1)
    _, expected = Separator(plain).separate_array(mix, model.samplerate)
    _, stems = Separator(model, shifts=1, overlap=0.25, window="triangle", normalize=True).separate_array(mix, model.samplerate)
    for name, stem in expected.items():
        np.testing.assert_array_equal(stems[name], stem)
    model.normalize = True
    _, louder = Separator(model).separate_array(mix, model.samplerate)
    mean, std = mix.mean(), mix.std(ddof=1)
    for stem, wanted in zip(louder.values(), flat(model, (mix - mean) / std, SIZE, 2) * std + mean, strict=True):
        np.testing.assert_allclose(stem, wanted, rtol=1e-5, atol=1e-5)


def test_stream_follows_the_recipe() -> None:
    model = FakeModel()
    model.recipe, model.normalize = msst(2), False
    mix = track(1050)
    stream = Stream(model)
    blocks = [stream.push(mix[:, start : start + 77]) for start in range(0, 1050, 77)] + [stream.flush()]
    out = np.stack([np.concatenate([block[name] for block in blocks], axis=1) for name in model.sources])
    np.testing.assert_array_equal(out, flat(model, mix, SIZE, 2))


def test_members_of_a_bag_run_by_their_own_recipes() -> None:
    one, two = FakeModel(), FakeModel(gain=2)
    expected = (apply_model(one, track(1050), overlap=0.25) + flat(two, track(1050), SIZE, 2)) / 2
    two.recipe = msst(2, normalize=True)
    np.testing.assert_allclose(apply_model(BagOfModels([one, two]), track(1050)), expected, rtol=1e-6, atol=1e-6)
    two.recipe = msst(2)
    with pytest.raises(ModelError, match="some models of the bag want the track at its own loudness"):
        BagOfModels([one, two])
