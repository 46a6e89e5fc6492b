"""The training of the demo model: its starting point, its data, its loss, and the file it writes."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import train_demo
from demucs.hf import load_safetensors_model
from demucs.htdemucs import HTDemucs
from safetensors import safe_open

import demucs_np as dn
from demucs_np.demo.run import DEMO_MODEL
from demucs_np.demo.song import STEMS, make_song
from demucs_np.demo.synth import SAMPLE_RATE

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def model() -> HTDemucs:
    torch.manual_seed(1)
    model = HTDemucs(**train_demo.ARGUMENTS)
    train_demo.initialise(model)
    return model.eval()


@pytest.fixture(scope="module")
def stems() -> torch.Tensor:
    song = make_song(4, 4.0)
    return torch.from_numpy(np.stack([song[stem] for stem in STEMS]))[None]


def snr(true: torch.Tensor, estimate: torch.Tensor) -> float:
    return float(10 * torch.log10(true.square().sum() / (true - estimate).square().sum()))


@torch.no_grad()
def test_training_starts_from_a_quarter_of_the_mixture(model: HTDemucs, stems: torch.Tensor) -> None:
    mix = stems.sum(1)
    for estimate in model(mix)[0]:
        assert snr(mix[0] / 4, estimate) > 10


@torch.no_grad()
def test_the_exported_file_is_the_model_here_and_there(model: HTDemucs, stems: torch.Tensor, tmp_path: Path) -> None:
    path = tmp_path / "demo.safetensors"
    train_demo.export(model, path, {"steps": 0})
    assert path.stat().st_size < 6_000_000
    mix = stems.sum(1)
    expected = load_safetensors_model(str(path)).eval()(mix)
    assert snr(model(mix), expected) > 45, "float16 rounds the weights"
    assert snr(expected, torch.from_numpy(dn.load_model(path)(mix.numpy()))) > 90


def test_loss_is_in_decibels(stems: torch.Tensor) -> None:
    """What is perfect counts as little as -17 dB, for the sum -28 dB with a tenth of the weight."""
    mix = stems.sum(1)
    loss, levels = train_demo.loss_in_db(stems, stems)
    assert loss.item() == pytest.approx(-17 - 0.1 * 28, abs=0.01)
    assert levels.tolist() == pytest.approx([-17] * 4, abs=0.01)
    estimate = stems.clone()
    estimate[:, 0] = stems[:, 0] + 0.5 * mix
    loss, levels = train_demo.loss_in_db(estimate, stems)
    one = 10 * np.log10(0.25 + 10**-1.7)
    assert levels.tolist() == pytest.approx([one, -17, -17, -17], abs=0.01)
    assert loss.item() == pytest.approx((one - 51) / 4 + np.log10(0.25 + 10**-2.8), abs=0.01)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> argparse.Namespace:
    """Options of a run on noise, two tiny excerpts a step."""
    monkeypatch.setattr(train_demo, "FIRST_SONGS", 2)
    (tmp_path / "songs").mkdir()
    for i in range(2):
        noise = np.random.default_rng(i).integers(-9000, 9000, (4, 2, 30000)).astype(np.int16)
        np.save(tmp_path / "songs" / f"{train_demo.TRAINING_SEEDS + i}.npy", noise)
    return argparse.Namespace(
        out=tmp_path, steps=4, minutes=0, seed=3, batch=2, seconds=0.2, rate=1e-3, songs=2, every=10, threads=1, device="cpu"
    )


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(quick: argparse.Namespace, tmp_path: Path) -> None:
    whole = train_demo.Training(quick)
    for _ in range(4):
        whole.advance()
    assert whole.done == 1.0
    first = train_demo.Training(quick)
    for _ in range(2):
        first.advance()
    first.save()
    second = train_demo.Training(quick)
    assert second.step == 2
    for _ in range(2):
        second.advance()
    for (name, expected), found in zip(whole.average.state_dict().items(), second.average.state_dict().values(), strict=True):
        assert torch.equal(expected, found), name


def test_release_validates_and_exports(quick: argparse.Namespace, tmp_path: Path) -> None:
    training = train_demo.Training(quick)
    song = make_song(6, 5.0)
    training.release([np.stack([song[stem] for stem in STEMS])])
    with safe_open(tmp_path / "demo.safetensors", "np") as file:
        how = json.loads(file.metadata()["training"])
    assert how["steps"] == 0
    assert set(how["validation"]) == {*STEMS, "sum"}


def test_batches_follow_from_the_seed(tmp_path: Path) -> None:
    for i in range(train_demo.FIRST_SONGS):
        ramp = np.arange(4 * 2 * 3000, dtype=np.int16).reshape(4, 2, 3000) + np.int16(i)
        np.save(tmp_path / f"{train_demo.TRAINING_SEEDS + i}.npy", ramp)
    pool = train_demo.Pool(tmp_path, train_demo.FIRST_SONGS)
    pool.grow(0)
    assert len(pool.songs) == train_demo.FIRST_SONGS
    batches = [pool.batch(np.random.default_rng((1, step)), 3, 1000) for step in (5, 5, 6)]
    assert batches[0].shape == (3, 4, 2, 1000)
    assert torch.equal(batches[0], batches[1])
    assert not torch.equal(batches[0], batches[2])


def test_the_shipped_file_says_how_it_was_made() -> None:
    with safe_open(DEMO_MODEL, "np") as file:
        metadata = file.metadata()
        assert all(file.get_tensor(name).dtype == np.float16 for name in file.keys())  # noqa: SIM118
    assert metadata["licence"] == "MIT"
    assert metadata["klass"] == "demucs.htdemucs.HTDemucs"
    assert json.loads(metadata["args"]) == [list(STEMS)]
    how = json.loads(metadata["training"])
    assert how["steps"] > 0
    assert set(how["validation"]) == {*STEMS, "sum"}


def test_an_excerpt_is_at_the_models_rate() -> None:
    assert HTDemucs(**train_demo.ARGUMENTS).samplerate == SAMPLE_RATE
