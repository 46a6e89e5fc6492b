"""Draw the pictures of the docs: `make docs`. The bundled model runs on a few seconds of the bundled song."""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

import demucs_np as dn
from demucs_np.demo.run import DEMO_MODEL
from demucs_np.demo.song import DEMO_FILE
from demucs_np.inspection.plots import compressed, pooled
from demucs_np.inspection.tracing import read_segment
from demucs_np.models.spectral import spectrogram
from demucs_np.models.transformer import positions_1d, positions_2d
from demucs_np.operations.numpy_ops import NumpyOperations

FOLDER = Path(__file__).parent / "pictures"
AT = 8.0  # seconds: where the excerpt begins
COLOURS = 96  # of a picture: few, and it is a third of its size
Array = np.ndarray


class Run:
    """One segment of the song, the model's stems of it, and all that was recorded on the way."""

    def __init__(self, path: Path) -> None:
        self.model: Any = dn.load_model(path)
        self.mix = read_segment(DEMO_FILE, AT, self.model.config)  # [2, n]
        self.seconds = self.mix.shape[1] / self.model.samplerate
        with dn.trace(["*", "*.skip", "*.weights"]) as self.taps:
            self.stems = self.model(self.mix[None])[0]  # [sources, 2, n]

    def without(self, *paths: str) -> Array:
        """The stems with these activations set to zero."""
        with dn.trace([], replace=dict.fromkeys(paths, np.zeros_like)):
            stems: Array = self.model(self.mix[None])[0]
        return stems


def level(wav: Array, top: Array | None = None) -> Array:
    """wav [2, n] -> [F, T] in dB below the loudest bin of `top` (default: of itself), up to 11 kHz."""

    def magnitude(x: Array) -> Array:
        z = spectrogram(NumpyOperations(), np.ascontiguousarray(x), 4096)
        return np.hypot(z[:, :1024, 0], z[:, :1024, 1]).T

    shown = magnitude(wav)
    most = shown.max() if top is None else magnitude(top).max()
    return np.asarray(np.maximum(20 * np.log10(shown / most + 1e-9), -80))


def liveliest(tap: Array) -> Array:
    """(1, C, F, T) -> [F, T] of the channel that changes most over time, less each row's mean."""
    moving = tap[0] - tap[0].mean(axis=-1, keepdims=True)
    channel: Array = moving[int((moving.astype(np.float64) ** 2).sum(axis=(1, 2)).argmax())]
    return channel


def figure(width: float, height: float, rows: int = 1, columns: int = 1, **layout: Any) -> tuple[Figure, Array]:
    drawing = Figure(figsize=(width, height), dpi=88, layout="constrained")
    return drawing, drawing.subplots(rows, columns, squeeze=False, **layout)


