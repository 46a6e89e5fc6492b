"""A picture of where the time goes: `demucs-np bench --profile --json > profile.json; python bench/chart.py profile.json OUT.png`.

Each layer's bar is its time; its dark part is what the layer would take at this machine's own rates of arithmetic and copying. A second
profile (`--before`) is drawn beside it. Needs matplotlib.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

ORDER = (
    "stft",
    "normalize",
    "encoder",
    "freq_emb",
    "tencoder",
    "channel_up",
    "crosstransformer",
    "channel_down",
    "decoder",
    "tdecoder",
    "istft",
)


def place(name: str) -> tuple[int, str]:
    """Layers in the order of the forward pass."""
    return next((at for at, prefix in enumerate(ORDER) if name.startswith(prefix)), len(ORDER)), name


def chart(profile: dict[str, Any], path: Path, before: dict[str, Any] | None = None) -> None:
    """Draw the layers of a profile as horizontal bars, those under 0.3 % of the time together as "rest"."""
    rows = {row["name"]: row for row in profile["layers"]}
    earlier = {row["name"]: row for row in before["layers"]} if before else {}
    large = sorted((name for name, row in rows.items() if row["seconds"] > 0.003 * profile["seconds"]), key=place)
    figure = Figure(figsize=(10, 0.32 * len(large) + 1.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    y = list(range(len(large) + 1))

    def times(source: dict[str, dict[str, Any]], key: str) -> list[float]:
        rest = sum(row[key] for name, row in source.items() if name not in large)
        return [1e3 * source[name][key] if name in source else 0.0 for name in large] + [1e3 * rest]

    if before:
        axes.barh(y, times(earlier, "seconds"), height=0.85, color="#d9d9d9", label=f"before: {before['seconds']:.2f} s")
    axes.barh(y, times(rows, "seconds"), height=0.6, color="#6baed6", label=f"measured: {profile['seconds']:.2f} s")
    axes.barh(y, times(rows, "floor"), height=0.6, color="#08519c", label="at the machine's own rates")
    axes.set_yticks(y, [*large, "rest"])
    axes.set_ylim(len(large) + 0.6, -0.6)  # the first layer on top
    axes.set_xlabel("ms")
    machine, threads = profile["machine"], profile["threads"]
    axes.set_title(
        f"{profile['model']}, one segment, {threads} thread{'s' if threads > 1 else ''} "
        f"({machine['flop'] / 1e9:.0f} GFLOP/s, {machine['moved'] / 1e9:.0f} GB/s)"
    )
    axes.legend(loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profile", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--before", type=Path)
    options = parser.parse_args()
    chart(json.loads(options.profile.read_text()), options.picture, json.loads(options.before.read_text()) if options.before else None)


if __name__ == "__main__":
    main()
