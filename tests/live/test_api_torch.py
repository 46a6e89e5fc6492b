"""One program, written for `demucs.api`, with both implementations: what comes back, which callbacks come, what is written."""

from __future__ import annotations

import random
import sys
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import soundfile

sys.path.insert(0, str(Path(__file__).parents[1]))

pytestmark = pytest.mark.torch

RATE = 8000
SOURCES = ["drums", "vocals"]


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two models of different kinds and a bag of them, with weights."""
    import torch
    from demucs.hdemucs import HDemucs
    from demucs.htdemucs import HTDemucs

    folder = tmp_path_factory.mktemp("repo")
    common: dict[str, Any] = {"sources": SOURCES, "samplerate": RATE, "channels": 8, "depth": 3, "nfft": 256, "dconv_comp": 2}
    for name, klass, kwargs in (
        ("aaaa1111", HTDemucs, common | {"segment": Fraction(1, 2), "t_layers": 1, "t_heads": 2, "bottom_channels": 8}),
        ("bbbb2222", HDemucs, common | {"segment": 1, "depth": 4}),
    ):
        torch.manual_seed(len(name))
        model = klass(**kwargs)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.05 * torch.randn_like(parameter)
        torch.save({"klass": klass, "args": (), "kwargs": kwargs, "state": model.state_dict(), "training_args": {}}, folder / f"{name}.th")
    (folder / "both.yaml").write_text("models: ['bbbb2222', 'aaaa1111']\nweights: [[1., 0.5], [0.5, 1.]]\n")
    return folder


def program(api: ModuleType, repo: Path, wav: Any, out: Path) -> dict[str, Any]:
    """What a user of `demucs.api` wrote."""
    calls: list[dict[str, Any]] = []
    found: dict[str, Any] = {"calls": calls}
    random.seed(11)
    separator = api.Separator("both", repo, "cpu", 1, 0.3, True, None, 0, False, calls.append, {"mine": 1, "models": "overridden"})
    found["properties"] = (separator.samplerate, separator.audio_channels, tuple(separator.model.sources))
    found["bag"] = separator.separate_tensor(wav, 11025)
    separator.update_parameter(shifts=0, overlap=0.5, segment=0.4, callback_arg=None)
    found["segment"] = separator.separate_tensor(wav)
    separator.update_parameter(split=False, segment=None, callback=lambda d: calls.append(d | {"second": True}))
    found["whole"] = separator.separate_tensor(wav[:, :3000], separator.samplerate)
    random.seed(12)  # upstream's transformer draws from `random` as well: with it only the first delay is the same
    found["shifts"] = api.Separator("bbbb2222", repo, shifts=2, callback=calls.append).separate_tensor(wav)
    found["random"] = random.random()
    separator.update_parameter(split=True, shifts=1, callback=None)
    origin, stems = separator.separate_audio_file(out.parent / "song.wav")
    found["file"] = origin, stems
    for clip in ("rescale", "clamp", "none"):
        for ending, options in (("wav", {}), ("wav", {"bits_per_sample": 24}), ("wav", {"as_float": True}), ("flac", {})):
            name = f"{clip} {ending} {options}"
            path = out / f"{len(list(out.iterdir()))}.{ending}"
            api.save_audio(3 * stems["vocals"], path, samplerate=separator.samplerate, clip=clip, **options)
            found[name] = soundfile.read(path, dtype="float64")
    api.save_audio(stems["vocals"], str(out / "a.mp3"), separator.samplerate, 128)
    with pytest.raises(ValueError, match="Invalid suffix"):
        api.save_audio(stems["vocals"], out / "a.ogg", separator.samplerate)
    (out.parent / "broken.wav").write_bytes(b"no audio at all")
    with pytest.raises(api.LoadAudioError):
        separator.separate_audio_file(out.parent / "broken.wav")
    found["models"] = {kind: sorted(names) for kind, names in api.list_models(repo).items()}

    def stop(state: dict[str, Any]) -> None:
        if state["segment_offset"] > 0:
            raise KeyboardInterrupt

    separator.update_parameter(callback=stop)
    with pytest.raises(KeyboardInterrupt):
        separator.separate_tensor(wav)
    return found


def both(found: dict[str, Any], key: str) -> list[np.ndarray]:
    origin, stems = found[key]
    assert list(stems) == SOURCES
    return [np.asarray(part) for part in (origin, *stems.values())]


def test_one_program(repo: Path, tmp_path: Path) -> None:
    import demucs.api
    import torch

    import demucs_np.api

    song = np.random.default_rng(0).uniform(-0.3, 0.3, (2, 9000)).astype(np.float32)
    soundfile.write(tmp_path / "song.wav", song.T, 12000, subtype="FLOAT")
    results = []
    for number, (api, wav) in enumerate(((demucs.api, torch.from_numpy(song)), (demucs_np.api, song))):
        out = tmp_path / str(number)
        out.mkdir()
        results.append(program(api, repo, wav, out))
    theirs, ours = results
    assert ours["properties"] == theirs["properties"]
    assert ours["calls"] == theirs["calls"]
    assert len(ours["calls"]) > 40
    assert ours["random"] == theirs["random"]
    assert ours["models"] == theirs["models"]
    for key in ("bag", "segment", "whole", "shifts", "file"):
        for mine, yours in zip(both(ours, key), both(theirs, key), strict=True):
            assert mine.dtype == yours.dtype == np.float32
            assert mine.shape == yours.shape
            assert np.mean((mine - yours) ** 2) <= 1e-9 * np.mean(yours**2), key  # 90 dB
    for key in theirs:
        if key.startswith(("rescale", "clamp", "none")):
            (mine, rate), (yours, same) = ours[key], theirs[key]
            assert rate == same
            assert mine.shape == yours.shape
            assert np.abs(mine - yours).max() <= 2**-15 + 1e-4, key


def test_tensors_come_back_as_tensors(repo: Path) -> None:
    import torch

    import demucs_np.api as api

    wav = torch.linspace(-1, 1, 8000)[None].repeat(2, 1).requires_grad_()
    origin, stems = api.Separator("aaaa1111", repo).separate_tensor(wav)
    assert all(isinstance(part, torch.Tensor) for part in (origin, *stems.values()))
    assert torch.equal(origin, wav.detach())