def signed(axis: Any, panel: Array, **look: Any) -> None:
    """Negative is blue, positive red."""
    small = pooled(panel, 360)
    limit = float(np.quantile(np.abs(small), 0.995)) or 1.0
    axis.imshow(small, aspect="auto", cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest", **look)


def save(drawing: Figure, name: str) -> None:
    """As a PNG with a palette."""
    buffer = io.BytesIO()
    drawing.savefig(buffer, format="png")
    picture = Image.open(buffer).convert("RGB").quantize(COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    FOLDER.mkdir(exist_ok=True)
    picture.save(FOLDER / f"{name}.png", optimize=True)
    print(f"{name}.png  {(FOLDER / f'{name}.png').stat().st_size / 1000:.0f} kB")


def segments(run: Run) -> None:
    """Three segments that overlap by a quarter, their weights, and what each counts for."""
    drawing, axes = figure(8, 2.4, 1, 2)
    length, stride = 1.0, 0.75
    time = np.linspace(0, 2.5, 1001)
    weights = np.array([np.clip(1 - np.abs(time - k * stride - length / 2) / (length / 2), 0, None) for k in range(3)])
    for k, weight in enumerate(weights):
        axes[0, 0].plot(time, weight, label=f"segment {k}")
        axes[0, 1].plot(time, weight / np.maximum(weights.sum(axis=0), 1e-9))
    axes[0, 0].set_title("weight of each sample", fontsize=9)
    axes[0, 1].set_title("its part in the sum", fontsize=9)
    axes[0, 0].legend(fontsize=7)
    for axis in axes[0]:
        axis.set_xlabel("segments")
    save(drawing, "segments")


def input_spectrogram(run: Run) -> None:
    drawing, axes = figure(8, 2.8)
    axes[0, 0].imshow(pooled(level(run.mix), 700), origin="lower", aspect="auto", cmap="magma", extent=(0, run.seconds, 0, 11.025))
    axes[0, 0].set_xlabel("s")
    axes[0, 0].set_ylabel("kHz")
    save(drawing, "spectrogram")


def encoder(run: Run) -> None:
    drawing, axes = figure(9, 2.6, 1, 4)
    for index, axis in enumerate(axes[0]):
        tap = run.taps[f"encoder.{index}"]
        rows = tap.shape[2]
        signed(axis, compressed(liveliest(tap)), origin="lower", extent=(0, tap.shape[3], 0, rows))
        axis.set_title(f"encoder.{index}: 1 of {tap.shape[1]} channels", fontsize=8)
        axis.set_yticks([0, rows])
    axes[0, 0].set_ylabel("rows")
    axes[0, 0].set_xlabel("frames")
    save(drawing, "encoder")


def dconv(run: Run) -> None:
    """What time steps reach one output: two dilated convolutions of three taps; and what the branch leaves in a channel."""
    drawing, axes = figure(8, 2.6, 1, 2)
    axis = axes[0, 0]
    for row, (spread, dilation) in enumerate([([0], 2), ([-2, 0, 2], 1), ([-3, -2, -1, 0, 1, 2, 3], 0)]):
        axis.scatter(spread, [2 - row] * len(spread), color="C0")
        if dilation:
            for t in spread:
                for tap in (-dilation, 0, dilation):
                    axis.plot([t, t + tap], [2 - row, 1 - row], color="C0", linewidth=0.8)
    axis.set_yticks([2, 1, 0], ["output", "layers.1, dilation 2", "layers.0, dilation 1"], fontsize=8)
    axis.set_xlabel("frames")
    axis.set_title("what one frame sees", fontsize=9)
    tap = liveliest(run.taps["encoder.1.dconv"])
    signed(axes[0, 1], compressed(tap), origin="lower", extent=(0, tap.shape[1], 0, tap.shape[0]))
    axes[0, 1].set_title("encoder.1.dconv", fontsize=9)
    axes[0, 1].set_xlabel("frames")
    save(drawing, "dconv")


def time_branch(run: Run) -> None:
    drawing, axes = figure(9, 3.2, 4, 1)
    for index, axis in enumerate(axes[:, 0]):
        tap = run.taps[f"tencoder.{index}"][0]
        tap = (tap - tap.mean(axis=1, keepdims=True)) / (tap.std(axis=1, keepdims=True) + 1e-6)
        signed(axis, tap, extent=(0, run.seconds, tap.shape[0], 0))
        axis.set_ylabel(f"tencoder.{index}", rotation=0, ha="right", fontsize=8)
        axis.set_yticks([0, tap.shape[0]])
        axis.tick_params(labelsize=7, labelbottom=index == 3)
    axes[3, 0].set_xlabel("s")
    save(drawing, "time")


def positions(run: Run) -> None:
    drawing, axes = figure(9, 2.6, 1, 2)
    signed(axes[0, 0], positions_2d(24, 8, 128, 10000.0, 1.0).T, extent=(0, 192, 128, 0))
    axes[0, 0].set_title("frequency branch: time above, frequency below", fontsize=9)
    axes[0, 0].set_xlabel("tokens t*8 + f, 24 frames of them")
    axes[0, 0].set_ylabel("channels")
    signed(axes[0, 1], positions_1d(192, 128, 10000.0, False, 1.0).T, extent=(0, 192, 128, 0))
    axes[0, 1].set_title("time branch", fontsize=9)
    axes[0, 1].set_xlabel("tokens")
    save(drawing, "positions")


def attention(run: Run) -> None:
    drawing, axes = figure(9, 3.6, 2, 4)
    own, across = run.taps["crosstransformer.layers_t.0.self_attn.weights"][0], run.taps["crosstransformer.layers.1.cross_attn.weights"][0]
    for axis, head in zip(axes.flat, range(8), strict=True):
        weights = own[head] if head < 4 else across[head]
        queries, keys = weights.shape
        small = pooled(weights, 120)
        axis.imshow(small, aspect="auto", cmap="magma", vmin=0, vmax=np.quantile(small, 0.99), extent=(0, keys, queries, 0))
        axis.set_title(f"{'self' if head < 4 else 'cross'}, head {head}", fontsize=8)
        axis.tick_params(labelsize=6)
    axes[1, 0].set_xlabel("keys", fontsize=8)
    axes[1, 0].set_ylabel("queries", fontsize=8)
    save(drawing, "attention")


def decoder(run: Run) -> None:
    drawing, axes = figure(9, 2.6, 1, 4)
    for index, axis in enumerate(axes[0]):
        tap = run.taps[f"decoder.{index}"]
        rows = tap.shape[2]
        signed(axis, compressed(liveliest(tap)), origin="lower", extent=(0, tap.shape[3], 0, rows))
        axis.set_title(f"decoder.{index}: 1 of {tap.shape[1]} channels", fontsize=8)
        axis.set_yticks([0, rows])
    axes[0, 0].set_ylabel("rows")
    axes[0, 0].set_xlabel("frames")
    save(drawing, "decoder")


def branches(run: Run) -> None:
    """Each stem, and what of it either branch makes."""
    parts = {"both": run.stems, "decoder.3 alone": run.without("tdecoder.3"), "tdecoder.3 alone": run.without("decoder.3")}
    drawing, axes = figure(9, 4.6, 3, len(run.model.sources), sharex=True, sharey=True)
    for row, (title, stems) in enumerate(parts.items()):
        for column, (name, stem) in enumerate(zip(run.model.sources, stems, strict=True)):
            axis = axes[row, column]
            axis.imshow(
                pooled(level(stem, run.mix), 180), origin="lower", aspect="auto", cmap="magma", vmin=-80, vmax=0,
                extent=(0, run.seconds, 0, 11.025),
            )  # fmt: skip
            axis.tick_params(labelsize=6)
            if row == 0:
                axis.set_title(name, fontsize=9)
        axes[row, 0].set_ylabel(title, fontsize=8)
    save(drawing, "branches")


def ablation(run: Run) -> None:
    """How far each stem moves when a skip, an attention or a branch is silenced."""
    depth = len([path for path in run.taps if path.startswith("decoder.") and path.endswith(".skip")])
    paths = [f"{branch}decoder.{index}.skip" for index in range(depth) for branch in ("", "t")]
    layers = [path.removesuffix("weights") + "heads" for path in run.taps if path.endswith(".weights")]
    changes = []
    for path in paths + layers:
        moved = run.without(path) - run.stems
        ratio = np.sum(moved.astype(np.float64) ** 2, axis=(1, 2)) / np.sum(run.stems.astype(np.float64) ** 2, axis=(1, 2))
        changes.append(10 * np.log10(ratio + 1e-12))
    drawing, axes = figure(8, 0.25 * len(changes) + 1)
    image = axes[0, 0].imshow(np.maximum(changes, -60), aspect="auto", cmap="viridis", vmin=-60, vmax=10)
    axes[0, 0].set_xticks(range(len(run.model.sources)), run.model.sources)
    axes[0, 0].set_yticks(range(len(changes)), paths + layers, fontsize=7)
    drawing.colorbar(image, ax=axes[0, 0], label="change, dB of the stem")
    save(drawing, "ablation")


PICTURES = [
    segments, input_spectrogram, encoder, dconv, time_branch, positions, attention, decoder, branches, ablation
]  # fmt: skip

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=DEMO_MODEL)
    run = Run(parser.parse_args().model)
    for draw in PICTURES:
        draw(run)
