"""The second generation: its class as torch code of that shape, and its files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import julius
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from demucs_np.commands.main import main
from demucs_np.models.config import SecondDemucsConfig
from demucs_np.models.layout import expected_tensors
from demucs_np.parity.recipe import draw_mix, draw_tensors
from demucs_np.weights import load_model
from demucs_np.weights.formats.second import STEMS

pytestmark = pytest.mark.torch


class Second(nn.Module):
    """What is public of `demucs.model.Demucs`: strided convolution, ReLU, 1x1 and GLU; an LSTM; a context of 3 without padding and GLU,
    transposed convolution, ReLU; at twice the sample rate."""

    def __init__(self, channels: int, depth: int, stems: int = 4, audio_channels: int = 2) -> None:
        super().__init__()
        widths = [audio_channels, *(channels * 2**level for level in range(depth))]
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        for level in range(depth):
            narrow, wide = widths[level], widths[level + 1]
            self.encoder.append(nn.Sequential(nn.Conv1d(narrow, wide, 8, 4), nn.ReLU(), nn.Conv1d(wide, 2 * wide, 1), nn.GLU(1)))
            back = [nn.Conv1d(wide, 2 * wide, 3), nn.GLU(1), nn.ConvTranspose1d(wide, narrow if level else stems * audio_channels, 8, 4)]
            self.decoder.insert(0, nn.Sequential(*back, *([nn.ReLU()] if level else [])))
        self.lstm = nn.ModuleDict({"lstm": nn.LSTM(wide, wide, 2, bidirectional=True), "linear": nn.Linear(2 * wide, wide)})
        self.depth, self.stems = depth, stems

    def valid_length(self, length: int) -> int:
        length *= 2
        for _ in range(self.depth):
            length = max(1, math.ceil((length - 8) / 4) + 1) + 2
        for _ in range(self.depth):
            length = (length - 1) * 4 + 8
        return math.ceil(length / 2)

    def forward(self, mix: torch.Tensor) -> torch.Tensor:
        """(1, channels, n) -> (1, stems, channels, n): padded and trimmed as `apply_model` of that generation does."""
        n = mix.shape[-1]
        more = self.valid_length(n) - n
        x = julius.resample_frac(nn.functional.pad(mix, (more // 2, more - more // 2)) / (1 + 1e-5), 1, 2)
        skips = []
        for encode in self.encoder:
            x = encode(x)
            skips.append(x)
        x = self.lstm["linear"](self.lstm["lstm"](x.permute(2, 0, 1))[0]).permute(1, 2, 0)
        for decode in self.decoder:
            x = decode(x + middle(skips.pop(), x.shape[-1]))
        x = middle(julius.resample_frac(x, 2, 1), n)
        return x.view(1, self.stems, -1, n)


def middle(x: torch.Tensor, length: int) -> torch.Tensor:
    start = (x.shape[-1] - length) // 2
    return x[..., start : start + length]


def perturbed(channels: int, depth: int) -> Second:
    model = Second(channels, depth)
    drawn = draw_tensors(7, {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()})
    model.load_state_dict({name: torch.from_numpy(array) for name, array in drawn.items()})
    return model.eval()


def error(truth: np.ndarray, other: np.ndarray) -> float:
    return float(20 * np.log10(np.linalg.norm(truth) / np.linalg.norm(other - truth)))


def run(model: nn.Module, mix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """In float64 and in float32."""
    with torch.no_grad():
        single = model(torch.from_numpy(mix)[None]).numpy()
        torch.set_default_dtype(torch.float64)
        try:
            truth = model.double()(torch.from_numpy(mix)[None].double()).numpy()
        finally:
            torch.set_default_dtype(torch.float32)
            model.float()
    return truth, single


@pytest.mark.parametrize("backend", ["numba", "numpy"])
@pytest.mark.parametrize(("channels", "depth", "length"), [(8, 3, 20000), (4, 5, 12345), (8, 2, 1000)])
def test_second_generation(channels: int, depth: int, length: int, backend: str, tmp_path: Path) -> None:
    model = perturbed(channels, depth)
    path = tmp_path / "demucs-e07c671f.th"
    torch.save(model.state_dict(), path)
    ours = load_model(path, backend=backend)
    assert (ours.sources, ours.segment) == (("drums", "bass", "other", "vocals"), 40)
    mix = draw_mix(3, 2, length)
    truth, single = run(model, mix)
    mine, theirs = error(truth, ours.only(mix[None])), error(truth, single)
    print(f"second generation, {channels} channels, depth {depth}, {backend}: ours {mine:.1f} dB, PyTorch {theirs:.1f} dB")
    assert mine > theirs - 3


def test_full_size_shape() -> None:
    """The published names and shapes, in the order that quantised states have: 64 channels, depth 6."""
    with torch.device("meta"):
        shapes: dict[str, Any] = {name: tuple(tensor.shape) for name, tensor in Second(64, 6).state_dict().items()}
    assert list(expected_tensors(SecondDemucsConfig(STEMS)).items()) == list(shapes.items())


def test_a_golden_file_needs_the_class_of_then(tmp_path: Path) -> None:
    torch.save(perturbed(4, 2).state_dict(), tmp_path / "demucs.th")
    result = CliRunner().invoke(main, ["golden", str(tmp_path / "demucs.th"), "-o", str(tmp_path / "g.safetensors")])
    assert result.exit_code == 2
    assert "the second generation is demucs==2.0.3's" in result.output
