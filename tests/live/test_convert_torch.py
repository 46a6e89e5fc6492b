"""Packages that PyTorch wrote, and converted files that demucs loads.

`python tests/live/test_convert_torch.py` writes tests/data/pytorch_f16.* anew.
"""

from __future__ import annotations

import json
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from layout_cases import CASES, SOURCES, arguments

pytestmark = pytest.mark.torch
DATA = Path(__file__).parents[1] / "data"

TINY: dict[str, Any] = {
    "sources": ["a", "b"], "channels": 4, "depth": 2, "growth": 1, "nfft": 64, "dconv_comp": 2, "t_layers": 2, "segment": Fraction(39, 5),
    "t_heads": np.int64(2), "freq_emb": np.float64(0.25), "cac": np.bool_(False), "t_hidden_scale": 1.0, "channels_time": None,
}  # fmt: skip


def reference(klass: str, kwargs: dict[str, Any]) -> Any:
    import importlib

    import torch

    torch.manual_seed(0)
    module, name = klass.rsplit(".", 1)
    plain = {key: value.item() if isinstance(value, np.generic) else value for key, value in kwargs.items()}
    return getattr(importlib.import_module(module), name)(**plain)


def save(path: Path, model: Any, kwargs: dict[str, Any], half: bool) -> Path:
    import torch

    state = {key: value.half() if half else value for key, value in model.state_dict().items()}
    torch.save({"klass": type(model), "args": (), "kwargs": kwargs, "state": state, "training_args": {"seed": 42, "list": [1.5]}}, path)
    return path


# Upstream cannot load its own "Demucs no rewrite": it takes the norm of such a decoder for a former name.
LOADABLE = [case for case in CASES if case.startswith(("HTDemucs s", "HDemucs", "Demucs")) and case != "Demucs no rewrite"]


@pytest.mark.parametrize("case", LOADABLE)
@pytest.mark.parametrize("half", [True, False])
def test_converted_files_load_in_both(case: str, half: bool, tmp_path: Path) -> None:
    import torch
    from demucs.hf import load_safetensors_model

    from demucs_np.weights.convert import convert_file
    from demucs_np.weights.resolve import read_model

    klass, kwargs = arguments(case)
    model = reference(klass, kwargs)
    package = save(tmp_path / "model.th", model, kwargs, half)
    converted = convert_file(package, tmp_path / "model.safetensors")
    loaded = load_safetensors_model(converted)
    assert type(loaded) is type(model)
    assert loaded.segment == model.segment
    ours, direct = read_model(converted), read_model(package)
    assert ours.config == direct.config
    for key, value in model.state_dict().items():
        expected = value.half().float() if half else value
        assert torch.equal(loaded.state_dict()[key], expected)
        np.testing.assert_array_equal(ours.tensors[key], expected.numpy())
        np.testing.assert_array_equal(direct.tensors[key], expected.numpy())


def test_full_size_published_layout(tmp_path: Path) -> None:
    """As demucs's export tool writes them: float16 safetensors by the stock library."""
    from safetensors.torch import save_file

    from demucs_np.weights.resolve import read_model

    kwargs = {"sources": SOURCES, "bottom_channels": 512, "dconv_mode": 3, "segment": Fraction(39, 5)}
    model = reference("demucs.htdemucs.HTDemucs", kwargs)
    encoded = {**kwargs, "segment": {"_type": "fraction", "numerator": 39, "denominator": 5}}
    metadata = {"klass": "demucs.htdemucs.HTDemucs", "args": "[]", "kwargs": json.dumps(encoded)}
    path = tmp_path / "955717e8.safetensors"
    save_file({key: value.half() for key, value in model.state_dict().items()}, path, metadata)
    checkpoint = read_model(path)
    for key, value in model.state_dict().items():
        np.testing.assert_array_equal(checkpoint.tensors[key], value.half().float().numpy())


def test_strided_and_shared_tensors(tmp_path: Path) -> None:
    import torch

    from demucs_np.weights.formats.archive import read_archive

    base = torch.arange(24.0).reshape(4, 6)
    content = {"t": base.T, "row": base[1:3, ::2], "bf16": base.bfloat16(), "parameter": torch.nn.Parameter(base[2]), "long": base.long()}
    torch.save(content, tmp_path / "t.th")
    result = read_archive(tmp_path / "t.th")
    np.testing.assert_array_equal(result["t"].array, base.T.numpy())
    np.testing.assert_array_equal(result["row"].array, base[1:3, ::2].numpy())
    np.testing.assert_array_equal(result["parameter"].array, base[2].numpy())
    assert (result["bf16"].dtype, result["long"].dtype) == ("BF16", "I64")


if __name__ == "__main__":
    from safetensors.torch import save_file

    tiny = reference("demucs.htdemucs.HTDemucs", TINY)
    DATA.mkdir(exist_ok=True)
    save(DATA / "pytorch_f16.th", tiny, TINY, half=True)
    encoded = {key: value.item() if isinstance(value, np.generic) else value for key, value in TINY.items()}
    encoded["segment"] = {"_type": "fraction", "numerator": 39, "denominator": 5}
    metadata = {"klass": "demucs.htdemucs.HTDemucs", "args": "[]", "kwargs": json.dumps(encoded)}
    save_file({key: value.half() for key, value in tiny.state_dict().items()}, DATA / "pytorch_f16.safetensors", metadata)
