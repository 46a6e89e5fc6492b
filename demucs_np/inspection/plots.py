"""Pictures of traced activations, with matplotlib (`pip install demucs-np[plots]`)."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import DemucsError, UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..models.config import Config

Array = np.ndarray
PANELS = 16  # channels of one picture, at most
PIXELS = 480  # rows or columns of one panel, at most
POWER = 0.3  # of spectrogram-like channels, whose low rows are a thousand times as large as their high ones


@dataclass(frozen=True)
class Scale:
    """What the axes of a picture mean: the segment begins at `begin` s of the track and lasts `seconds`, rows end at `hertz`."""

    begin: float
    seconds: float
    hertz: float
    channels: Mapping[str, Sequence[str]]  # path -> names, where channels have some


def scale_of(config: Config, begin: float = 0.0, seconds: float | None = None) -> Scale:
    """Of activations that a model of this configuration gave for a segment (`seconds`: its length, if not the model's own)."""
    sides = ["left", "right"] if config.audio_channels == 2 else [f"channel {number}" for number in range(config.audio_channels)]
    waves = [f"{stem} {side}" for stem in config.sources for side in sides]
    spectra = [f"{wave} {part}" for wave in waves for part in ("re", "im")] if getattr(config, "cac", False) else waves
    last = config.depth - 1
    names = {f"tdecoder.{last}": waves, f"decoder.{last}": spectra if hasattr(config, "nfft") else waves}
    return Scale(begin, float(config.segment) if seconds is None else seconds, config.samplerate / 2, names)


def require_matplotlib() -> None:
    """Raise UsageError where matplotlib is missing."""
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError("matplotlib is not installed; drawing needs it: pip install 'demucs-np[plots]'")


def draw_all(taps: Mapping[str, Array], folder: Path, scale: Scale | None = None) -> list[Path]:
    """Draw each activation into `folder`, as `<path>.png`. Raises DemucsError where that cannot be written."""
    written = []
    for path, activation in taps.items():
        figure = draw(path, activation, scale)
        file = folder / f"{path}.png"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            figure.savefig(file)
        except OSError as error:
            raise DemucsError(f"{file}: cannot be written ({error.strerror}); choose another folder") from error
        written.append(file)
    return written


def draw(path: str, activation: Array, scale: Scale | None = None) -> Figure:
    """A picture of one activation as `trace` records it, under its path; axes are in s and Hz where their `scale` is given.

    (1, C, F, T): the channels with most in them, frequency upwards, each value as sign(x)|x|^0.3. (1, C, T) and tokens (1, N, C): all
    channels as rows, or as curves if they are few. Attention: a map of keys (across) and queries (downwards) for each head.
    """
    time = ("s", (scale.begin, scale.begin + scale.seconds)) if scale else None
    names = scale.channels.get(path, []) if scale else []
    if path.endswith(".weights"):
        heads = [f"head {head}" for head in range(activation.shape[1])]
        axes = [(f"{what}, s", time[1]) if time else (what, None) for what in ("keys", "queries")]
        return grid(path, list(activation[0]), heads, axes[0], axes[1], signed=False)
    if path.endswith(".heads"):
        panels = [head.T for head in activation[0]]
        return grid(path, panels, [f"head {h}" for h in range(len(panels))], time or ("tokens", None), ("channels", None))
    if activation.ndim == 4:
        chosen = np.sort(np.argsort(-activation[0].var(axis=(1, 2)), kind="stable")[:PANELS])
        titles = [names[channel] if names else f"channel {channel}" for channel in chosen]
        rows = ("Hz", (0.0, scale.hertz)) if scale else ("rows", None)
        panels = [compressed(activation[0, channel]) for channel in chosen]
        return grid(path, panels, titles, time or ("frames", None), rows, upwards=True, unit="sign(x) |x|^0.3")
    if path.startswith("crosstransformer"):
        return grid(path, [activation[0].T], [""], time or ("tokens", None), ("channels", None))
    if activation.shape[1] <= 8:
        return curves(path, activation[0], time or ("steps", None), names)
    return grid(path, [activation[0]], [""], time or ("steps", None), ("channels", None))


Axis = tuple[str, tuple[float, float] | None]  # its label, and where it begins and ends; None: it counts


def grid(
    title: str, panels: list[Array], names: list[str], across: Axis, down: Axis, *,
    signed: bool = True, upwards: bool = False, unit: str = "",
) -> Figure:  # fmt: skip
    """Arrays [rows, columns] as pictures side by side. `signed`: blue is negative, red positive, on one scale for all panels."""
    columns = min(4, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = _figure((3 * columns, 2.2 * rows) if len(panels) > 1 else (8, 3), title)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    small = [pooled(panel, PIXELS) for panel in panels]
    limit = max(float(np.quantile(np.abs(panel), 0.995)) for panel in small) or 1.0
    look: dict[str, Any] = {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit} if signed else {"cmap": "magma", "vmin": 0}
    for number, (panel, whole, name) in enumerate(zip(small, panels, names, strict=True)):
        axis = axes.flat[number]
        if not signed:
            look["vmax"] = float(np.quantile(panel, 0.995)) or 1.0
        left, right = across[1] or (0, whole.shape[1])
        low, high = down[1] or (0, whole.shape[0])
        extent = (left, right, low, high) if upwards else (left, right, high, low)
        image = axis.imshow(panel, aspect="auto", origin="lower" if upwards else "upper", extent=extent, interpolation="nearest", **look)
        axis.set_title(name, fontsize=8)
        if not signed:
            figure.colorbar(image, ax=axis)  # each head's own
    if signed:
        figure.colorbar(image, ax=axes, label=unit)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    axes[-1][0].set_xlabel(across[0])
    axes[-1][0].set_ylabel(down[0])
    return figure


def curves(title: str, channels: Array, across: Axis, names: Sequence[str] = ()) -> Figure:
    """Channels [C, T] as bands between their least and greatest values."""
    figure = _figure((8, 1 + len(channels)), title)
    axes = figure.subplots(len(channels), 1, squeeze=False, sharex=True)[:, 0]
    edges = np.unique(np.linspace(0, channels.shape[1], min(channels.shape[1], 1000) + 1).astype(int)[:-1])
    left, right = across[1] or (0, channels.shape[1])
    places = left + edges * (right - left) / channels.shape[1]
    for number, (axis, channel) in enumerate(zip(axes, channels, strict=True)):
        axis.fill_between(places, np.minimum.reduceat(channel, edges), np.maximum.reduceat(channel, edges), step="post")
        axis.set_ylabel(names[number].replace(" ", "\n", 1) if names else f"{number}")
    axes[-1].set_xlabel(across[0])
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
