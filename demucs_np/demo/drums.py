"""The drum kit of the demo song: each drum from scratch, a bar's pattern, fills, the drum bus."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from demucs_np.demo.synth import SAMPLE_RATE, Array, Rng, add, band, compress, convolve, decay, fade, pan, room, samples, spectral

# Sixteenths of a bar that have a hit; capitals are loud, small letters soft.
KICKS = (
    "X.......X.......",
    "X.....X.X.......",
    "X..X..X...X.....",
    "X...X...X...X...",
    "X.......X.x...x.",
    "X.x....X..X.....",
    "X......xX.....x.",
)
SNARES = ("....X.......X...", "....X.......X..x", "....X..x.x..X...", "........X.......", "....X.......X.x.")
HATS = ("x.x.x.x.x.x.x.x.", "XxxxXxxxXxxxXxxx", "..X...X...X...X.", "X.x.X.x.X.x.X.xx", "X..xX.x.X..xX.x.", "X...X...X...X...")
FILLS = ("........X.x.XxXX", "............XXXX", "....x.X.x.X.XxXx", "........XxxXxxXx", "..........X.X.XX")


def _kick(rng: Rng) -> Array:
    n = samples(rng.uniform(0.22, 0.5))
    low, sweep = rng.uniform(43, 62), rng.uniform(90, 260)
    hz = low + sweep * decay(n, rng.uniform(0.012, 0.035))
    body = np.sin(2 * np.pi * np.cumsum(hz) / SAMPLE_RATE) * decay(n, n / SAMPLE_RATE / 3.5)
    click = spectral(rng.noise(n) * decay(n, 0.003), band(1200, 7000)) * rng.uniform(0.2, 1.0)
    return np.tanh(rng.uniform(1.0, 2.5) * (body + click)) * fade(n, 0.0005, 0.02)


def _snare(rng: Rng) -> Array:
    n = samples(rng.uniform(0.18, 0.35))
    base = rng.uniform(165, 230)
    t = np.arange(n) / SAMPLE_RATE
    drop = 1.0 + 0.25 * np.exp(-t / 0.01)
    tone = np.sin(2 * np.pi * base * drop * t) + 0.6 * np.sin(2 * np.pi * base * 1.72 * drop * t)
    wires = spectral(rng.noise(n), band(rng.uniform(900, 2200), rng.uniform(7000, 13000)))
    sound = tone * decay(n, rng.uniform(0.03, 0.07)) * 0.5 + wires * decay(n, rng.uniform(0.05, 0.11)) * rng.uniform(1.0, 1.8)
    return np.tanh(1.5 * sound) * fade(n, 0.0005, 0.03)


def _clap(rng: Rng) -> Array:
    n = samples(0.3)
    envelope = 0.7 * decay(n, rng.uniform(0.05, 0.09))
    for i in range(3):
        add(envelope, decay(n, 0.004), samples(0.011 * i))
    return spectral(rng.noise(n), band(rng.uniform(800, 1200), rng.uniform(3500, 6500))) * envelope * fade(n, 0.001, 0.05) * 1.6


def _metal(rng: Rng, seconds: float, low: float, sustain: float) -> Array:
    """Hats and cymbals: six square waves of no common pitch in noise, high-passed."""
    n = samples(seconds)
    t = np.arange(n) / SAMPLE_RATE
    base = rng.uniform(320, 480)
    squares = sum((np.sign(np.sin(2 * np.pi * base * ratio * t)) for ratio in (1.0, 1.342, 1.2312, 1.6532, 1.9523, 2.1523)), np.zeros(n))
    sound = spectral(0.12 * squares + rng.noise(n), band(low, 15500, 3))
    return sound * decay(n, sustain) * fade(n, 0.0008, 0.02)


def _tom(rng: Rng, hz: float) -> Array:
    n = samples(0.4)
    sweep = hz * (1.0 + 0.5 * decay(n, 0.03))
    skin = spectral(rng.noise(n) * decay(n, 0.02), band(300, 4000)) * 0.4
    return (np.sin(2 * np.pi * np.cumsum(sweep) / SAMPLE_RATE) * decay(n, 0.11) + skin) * fade(n, 0.0008, 0.04)


class Kit:
    """One kit: its drums' sounds, their places between the loudspeakers, its patterns."""

    def __init__(self, rng: Rng) -> None:
        self.rng = rng
        side = rng.pick((-1.0, 1.0))
        self.sounds: dict[str, list[Array]] = {}
        hat, open_hat = rng.uniform(5500, 8000), rng.uniform(0.12, 0.25)
        voices: dict[str, tuple[Callable[[], Array], float, float]] = {
            "kick": (lambda: _kick(rng), 0.0, 1.0),
            "snare": (lambda: _snare(rng), 0.1 * side, rng.uniform(0.5, 0.8)),
            "clap": (lambda: _clap(rng), -0.1 * side, rng.uniform(0.3, 0.6)),
            "hat": (lambda: _metal(rng, 0.12, hat, rng.uniform(0.018, 0.04)), 0.35 * side, rng.uniform(0.12, 0.28)),
            "open": (lambda: _metal(rng, 0.6, hat, open_hat), 0.35 * side, rng.uniform(0.12, 0.25)),
            "ride": (lambda: _metal(rng, 0.9, 4500, 0.3), -0.5 * side, rng.uniform(0.1, 0.18)),
            "crash": (lambda: _metal(rng, 2.2, 3000, 0.6), 0.6 * side, rng.uniform(0.2, 0.35)),
            "tom0": (lambda: _tom(rng, 190.0), 0.4 * side, 0.6),
            "tom1": (lambda: _tom(rng, 135.0), -0.1 * side, 0.65),
            "tom2": (lambda: _tom(rng, 92.0), -0.5 * side, 0.7),
        }
        for name, (make, place, level) in voices.items():
            state = (make(), make()) if name in ("snare", "hat") else (make(),)  # two takes of what repeats most
            self.sounds[name] = [pan(level * take, place) for take in state]
        self.kick, self.snare, self.hat = rng.pick(KICKS), rng.pick(SNARES), rng.pick(HATS)
        self.chorus_kick, self.chorus_hat = rng.pick(KICKS), rng.pick(HATS)
        self.backbeat = rng.pick(("snare", "snare", "snare", "clap"))
        self.chorus_cymbal = rng.pick(("hat", "hat", "ride", "open"))
        self.swing = rng.pick((0.0, 0.0, 0.0, rng.uniform(0.05, 0.33)))
        self.loose = rng.uniform(0.0, 0.006)  # seconds off the grid

    def hit(self, out: Array, name: str, start: int, loud: bool) -> None:
        sound = self.rng.pick(self.sounds[name])
        late = samples(self.rng.uniform(-1, 1) * self.loose)
        add(out, sound * ((0.9 if loud else 0.42) * self.rng.uniform(0.85, 1.1)), start + late)

    def bar(self, out: Array, start: int, step: float, chorus: bool, fill: bool, beats: bool = True) -> None:
        """One bar from sample `start`; `step` is a sixteenth in samples. A fill replaces the end of the pattern by toms and snare."""
        fill_steps = self.rng.pick(FILLS) if fill else "." * 16
        first_fill = min((i for i, c in enumerate(fill_steps) if c != "."), default=16)
        toms = sorted(self.rng.pick(("snare", "tom0", "tom1", "tom2")) for _ in range(16))
        lines = [
            ("kick", self.chorus_kick if chorus else self.kick),
            (self.backbeat, self.snare),
            (self.chorus_cymbal if chorus else "hat", self.chorus_hat if chorus else self.hat),
        ]
        for i in range(16):
            at = start + int(step * (i + (self.swing if i % 2 else 0.0)))
            for name, pattern in lines:
                if pattern[i] == "." or (i >= first_fill and name != "kick") or (not beats and name not in ("hat", "ride", "open")):
                    continue
                self.hit(out, "open" if name == "hat" and i == 14 and self.rng.chance(0.3) else name, at, pattern[i] == "X")
            if fill_steps[i] != ".":
                self.hit(out, toms[i], at, fill_steps[i] == "X")

    def bus(self, out: Array) -> Array:
        """The room around the kit and the compressor on its bus."""
        rng = self.rng
        wet = convolve(out.sum(axis=0), room(rng, rng.uniform(0.25, 0.9), 0.004, 6000.0))
        return compress(out + wet * rng.uniform(0.05, 0.22), rng.uniform(2, 8), rng.uniform(1.5, 4.0), 0.01, 0.1)
