"""Cutting, joining, resampling and sample conversion next to upstream, with networks of three lines on both sides."""

from __future__ import annotations

import random
from fractions import Fraction
from pathlib import Path

import demucs.apply
import demucs.audio
import demucs.demucs
import demucs.hdemucs
import demucs.htdemucs
import julius
import numpy as np
import pytest
import soundfile
import torch
from fakes import SOURCES, FakeModel
from files import music, song

from demucs_np import BagOfModels, Separator, apply_model, audio
from demucs_np.audio import ArraySource, Encoding
from demucs_np.kernels.resample import resample

pytestmark = pytest.mark.torch

CLASSES = {"htdemucs": demucs.htdemucs.HTDemucs, "hdemucs": demucs.hdemucs.HDemucs, "demucs": demucs.demucs.Demucs}


def torch_model(fake: FakeModel) -> torch.nn.Module:
    """The fake's formula in a module that is an instance of the real class, which is what upstream asks for."""

    class Reference(CLASSES[fake.kind]):  # type: ignore[misc]
        def __init__(self) -> None:
            torch.nn.Module.__init__(self)
            self.sources, self.samplerate, self.audio_channels = list(fake.sources), fake.samplerate, fake.audio_channels
            self.segment, self.use_train_segment = fake.segment, True
            self.parameter = torch.nn.Parameter(torch.zeros(1))

        def valid_length(self, length: int) -> int:
            return super().valid_length(length) if fake.kind == "htdemucs" else fake.valid_length(length)

        def forward(self, mix: torch.Tensor) -> torch.Tensor:
            length = mix.shape[-1]
            if fake.kind == "htdemucs":
                mix = torch.nn.functional.pad(mix, (0, int(self.segment * self.samplerate) - length))
            ramp = torch.arange(mix.shape[-1], dtype=torch.float32) / mix.shape[-1]
            stems = [fake.gain * (s + 1) * mix + 0.3 * mix.flip(-1) + 0.1 * ramp for s in range(len(self.sources))]
            return torch.stack(stems, 1)[..., :length]

    if fake.kind == "hdemucs":  # it has no valid_length of its own
        del Reference.valid_length
    return Reference()


def decibels(ours: np.ndarray, theirs: np.ndarray) -> float:
    error = np.sum((ours.astype(float) - theirs) ** 2)
    return float(np.inf if error == 0 else 10 * np.log10(np.sum(theirs.astype(float) ** 2) / error))


def noise(samples: int, batch: int = 1) -> np.ndarray:
    return np.random.default_rng(samples).standard_normal((batch, 2, samples)).astype(np.float32)


def reference(model: torch.nn.Module, mix: np.ndarray, **options: object) -> np.ndarray:
    return demucs.apply.apply_model(model, torch.from_numpy(mix.copy()), **options).numpy()


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("overlap", [0, 0.25, 0.5])
@pytest.mark.parametrize("samples", [1, 120, 400, 600, 1480, 4001])
def test_split(kind: str, overlap: float, samples: int) -> None:
    model, mix = FakeModel(kind), noise(samples, batch=2)
    theirs = reference(torch_model(model), mix, shifts=0, overlap=overlap)
    ours = apply_model(model, mix, shifts=0, overlap=overlap)
    assert decibels(ours, theirs) > 135  # a formula of float32 operations: equal but for their last bit


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize(
    "options", [{"segment": 0.3}, {"segment": 0.123, "transition_power": 2.0}, {"shifts": 1}, {"shifts": 3, "segment": 0.2}]
)
def test_options(kind: str, options: dict[str, object]) -> None:
    model, mix = FakeModel(kind), noise(1480)
    random.seed(5)
    theirs = reference(torch_model(model), mix, **{"shifts": 0, **options})
    assert decibels(apply_model(model, mix, seed=5, **options), theirs) > 130  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["hdemucs", "demucs"])
@pytest.mark.parametrize("shifts", [0, 2])
def test_no_split(kind: str, shifts: int) -> None:
    model, mix = FakeModel(kind), noise(1480)
    random.seed(0)
    theirs = reference(torch_model(model), mix, shifts=shifts, split=False)
    assert decibels(apply_model(model, mix, shifts=shifts, split=False), theirs) > 135


