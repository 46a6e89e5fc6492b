"""Streams: what a low delay costs in quality and work, whether it keeps up with sound as it comes, and whether no bit is lost.

    python bench/stream.py quality     # SDR of the demo model on held-out songs for each hop and lookahead; any machine, busy or not
    python bench/stream.py live        # sound that comes in at the speed it plays: delay from in to out, measured; a quiet machine
    python bench/stream.py exact       # whole windows beside apply_model, bit for bit

`live` takes `--seconds` for each line of its table, and half of that to warm up.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from common import KNOWN, checkpoint, folder, heading, markdown, tell, threads_text

import demucs_np as dn
from demucs_np.demo.sdr import sdr
from demucs_np.demo.song import STEMS, make_song, mixture
from demucs_np.demo.synth import SAMPLE_RATE
from demucs_np.models.bag import BagOfModels
from demucs_np.parity.recipe import draw_mix
from demucs_np.separation.loudness import Moments

HOPS, LOOKAHEADS = (0.5, 1.0, 1.5, 2.5, 3.5, 5.0), (0.1, 0.25, 0.5, 1.0, 2.0)
LIVE = {"demo": (0.5, 1.0), "htdemucs": (1.5, 2.5, 5.0)}  # model -> hops


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["quality", "live", "exact"])
    parser.add_argument("--songs", type=int, default=20, help="quality: held-out songs, 20 at most")
    parser.add_argument("--models", nargs="+", choices=["demo", *KNOWN], help="live, exact")
    parser.add_argument("--hops", nargs="+", type=float, help="quality, live: seconds")
    parser.add_argument("--lookahead", type=float, default=0.5, help="live: seconds")
    parser.add_argument("--seconds", type=float, help="quality: of each song (24); live: of each run (40); exact: of the mix (20)")
    parser.add_argument("--threads", type=int, help="default: all cores")
    parser.add_argument("--work", type=Path, help="keep random weights in this folder, for the next time")
    options = parser.parse_args()
    head = heading()
    table = {"quality": quality, "live": live, "exact": exact}[options.what](options)
    print(f"{head}\n{table}")


def models(options: argparse.Namespace, default: list[str]) -> Iterator[tuple[str, BagOfModels]]:
    with folder(options.work) as work:
        for name in options.models or default:
            yield name, dn.load_model(name if name == "demo" else checkpoint(work / f"{name}.safetensors", name))


def loudness_of(mix: np.ndarray) -> tuple[float, float]:
    moments = Moments()
    moments.update(mix)
    return moments.mean, moments.std


def pushed(stream: dn.Stream, mix: np.ndarray, sizes: tuple[int, ...]) -> dict[str, np.ndarray]:
    """All that comes out of a stream to which `mix` is pushed in blocks of these sizes, again and again."""
    parts, at = [], 0
    for size in itertools.cycle(sizes):
        if at >= mix.shape[1]:
            break
        parts.append(stream.push(mix[:, at : at + size]))
        at += size
    parts.append(stream.flush())
    return {stem: np.concatenate([part[stem] for part in parts], axis=1) for stem in stream.stems}


class Remembering:
    """A model that is asked only once for a window: windows of several hops and lookaheads end at one sample, and then hear the same."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._known: dict[bytes, np.ndarray] = {}
        self.asked = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, mix: np.ndarray) -> np.ndarray:
        key = mix.tobytes()
        if key not in self._known:
            self.asked += 1
            self._known[key] = self._model(mix)
        return self._known[key].copy()

    def forget(self) -> None:
        self._known.clear()


def quality(options: argparse.Namespace) -> str:
    """Median SDR over songs and stems, and its distance to whole windows. Ctrl-C: of the songs that are done."""
    member = Remembering(dn.load_model("demo").only)
    window, hops = float(member.segment), options.hops or HOPS
    # Those whose windows end at the same samples one after another, so that few have to be remembered.
    low = sorted(((hop, ahead) for ahead in LOOKAHEADS for hop in hops if hop + ahead <= window), key=lambda pair: (pair[1] % 0.5, pair))
    songs: list[dict[object, list[float]]] = []
    try:
        for seed in range(options.songs):
            songs.append(_song(seed, options.seconds or 24.0, member, low, options.threads))
            tell(f"song {seed}: {member.asked} windows so far")
    except KeyboardInterrupt:
        if not songs:
            raise
    found = {key: np.array([song[key] for song in songs]) for key in songs[0]}  # [songs, stems]
    whole = found["fixed"]
    rows = []
    for hop in hops:
        cells = [difference(found[hop, ahead], whole) if (hop, ahead) in found else "-" for ahead in LOOKAHEADS]
        rows.append([f"{hop:g} s", *cells, f"{window / hop:.1f}" if any(cell != "-" for cell in cells) else "-"])
    rows.append(["whole windows, running loudness", *[""] * 4, difference(found["running"], whole), f"{1 / 0.75:.1f}"])
    stems = ", ".join(f"{stem} {value:.2f}" for stem, value in zip(STEMS, np.median(whole, axis=0), strict=True))
    worst = {key: (values - whole).min() for key, values in found.items()}
    lowest = min(worst, key=lambda key: worst[key])
    return (
        f"SDR of {len(songs)} songs, less that of whole windows at the loudness of the track ({stems} dB), "
        "the stems' medians averaged, dB:\n\n"
        + markdown(["hop \\ lookahead", *(f"{ahead:g} s" for ahead in LOOKAHEADS), "work"], rows)
        + "\n\nwork: seconds that go through the model for a second of sound. "
        + f"The worst stem of any song loses {-worst[lowest]:.2f} dB (hop and lookahead: {lowest})."
    )


