"""One engine in a process of its own, driven by `compare.py` over pipes: `engine.py ours|torch|onnx MODEL THREADS FOLDER`.

A request is a line of JSON on standard input, the answer a line on standard output:
["load"] -> {"versions": ...}, ["run"] -> {"seconds": s}, ["save", path] -> writes the last output, ["memory"] -> {"peak": bytes}.
FOLDER holds `mix.npy`, `MODEL.safetensors`, and for onnx `MODEL.onnx`.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np


class Ours:
    """demucs_np as its users run it."""

    def __init__(self, model: str, threads: int, work: Path) -> None:
        import demucs_np as dn

        self.threads = threads
        self.model = dn.load_model(work / f"{model}.safetensors")
        self.versions = {name: importlib.metadata.version(name) for name in ("numpy", "numba")}

    def run(self, mix: np.ndarray) -> np.ndarray:
        from demucs_np.threads import use_threads

        with use_threads(self.threads):
            out: np.ndarray = self.model(mix)
        return out


class Torch:
    """Upstream's own class, eager, in inference mode."""

    def __init__(self, model: str, threads: int, work: Path) -> None:
        import torch
        from common import KNOWN
        from safetensors.numpy import load_file

        from demucs_np.parity.upstream import build

        torch.set_num_threads(threads)
        klass, arguments = KNOWN[model]
        self.torch = torch
        self.model = build(klass, arguments, load_file(work / f"{model}.safetensors"))
        self.versions = {name: importlib.metadata.version(name) for name in ("torch", "demucs")}

    def run(self, mix: np.ndarray) -> np.ndarray:
        with self.torch.inference_mode():
            out: np.ndarray = self.model(self.torch.from_numpy(mix)).numpy()
        return out


class Onnx:
    """ONNX Runtime on what `export_onnx.py` wrote: the network alone. The transforms around it run in NumPy and are timed apart.

    While it runs its threads spin for work, as they do by default; they sleep soon after (`compare.py` waits for that).
    """

    def __init__(self, model: str, threads: int, work: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        self.session = onnxruntime.InferenceSession(str(work / f"{model}.onnx"), options, providers=["CPUExecutionProvider"])
        self.versions = {"onnxruntime": importlib.metadata.version("onnxruntime")}
        self.core = 0.0
        self.window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(N_FFT) / N_FFT)).astype(np.float32)

    def run(self, mix: np.ndarray) -> np.ndarray:
        length = mix.shape[2]
        spectrum = self.stft(mix[0])[None]
        began = time.perf_counter()
        spectra, waves = self.session.run(None, {"spectrum": spectrum, "mix": mix})
        self.core = time.perf_counter() - began
        waves += self.istft(spectra[0], length).reshape(waves.shape)
        return np.asarray(waves)

    def stft(self, mix: np.ndarray) -> np.ndarray:
        """[channels, n] -> [2*channels, N_FFT/2, frames], as upstream's `_spec` and `_magnitude`."""
        n = mix.shape[1]
        frames = -(-n // HOP)
        padded = np.pad(mix, ((0, 0), (PAD, PAD + frames * HOP - n)), mode="reflect")
        windows = np.lib.stride_tricks.sliding_window_view(padded, N_FFT, axis=1)[:, ::HOP]
        z = np.fft.rfft(windows * (self.window / np.float32(N_FFT**0.5)))[..., :-1]  # [channels, frames, N_FFT/2]
        z = z.transpose(0, 2, 1)
        return np.stack([z.real, z.imag], axis=1).reshape(-1, N_FFT // 2, frames)

    def istft(self, spectra: np.ndarray, n: int) -> np.ndarray:
        """[sources, 2*channels, N_FFT/2, frames] -> [sources*channels, n], as upstream's `_mask` and `_ispec`."""
        _, _, bins, frames = spectra.shape
        pairs = spectra.reshape(-1, 2, bins, frames)
        z = np.zeros((len(pairs), frames, bins + 1), np.complex64)
        z[..., :bins].real = pairs[:, 0].transpose(0, 2, 1)
        z[..., :bins].imag = pairs[:, 1].transpose(0, 2, 1)
        signal = np.fft.irfft(z) * (self.window * np.float32(N_FFT**0.5))
        total = np.zeros((len(pairs), frames + 3, HOP), np.float32)
        for part in range(N_FFT // HOP):
            total[:, part : part + frames] += signal[..., part * HOP : (part + 1) * HOP]
        # Two silent frames on either side count in the envelope, which is then the same everywhere.
        return (total.reshape(len(pairs), -1) / np.float32(1.5))[:, PAD : PAD + n]


N_FFT, HOP = 4096, 1024  # of every model that `export_onnx.py` takes
PAD = HOP // 2 * 3

ENGINES: dict[str, Any] = {"ours": Ours, "torch": Torch, "onnx": Onnx}


def main() -> None:
    name, model, threads, work = sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not get between the answers
    mix = np.load(work / "mix.npy")
    engine: Any = None
    output = np.empty(0)
    for line in sys.stdin:
        what, *arguments = json.loads(line)
        answer: dict[str, Any] = {}
        if what == "load":
            began = time.perf_counter()
            engine = ENGINES[name](model, threads, work)
            answer = {"seconds": time.perf_counter() - began, "versions": engine.versions}
        elif what == "run":
            began = time.perf_counter()
            output = engine.run(mix)
            answer = {"seconds": time.perf_counter() - began}
            if hasattr(engine, "core"):
                answer["core"] = engine.core
        elif what == "save":
            np.save(arguments[0], output)
        elif what == "memory":
            from demucs_np.machine import peak_memory

            answer = {"peak": peak_memory()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
