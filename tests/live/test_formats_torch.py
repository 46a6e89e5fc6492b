"""Checkpoints as the programs that train these models write them, made with the real classes, every parameter drawn: what they load as, and
how near to the truth it computes.

`python tests/live/test_formats_torch.py` writes tests/data/training_run*.th anew (with omegaconf, which the reference trains with).
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import demucs_np as dn
from demucs_np.parity.recipe import draw_mix
from demucs_np.parity.record import decibels, total
from demucs_np.parity.upstream import build, run
from demucs_np.weights.formats import read_model_file

pytestmark = pytest.mark.torch
DATA = Path(__file__).parents[1] / "data"
HT, HD, TD = "demucs.htdemucs.HTDemucs", "demucs.hdemucs.HDemucs", "demucs.demucs.Demucs"
SMALL: dict[str, Any] = {"channels": 8, "bottom_channels": 32, "dconv_mode": 3, "dconv_comp": 4, "t_heads": 4, "t_layers": 3}
DRUMS = ["bombo", "redoblante", "platillos", "toms"]
# Name -> class, arguments, seconds of input, how the file is written.
ROWS: dict[str, tuple[str, dict[str, Any], float, str]] = {
    "drum kit": (HD, {"sources": DRUMS, "channels": 16, "segment": 44}, 3, "package"),
    "film": (HT, {"sources": ["music", "sfx", "speech"], "segment": Fraction(2), **SMALL}, 2, "package"),
    "MSST, 11 s": (HT, {"sources": ["vocals", "other"], "segment": 11, "use_train_segment": False, **SMALL}, 11, "msst"),
    "MSST, mono": (HT, {"sources": ["a", "b"], "audio_channels": 1, "segment": 2, "use_train_segment": False, **SMALL}, 1.7, "msst"),
    "MSST, three stems": (HD, {"sources": ["x", "y", "z"], "channels": 8, "segment": 3}, 3, "msst"),
    "training run": (HT, {"sources": ["a", "b"], "segment": 2, **SMALL}, 2, "training"),
    "time domain": (TD, {"sources": ["a", "b"], "channels": 8, "depth": 4, "segment": 2, "lstm_layers": 2}, 2, "bare"),
    "legacy container": (HT, {"sources": ["a", "b"], "segment": 2, **SMALL}, 2, "legacy"),
    "DataParallel in bfloat16": (HT, {"sources": ["a", "b"], "segment": 2, "use_train_segment": False, **SMALL}, 2, "bfloat16"),
}


def yaml_of(klass: str, arguments: dict[str, Any], num_overlap: int = 2) -> str:
    """MSST's configuration; JSON is YAML."""
    own = {"sources", "segment", "audio_channels", "samplerate"}
    name = klass.rpartition(".")[2].lower()
    training = {"instruments": arguments["sources"], "segment": arguments["segment"], "samplerate": 44100}
    training["channels"] = arguments.get("audio_channels", 2)
    section = {key: value for key, value in arguments.items() if key not in own | {"use_train_segment"}}
    return json.dumps({"model": name, name: section, "training": training, "inference": {"num_overlap": num_overlap}})


def write(folder: Path, model: torch.nn.Module, klass: str, arguments: dict[str, Any], how: str) -> Path:
    state: Any = model.state_dict()
    if how in ("package", "legacy"):
        content = {"klass": type(model), "args": (), "kwargs": arguments, "state": state, "training_args": {"seed": 42}}
        torch.save(content, folder / "m.th", _use_new_zipfile_serialization=how == "package")
        return folder / "m.th"
    if how == "training":
        optimizer = torch.optim.Adam(model.parameters())
        wrong = {name: tensor * 0 for name, tensor in state.items()}
        content = {
            "state": wrong,
            "best_state": state,
            "optimizer": optimizer.state_dict(),
            "history": [{"train": {"loss": np.float64(0.5)}}],
        }
        content |= {"args": argparse.Namespace(lr=1e-3, device=torch.device("cpu")), "counts": defaultdict(int, a=1)}
        torch.save(content, folder / "checkpoint.th")
        section = {key: value for key, value in arguments.items() if key not in ("sources", "segment")}
        config = {"dset": {"sources": arguments["sources"], "channels": 2, "samplerate": 44100, "segment": arguments["segment"] / 4}}
        config |= {"model": "htdemucs", "htdemucs": section, "model_segment": None}
        (folder / ".hydra").mkdir()
        (folder / ".hydra" / "config.yaml").write_text(json.dumps(config))
        return folder / "checkpoint.th"
    if how == "bfloat16":
        state = {f"module.{name}": tensor.bfloat16() for name, tensor in state.items()}
    torch.save({"model_state_dict": state, "epoch": 3} if how == "msst" else state, folder / "model.ckpt")
    (folder / "config_model.yaml").write_text(yaml_of(klass, arguments))
    return folder / "model.ckpt"


def snr(truth: np.ndarray, other: np.ndarray) -> float:
    return decibels(total(truth)[1], total(other - truth)[1])


