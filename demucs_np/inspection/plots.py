"""Pictures of traced activations, with matplotlib (`pip install demucs-np[plots]`)."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import DemucsError, UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = np.ndarray
PANELS = 16  # channels of one picture, at most
PIXELS = 480  # rows or columns of one panel, at most
POWER = 0.3  # of spectrogram-like channels, whose low rows are a thousand times as large as their high ones


def require_matplotlib() -> None:
    """Raise UsageError where matplotlib is missing."""
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError("matplotlib is not installed; drawing needs it: pip install 'demucs-np[plots]'")


def draw_all(taps: Mapping[str, Array], folder: Path) -> list[Path]:
    """Draw each activation into `folder`, as `<path>.png`. Raises DemucsError where that cannot be written."""
    written = []
    for path, activation in taps.items():
        figure = draw(path, activation)
        file = folder / f"{path}.png"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            figure.savefig(file)
        except OSError as error:
            raise DemucsError(f"{file}: cannot be written ({error.strerror}); choose another folder") from error
        written.append(file)
    return written


def draw(path: str, activation: Array) -> Figure:
    """A picture of one activation as `trace` records it, under its path.

    (1, C, F, T): the channels with most in them, frequency upwards, each value as sign(x)|x|^0.3. (1, C, T) and tokens (1, N, C): all
    channels as rows, or as curves if they are few. Attention: a map of keys (across) and queries (downwards) for each head.
    """
    if path.endswith(".weights"):
        return grid(path, list(activation[0]), [f"head {h}" for h in range(activation.shape[1])], "keys", "queries", signed=False)
    if path.endswith(".heads"):
        heads = [head.T for head in activation[0]]
        return grid(path, heads, [f"head {h}" for h in range(len(heads))], "tokens", "channels")
    if activation.ndim == 4:
        chosen = np.sort(np.argsort(-activation[0].var(axis=(1, 2)), kind="stable")[:PANELS])
        names = [f"channel {channel}" for channel in chosen]
        return grid(path, [compressed(activation[0, channel]) for channel in chosen], names, "frames", "rows", upwards=True)
    if path.startswith("crosstransformer"):
        return grid(path, [activation[0].T], [""], "tokens", "channels")
    if activation.shape[1] <= 8:
        return curves(path, activation[0])
    return grid(path, [activation[0]], [""], "steps", "channels")


def grid(
    title: str, panels: list[Array], names: list[str], across: str, down: str, *, signed: bool = True, upwards: bool = False
) -> Figure:
    """Arrays [rows, columns] as pictures side by side. `signed`: blue is negative, red positive, on one scale for all panels."""
    columns = min(4, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = _figure((3 * columns, 2.2 * rows) if len(panels) > 1 else (8, 3), title)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    small = [pooled(panel, PIXELS) for panel in panels]
    limit = max(float(np.quantile(np.abs(panel), 0.995)) for panel in small) or 1.0
    look: dict[str, Any] = {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit} if signed else {"cmap": "magma", "vmin": 0}
    for axis, panel, whole, name in zip(axes.flat, small, panels, names, strict=False):
        if not signed:
            look["vmax"] = float(np.quantile(panel, 0.995)) or 1.0
        height, width = whole.shape
        extent = (0, width, 0, height) if upwards else (0, width, height, 0)
        axis.imshow(panel, aspect="auto", origin="lower" if upwards else "upper", extent=extent, interpolation="nearest", **look)
        axis.set_title(name, fontsize=8)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    axes[-1][0].set_xlabel(across)
    axes[-1][0].set_ylabel(down)
    return figure


def curves(title: str, channels: Array) -> Figure:
    """Channels [C, T] as bands between their least and greatest values."""
    figure = _figure((8, 1 + len(channels)), title)
    axes = figure.subplots(len(channels), 1, squeeze=False, sharex=True)[:, 0]
    edges = np.unique(np.linspace(0, channels.shape[1], min(channels.shape[1], 1000) + 1).astype(int)[:-1])
    for number, (axis, channel) in enumerate(zip(axes, channels, strict=True)):
        axis.fill_between(edges, np.minimum.reduceat(channel, edges), np.maximum.reduceat(channel, edges), step="post")
        axis.set_ylabel(f"{number}")
    axes[-1].set_xlabel("steps")
    return figure


def compressed(x: Array) -> Array:
    """sign(x)|x|^0.3, as loudness is heard: what is a thousand times weaker is still seen."""
    return np.asarray(np.sign(x) * np.abs(x) ** POWER)


def pooled(panel: Array, most: int) -> Array:
    """At most `most` rows and columns, each the mean of those it stands for."""
    for axis in (0, 1):
        size = panel.shape[axis]
        if size > most:
            edges = np.arange(most) * size // most
            counts = np.diff(np.append(edges, size))
            panel = np.add.reduceat(panel, edges, axis=axis) / (counts[:, None] if axis == 0 else counts)
    return panel


def _figure(size: tuple[float, float], title: str) -> Figure:
    from matplotlib.figure import Figure  # without pyplot: no window, no global state

    figure = Figure(figsize=size, dpi=100, layout="constrained")
    figure.suptitle(title, fontsize=10)
    return figure
