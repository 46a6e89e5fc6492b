"""Export the network of an HTDemucs model to ONNX, from upstream in PyTorch: `export_onnx.py MODEL WEIGHTS.safetensors OUT.onnx`.

ONNX has no complex numbers, so the transforms stay outside, as is usual for this model: the graph begins at the spectrogram with real
and imaginary parts as channels, and ends before its inverse. Both branches' normalisation is inside.

    spectrum [1, 2*channels, F, T], mix [1, channels, n]  ->  spectra [1, sources, 2*channels, F, T], waves [1, sources, channels, n]

Needs torch, demucs, onnx and onnxscript.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import KNOWN
from safetensors.numpy import load_file

from demucs_np.parity.upstream import build


class Core(torch.nn.Module):
    """Upstream's `forward` with its transforms replaced: what they would be given comes out, what they would give comes in."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        model._magnitude = lambda z: z
        model._ispec = lambda z, length: z.new_zeros(())  # `forward` adds it to the time branch

    def forward(self, spectrum: torch.Tensor, mix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        spectra = []

        def mask(_z: torch.Tensor, m: torch.Tensor) -> torch.Tensor:
            spectra.append(m)
            return m

        self.model._spec = lambda _mix: spectrum
        self.model._mask = mask
        waves = self.model(mix)
        return spectra[0], waves


def export(name: str, weights: Path, target: Path, *, opset: int | None = None) -> None:
    """Write `target` (and beside it `target`.data with the weights)."""
    klass, arguments = KNOWN[name]
    if not klass.endswith(".HTDemucs"):
        raise SystemExit(f"{name}: only HTDemucs models can be exported")
    upstream = build(klass, arguments, load_file(weights))
    n = int(upstream.segment * upstream.samplerate)
    mix = torch.from_numpy(np.random.default_rng(0).standard_normal((1, upstream.audio_channels, n)).astype(np.float32)) * 0.1
    with torch.no_grad():
        spectrum = upstream._magnitude(upstream._spec(mix))
        torch.onnx.export(
            Core(upstream).eval(),
            (spectrum, mix),
            str(target),
            input_names=["spectrum", "mix"],
            output_names=["spectra", "waves"],
            dynamo=True,
            external_data=True,
            opset_version=opset,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=list(KNOWN))
    parser.add_argument("weights", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--opset", type=int, help="ONNX operator set (default: the exporter's)")
    options = parser.parse_args()
    export(options.model, options.weights, options.target, opset=options.opset)


if __name__ == "__main__":
    main()