def outputs(model: torch.nn.Module, mix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The reference's in float64 and in float32."""
    found: dict[bool, np.ndarray] = {}

    def visit(name: str, array: np.ndarray) -> None:
        if name == "output":
            found[array.dtype == np.float64] = array.copy()

    for double in (True, False):
        run(model, mix, visit, double=double)
    return found[True], found[False]


@pytest.mark.parametrize("row", ROWS)
def test_as_near_to_the_truth_as_pytorch(row: str, tmp_path: Path) -> None:
    klass, arguments, seconds, how = ROWS[row]
    model = build(klass, arguments, 3)
    if how == "bfloat16":
        model.load_state_dict({name: tensor.bfloat16().float() for name, tensor in model.state_dict().items()})
    bag = dn.load_model(write(tmp_path, model, klass, arguments, how))
    assert list(bag.sources) == arguments["sources"]
    assert (bag.models[0].recipe.window == "flat") == (how in ("msst", "bare", "bfloat16"))
    mix = draw_mix(4, bag.audio_channels, int(seconds * 44100))[None]
    truth, single = outputs(model, mix)
    ours, theirs = snr(truth, bag.only(mix)), snr(truth, single)
    print(f"{row}: ours {ours:.1f} dB, PyTorch {theirs:.1f} dB")
    assert ours > theirs - 3


@pytest.mark.parametrize("num_overlap", [1, 2, 4])
@pytest.mark.parametrize("length", [20000, 88200, 150001])
def test_the_driver_of_msst(num_overlap: int, length: int, tmp_path: Path) -> None:
    """The rules of its `demix`, run with PyTorch."""
    arguments = {"sources": ["vocals", "other"], "segment": 2, "use_train_segment": False, **SMALL}
    model = build(HT, arguments, 5)
    path = write(tmp_path, model, HT, arguments, "msst")
    (tmp_path / "config_model.yaml").write_text(yaml_of(HT, arguments, num_overlap))
    mix = draw_mix(6, 2, length)
    size = 44100 * 2
    result, counter = torch.zeros(2, 2, length), torch.zeros(2, 2, length)
    with torch.no_grad():
        for start in range(0, length, size // num_overlap):
            part = torch.from_numpy(mix)[:, start : start + size]
            given = torch.nn.functional.pad(part, (0, size - part.shape[1]))
            result[..., start : start + size] += model(given[None])[0][..., : part.shape[1]]
            counter[..., start : start + size] += 1
    expected = (result / counter).numpy()
    _, stems = dn.Separator(str(path)).separate_array(mix, 44100)
    found = snr(expected.astype(np.float64), np.stack(list(stems.values())))
    print(f"MSST's driver, {length} samples, num_overlap {num_overlap}: {found:.1f} dB")
    assert found > 100


def test_golden_and_verify(tmp_path: Path) -> None:
    from click.testing import CliRunner

    from demucs_np.commands.main import main

    klass, arguments, _, how = ROWS["MSST, mono"]
    path = write(tmp_path, build(klass, arguments, 3), klass, arguments, how)
    golden = tmp_path / "golden.safetensors"
    for command in (["golden", path, "-o", golden], ["verify", golden, "-n", path]):
        result = CliRunner().invoke(main, list(map(str, command)))
        assert result.exit_code == 0, result.output


def test_views_and_tied_tensors(tmp_path: Path) -> None:
    """Strided views, tensors that share storage, float64 and numbers of NumPy: the same values."""
    model = build(TD, {"sources": ["a"], "channels": 4, "depth": 2, "dconv_mode": 0}, 1)
    state = dict(model.state_dict())
    state["encoder.0.0.weight"] = state["encoder.0.0.weight"].permute(2, 1, 0).contiguous().permute(2, 1, 0)
    both = torch.stack([state["encoder.0.0.bias"], state["decoder.1.3.bias"][:1].expand(4)])
    state["encoder.0.0.bias"] = both[0]
    state["encoder.1.0.weight"] = state["encoder.1.0.weight"].double()
    kwargs = {"sources": ["a"], "channels": np.int64(4), "depth": 2, "dconv_mode": 0}
    for name in (True, False):
        content = {"klass": type(model), "args": (), "kwargs": kwargs, "state": state}
        torch.save(content, tmp_path / "m.th", _use_new_zipfile_serialization=name)
        stored = read_model_file(tmp_path / "m.th").stored
        for key, tensor in model.state_dict().items():
            np.testing.assert_array_equal(stored[key].array, tensor.numpy())


if __name__ == "__main__":
    from omegaconf import OmegaConf

    tiny: dict[str, Any] = {"sources": ["a", "b"], "channels": 4, "depth": 2, "dconv_mode": 0}
    network = build(TD, tiny, 1)
    args = OmegaConf.create({"dset": {"sources": ["a", "b"]}, "demucs": {"depth": 2}, "segment": "${dset.sources}", "x": None})
    package = {"state": network.state_dict(), "best_state": None, "optimizer": torch.optim.Adam(network.parameters()).state_dict()}
    package |= {"history": [{"train": {"loss": np.float64(0.5)}}], "args": args, "namespace": argparse.Namespace(lr=1e-3)}
    torch.save(package, DATA / "training_run.th")
    torch.save(package, DATA / "training_run_legacy.th", _use_new_zipfile_serialization=False)