@pytest.mark.parametrize("segment", [None, 0.25, 44])
def test_bag(segment: float | None) -> None:
    weights = [[1, 1, 0, 0], [0, 1, 0, 0.3], [1, 0, 1, 1]]
    fakes = [FakeModel("htdemucs"), FakeModel("hdemucs", gain=2), FakeModel("demucs", gain=-1)]
    bag = demucs.apply.BagOfModels([torch_model(fake) for fake in fakes], weights, segment)
    ours = BagOfModels(fakes, weights, segment)
    mix = noise(1480)
    random.seed(0)
    theirs = reference(bag, mix, shifts=2)
    assert decibels(apply_model(ours, mix, shifts=2), theirs) > 130
    for number, name in enumerate(SOURCES):
        assert decibels(apply_model(ours, mix, shifts=2, stems=[name])[:, 0], theirs[:, number]) > 130


def test_published_segment() -> None:
    model = FakeModel("htdemucs", samplerate=44100, segment=Fraction(39, 5))
    mix = noise(400_000)
    theirs = reference(torch_model(model), mix, shifts=0)
    assert decibels(apply_model(model, mix), theirs) > 135
    theirs = reference(torch_model(model), mix, shifts=0, segment=5)
    assert decibels(apply_model(model, mix, segment=5), theirs) > 135


def test_a_whole_track(tmp_path: Path) -> None:
    """separate_tensor of the API, written out here because its Separator insists on loading a published model."""
    model = FakeModel("htdemucs")
    path = song(tmp_path / "song.wav", 5000)
    wav = torch.from_numpy(music(5000))
    ref = wav.mean(0)
    mean, std = ref.mean(), ref.std() + 1e-8
    random.seed(0)
    theirs = (demucs.apply.apply_model(torch_model(model), ((wav - mean) / std)[None], shifts=1) * std + mean)[0].numpy()
    origin, stems = Separator(model).separate_audio_file(path)
    assert np.array_equal(origin, wav.numpy())
    assert decibels(np.stack(list(stems.values())), theirs) > 120
    written = Separator(model).separate_to_files(path, tmp_path / "out", note=lambda told: None)  # its stems are loud
    for number, file in enumerate(written.values()):
        demucs.audio.save_audio(torch.from_numpy(theirs[number]), tmp_path / "theirs.wav", 1000)
        ours_16, theirs_16 = (soundfile.read(name, dtype="int16")[0].astype(int) for name in (file, tmp_path / "theirs.wav"))
        assert np.abs(ours_16 - theirs_16).max() <= 1


@pytest.mark.parametrize(("old", "new"), [(1, 2), (2, 1), (48000, 44100), (44100, 48000), (22050, 44100), (96000, 44100), (8000, 44100)])
@pytest.mark.parametrize("samples", [1, 777, 30_000])
def test_resample(old: int, new: int, samples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x = noise(samples)[0]
    float32 = julius.resample_frac(torch.from_numpy(x), old, new).numpy()
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)  # it builds its filter with .float()
    float64 = julius.resample_frac(torch.from_numpy(x).double(), old, new).numpy()
    ours = resample(x, old, new)
    assert ours.shape == float32.shape
    if ours.size:
        assert decibels(ours, float64) > 140
    if samples > 1:  # its float32 filter is worth 105 dB for 48 kHz to 44.1, 133 dB for a factor of two
        assert decibels(ours, float64) > decibels(float32, float64) + 10


@pytest.mark.parametrize("channels", [1, 2])
def test_channels(channels: int) -> None:
    for given in (1, 2, 5):
        wav = music(1000, given)
        theirs = demucs.audio.convert_audio_channels(torch.from_numpy(wav), channels).numpy()
        np.testing.assert_allclose(audio.convert_channels(wav, channels), theirs, rtol=0, atol=1e-7)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("clip", ["rescale", "clamp", "none"])
@pytest.mark.parametrize("bits", [16, 24, 32])
@pytest.mark.parametrize("gain", [0.5, 1.0, 4.0])
def test_files_byte_for_byte(tmp_path: Path, channels: int, clip: audio.ClipMode, bits: int, gain: float) -> None:
    wav = np.float32(gain) * np.random.default_rng(0).uniform(-1, 1, (channels, 40_000)).astype(np.float32)
    wav[:, :5] = [[0, 1, -1, 0.99999994, -0.99999994]]
    theirs, ours = tmp_path / "theirs.wav", tmp_path / "ours.wav"
    demucs.audio.save_audio(torch.from_numpy(wav.copy()), theirs, 44100, clip=clip, bits_per_sample=bits, as_float=bits == 32)  # type: ignore[arg-type]
    audio.write(ours, ArraySource(wav), 44100, Encoding("wav", bits), clip)
    assert ours.read_bytes() == theirs.read_bytes()
