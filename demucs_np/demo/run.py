"""`demucs-np demo`: separate the bundled song with the bundled model and compare with the true stems."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..audio import ArraySource, reason_of, write
from ..errors import AudioError
from ..separation.apply import Progress
from ..separation.separator import Separator
from ..weights import catalog
from .sdr import sdr
from .song import DEMO_FILE, DEMO_SECONDS, DEMO_SEED, STEMS, make_song
from .synth import SAMPLE_RATE

DEMO_MODEL = catalog.DEMO_FILE


@dataclass(frozen=True)
class Result:
    """What a run of the demo measured; SDR in dB by stem, before (the mixture taken for the stem) and after."""

    before: dict[str, float]
    after: dict[str, float]
    consistency: float  # SNR in dB of the sum of the estimates against the mixture
    audio_seconds: float
    seconds: float  # the separation alone, the model loaded and compiled
    files: list[Path]


def run_demo(
    out: str | Path = "separated",
    *,
    threads: int | None = None,
    progress: Progress | None = None,
    echo: Callable[[str], object] = print,
) -> Result:
    """Separate the bundled song into `out`/demo/song/<stem>.wav, tell how well and how fast with `echo`, and draw `spectrograms.png` there.

    Needs no network. Raises AudioError if the folder cannot be written.
    """
    separator = Separator(DEMO_MODEL, shifts=0, threads=threads, progress=progress)
    true = make_song(DEMO_SEED, DEMO_SECONDS)
    Separator(separator.model, shifts=0, threads=threads).separate_array(np.zeros((2, 4410), np.float32) + 1e-3, SAMPLE_RATE)  # compiles
    began = time.perf_counter()
    mix, estimates = separator.separate_audio_file(DEMO_FILE)
    seconds = time.perf_counter() - began

    result = Result(
        before={stem: sdr(true[stem], mix) for stem in STEMS},
        after={stem: sdr(true[stem], estimates[stem]) for stem in STEMS},
        consistency=sdr(mix, np.sum([estimates[stem] for stem in STEMS], axis=0)),
        audio_seconds=mix.shape[1] / SAMPLE_RATE,
        seconds=seconds,
        files=_write(Path(out) / "demo" / DEMO_FILE.stem, mix, estimates, true, echo),
    )
    echo(report(result))
    return result


def report(result: Result) -> str:
    """The table of a run, and its speed."""
    lines = ["SDR in dB     mixture   separated   gained"]
    for stem in STEMS:
        before, after = result.before[stem], result.after[stem]
        lines.append(f"{stem:<12}{before:>9.2f}{after:>12.2f}{after - before:>+9.2f}")
    lines.append(f"The stems sum to the mixture at {result.consistency:.1f} dB SNR.")
    speed = result.audio_seconds / result.seconds
    lines.append(f"{result.audio_seconds:.1f} s of music in {result.seconds:.2f} s: {speed:.1f} times as fast as it plays.")
    lines.append(f"Written to {result.files[0].parent}")
    return "\n".join(lines)


def _write(
    folder: Path, mix: np.ndarray, estimates: dict[str, np.ndarray], true: dict[str, np.ndarray], echo: Callable[[str], object]
) -> list[Path]:
    files = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for stem in STEMS:
            files.append(folder / f"{stem}.wav")
            write(files[-1], ArraySource(estimates[stem]), SAMPLE_RATE)
        files.append(draw(folder / "spectrograms.png", mix, estimates, true))
    except ImportError:
        echo("No picture: matplotlib is not installed (pip install 'demucs-np[plots]').")
    except OSError as error:
        raise AudioError(f"{folder}: cannot be written to ({reason_of(error)}); choose another folder, or free some space") from error
    return files


def draw(path: Path, mix: np.ndarray, estimates: dict[str, np.ndarray], true: dict[str, np.ndarray]) -> Path:
    """One picture: the mixture's spectrogram on top, below it each stem, separated on the left, true on the right.

    Arrays are (2, samples). Raises ImportError without matplotlib.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 14), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(1 + len(STEMS), 2)
    panels = [(grid[0, :], "mixture", mix)]
    for row, stem in enumerate(STEMS, start=1):
        panels += [(grid[row, 0], f"{stem}, separated", estimates[stem]), (grid[row, 1], f"{stem}, true", true[stem])]
    for place, title, wav in panels:
        axes = figure.add_subplot(place)
        extent = (0.0, wav.shape[1] / SAMPLE_RATE, 0.0, _TOP / 1000.0)
        axes.imshow(spectrogram(wav), origin="lower", aspect="auto", extent=extent, vmin=-100.0, vmax=-20.0, cmap="magma")
        axes.set_title(title)
        axes.set_ylabel("kHz")
    axes.set_xlabel("s")
    partial = path.with_name(f".{path.name}.partial")
    figure.savefig(partial, dpi=100, format="png")
    return partial.replace(path)


_TOP = 10_000.0  # Hz, highest frequency shown


def spectrogram(wav: np.ndarray, size: int = 2048) -> np.ndarray:
    """Power in dB (full-scale sine: about -6) of the mono mix of (2, samples), (bins up to `_TOP`, frames)."""
    frames = np.lib.stride_tricks.sliding_window_view(wav.mean(axis=0), size)[:: size // 2]
    window = np.hanning(size)
    spectrum = np.fft.rfft(frames * (window / window.sum()))[:, : int(_TOP * size / SAMPLE_RATE)]
    decibels: np.ndarray = 20.0 * np.log10(np.abs(spectrum.T) + 1e-6)
    return decibels