def _song(seed: int, seconds: float, member: Remembering, low: list[tuple[float, float]], threads: int | None) -> dict[object, list[float]]:
    """SDR of each stem, whole windows and for each hop and lookahead."""
    true = make_song(seed, seconds)
    mix = mixture(true)
    model = BagOfModels([member], [[1.0] * len(member.sources)])  # type: ignore[list-item]

    def measure(**how: Any) -> list[float]:
        stems = pushed(dn.Stream(model, threads=threads, **how), mix, (SAMPLE_RATE,))
        return [sdr(true[stem], stems[stem]) for stem in STEMS]

    found: dict[object, list[float]] = {"fixed": measure(loudness=loudness_of(mix)), "running": measure()}
    for _, group in itertools.groupby(low, key=lambda pair: pair[1] % 0.5):
        member.forget()
        for hop, ahead in group:
            found[hop, ahead] = measure(hop=hop, lookahead=ahead)
    return found


def difference(values: np.ndarray, whole: np.ndarray) -> str:
    """Of SDR, (songs, stems) each."""
    return f"{np.median(values - whole, axis=0).mean():+.2f}"


def live(options: argparse.Namespace) -> str:
    """Sound comes in 50 ms at a time when it would have been recorded; the delay is that of the oldest sample that comes out."""
    rows = []
    seconds = options.seconds or 40.0
    for name, model in models(options, list(LIVE)):
        mix = draw_mix(0, model.audio_channels, int(seconds * model.samplerate), model.samplerate)
        for hop in options.hops or LIVE.get(name, (2.5,)):

            def start(hop: float = hop, model: BagOfModels = model) -> dn.Stream:
                return dn.Stream(model, hop=hop, lookahead=options.lookahead, threads=options.threads)

            pushed(start(), mix[:, : mix.shape[1] // 2], (model.samplerate,))
            stream = start()
            delays = [delay for _, delay in _live(stream, mix, model.samplerate)]
            behind = "falls behind" if stream.speed < 1 else "keeps up"
            median = f"{np.median(delays):.2f}" if stream.speed >= 1 else "-"
            line = [name, f"{hop:g}", f"{options.lookahead:g}", f"{stream.speed:.2f}", f"{hop / stream.speed:.2f}"]
            rows.append([*line, f"{stream.delay:.2f}", median, f"{max(delays):.2f}", behind])
            tell(" ".join(rows[-1]))
    header = ["model", "hop s", "lookahead s", "x real time", "work of a window s", "stated delay s", "measured: median s", "worst s", ""]
    what = "measured: from when a sample was there to when it came out, the oldest of each window"
    threads = threads_text(options.threads) if options.threads else "all cores"
    return f"{seconds:g} s of sound each, {threads}; {what}.\n\n{markdown(header, rows)}"


def _live(stream: dn.Stream, mix: np.ndarray, rate: int) -> Iterator[tuple[float, float]]:
    """When something came out, and how long after its first sample had been there: seconds."""
    step, out, began = rate // 20, 0, time.perf_counter()
    for at in range(0, mix.shape[1], step):
        ready = began + (at + step) / rate
        time.sleep(max(0.0, ready - time.perf_counter()))
        stems = stream.push(mix[:, at : at + step])
        count = next(iter(stems.values())).shape[1]
        if count:
            now = time.perf_counter() - began
            yield now, now - out / rate
        out += count


def exact(options: argparse.Namespace) -> str:
    """Odd pushes of whole windows beside `apply_model`, on models of the published shapes."""
    rows = []
    for name, model in models(options, ["demo", "htdemucs", "hdemucs", "demucs"]):
        segment = None if model.segment < 10 else 8.0  # the longest segments need 2 GB
        mix = draw_mix(1, model.audio_channels, int((options.seconds or 20.0) * model.samplerate), model.samplerate)
        mean, std = loudness_of(mix)
        level = np.float32(mean), np.float32(std + 1e-8)
        whole = dn.apply_model(model, (mix - level[0]) / level[1], shifts=0, segment=segment, threads=options.threads) * level[1] + level[0]
        stems = pushed(dn.Stream(model, loudness=(mean, std), segment=segment, threads=options.threads), mix, (12345, 0, 7, 99999))
        same = all(np.array_equal(stems[stem], whole[number]) for number, stem in enumerate(model.sources))
        count = math.prod(whole.shape)
        rows.append([name, f"{float(segment or model.segment):g}", f"{count}", "the same bits" if same else "DIFFERENT"])
        tell(" ".join(rows[-1]))
    return markdown(["model", "segment s", "samples", "stream and apply_model"], rows)


if __name__ == "__main__":
    main()
