"""A small synthesised production: `make_song(seed)` writes and mixes drums, bass, other and vocals.

From one seed follow tempo, key, chords, arrangement, instruments, effects and levels. The stems lie on the grid of 16-bit audio, so that
their sum, the mixture, is exact in float32 and in a FLAC file, and so that last-digit differences between processors' sines disappear in
the rounding: the same seed gives the same song, bit for bit.

`python -m demucs_np.demo.song` writes the bundled song (the mixture as FLAC).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from demucs_np.demo.drums import Kit
from demucs_np.demo.synth import (
    HOP,
    SAMPLE_RATE,
    Array,
    Rng,
    add,
    band,
    compress,
    convolve,
    decay,
    echo,
    fade,
    harmonics,
    pan,
    pitch_to_hz,
    pluck,
    room,
    samples,
    spectral,
    upsample,
)
from demucs_np.demo.voice import Note, Singer, melody

STEMS = ("drums", "bass", "other", "vocals")
DEMO_SEED = 11
DEMO_SECONDS = 24.0
DEMO_FILE = Path(__file__).with_name("song.flac")

SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10), "dorian": (0, 2, 3, 5, 7, 9, 10)}
PROGRESSIONS = (
    (0, 5, 3, 4),
    (0, 4, 5, 3),
    (5, 3, 0, 4),
    (0, 3, 0, 4),
    (0, 2, 3, 4),
    (0, 6, 5, 4),
    (1, 4, 0, 0),
    (0, 0, 3, 4),
    (0, 3, 5, 4),
)
BASS_LINES = (
    ((0, 4, 0), (4, 4, 0), (8, 4, 0), (12, 4, 0)),
    ((0, 6, 0), (6, 2, 0), (8, 6, 0), (14, 2, 4)),
    tuple((2 * i, 2, 0) for i in range(8)),
    ((0, 3, 0), (3, 3, 0), (6, 2, 7), (8, 3, 0), (11, 3, 0), (14, 2, 12)),
    ((0, 12, 0), (12, 2, 7), (14, 2, 0)),
    tuple((4 * i + 2, 2, 12 if i % 2 else 0) for i in range(4)),
    ((0, 2, 0), (3, 1, 0), (4, 2, 12), (7, 1, 0), (8, 2, 0), (10, 2, 7), (12, 2, 12), (14, 2, 7)),
    ((0, 16, 0),),
)  # per bar: (sixteenth, length in sixteenths, semitones over the chord's root)


class Score:
    """What all players share: tempo, key, one chord a bar, which bars are chorus."""

    def __init__(self, rng: Rng, seconds: float) -> None:
        self.beat = 60.0 / rng.uniform(76, 148)
        self.step = self.beat / 4.0
        self.bar = self.beat * 4.0
        self.bars = int(np.ceil(seconds / self.bar))
        key = int(rng.uniform(0, 12))
        self.scale = [(key + s) % 12 for s in SCALES[rng.pick(tuple(SCALES))]]
        degrees, chorus_degrees = rng.pick(PROGRESSIONS), rng.pick(PROGRESSIONS)
        seventh = rng.chance(0.35)
        self.section = rng.pick((4, 4, 4, 2))
        self.chorus = [(bar // self.section) % 2 == 1 for bar in range(self.bars)]
        if rng.chance(0.4):
            self.chorus = [not c for c in self.chorus]
        self.chords = []
        for bar in range(self.bars):
            degree = (chorus_degrees if self.chorus[bar] else degrees)[bar % 4]
            self.chords.append([self.scale[(degree + 2 * i) % 7] for i in range(4 if seventh else 3)])


def _voicing(chord: list[int], low: int) -> list[int]:
    """The chord's pitch classes as pitches, each the first one from `low` up."""
    return sorted(low + (pitch_class - low) % 12 for pitch_class in chord)


def _bass(rng: Rng, score: Score, n: int) -> Array:
    """The bass: one voice, a synthesiser with a moving low-pass or a plucked string."""
    lines = (rng.pick(BASS_LINES), rng.pick(BASS_LINES))
    low = int(rng.uniform(28, 36))
    notes = []
    for bar in range(score.bars):
        for at, sixteenths, interval in lines[score.chorus[bar]]:
            interval = interval if rng.chance(0.9) else rng.pick((0, 7, 12))
            root = low + (score.chords[bar][0] - low) % 12
            notes.append((bar * score.bar + at * score.step, sixteenths * score.step * rng.uniform(0.75, 0.97), root + interval))
    if rng.chance(0.4):
        out = np.zeros(n)
        bright, ring = rng.uniform(0.0, 0.7), rng.uniform(1.5, 4.0)
        top = rng.uniform(900, 3500)
        for start, length, pitch in notes:
            m = samples(length)
            add(out, pluck(rng, pitch_to_hz(pitch), m, bright, ring) * fade(m, 0.003, 0.03) * rng.uniform(0.8, 1.0), samples(start))
        out = spectral(out, band(35, top, 1))
    else:
        frames = n // HOP
        hz, loud, cut = np.full(frames + 1, 50.0), np.zeros(frames + 1), np.ones(frames + 1)
        floor, sweep, fall = rng.uniform(150, 500), rng.uniform(200, 2500), rng.uniform(0.05, 0.4)
        for start, length, pitch in notes:
            a, b = int(start * SAMPLE_RATE / HOP), min(int((start + length) * SAMPLE_RATE / HOP), frames)
            age = np.arange(max(0, b - a)) * HOP / SAMPLE_RATE
            hz[a:] = pitch_to_hz(pitch)
            loud[a:b] = np.clip(age / 0.006, 0, 1) * np.clip((len(age) * HOP / SAMPLE_RATE - age) / 0.02, 0, 1) * rng.uniform(0.85, 1)
            cut[a:b] = floor + sweep * np.exp(-age / fall)
        k = np.arange(1, 33)
        shape = rng.pick((1.0 / k, (k % 2) / k, k**-1.5, np.where(k == 1, 1.0, 0.25 / k)))
        levels = shape / (1.0 + (hz[:, None] * k / cut[:, None]) ** 4) * loud[:, None]
        out = harmonics(hz, levels)
    drive = rng.uniform(0.5, 2.5)
    out = np.tanh(drive * out) / float(np.tanh(drive))
    return compress(pan(out, 0.0), rng.uniform(0, 4), rng.uniform(2.0, 4.0), 0.01, 0.1)


def _electric_piano(rng: Rng) -> Callable[[float, int, float], Array]:
    """Frequency modulation (Chowning 1973): a bell-like attack that mellows; also bells and mallets."""
    ratio, depth, ring = rng.pick((1.0, 2.0, 3.0, 3.5, 7.0, 14.0)), rng.uniform(0.4, 2.5), rng.uniform(0.25, 1.2)

    def play(hz: float, n: int, velocity: float) -> Array:
        t = np.arange(n) * (2.0 * np.pi * hz / SAMPLE_RATE)
        index = depth * velocity * min(1.0, 700.0 / (hz * ratio)) * (0.15 + decay(n, 0.4 * ring))
        tone: Array = np.sin(t + index * np.sin(ratio * t))
        return tone * decay(n, ring) * fade(n, 0.002, 0.03) * 0.5 * velocity

    return play


def _string(rng: Rng) -> Callable[[float, int, float], Array]:
    bright, ring = rng.uniform(0.2, 1.0), rng.uniform(1.0, 4.5)

    def play(hz: float, n: int, velocity: float) -> Array:
        return pluck(rng, hz, n, bright * velocity, ring) * fade(n, 0.001, 0.03) * velocity

    return play


def _pad(rng: Rng) -> Callable[[float, int, float], Array]:
    """Two detuned saws behind a slow low-pass; with a short attack a synthesiser's brass or lead."""
    attack, top, detune = rng.pick((0.02, 0.15, 0.5)), rng.uniform(700, 4000), rng.uniform(0.001, 0.006)
    k = np.arange(1, 25)

    def play(hz: float, n: int, velocity: float) -> Array:
        frames = n // HOP + 1
        t = np.arange(frames + 1) * HOP / SAMPLE_RATE
        cut = top * (0.5 + 0.5 * np.clip(t / (2 * attack + 0.1), 0, 1)) * velocity
        levels = 0.25 / k / (1.0 + (hz * k / cut[:, None]) ** 3)
        out = sum((harmonics(np.full(frames + 1, hz * (1.0 + d)), levels) for d in (-detune, detune)), np.zeros(frames * HOP))
        return out[:n] * fade(n, min(attack, 0.4 * n / SAMPLE_RATE), 0.08) * velocity

    return play


def _chord_part(rng: Rng, score: Score, n: int, level: float) -> Array:
    """Chords: held by a pad, struck by the piano, strummed on strings, or broken into an arpeggio."""
    kind = rng.pick(("pad", "pad", "piano", "strum", "strum", "arpeggio", "arpeggio"))
    play = {"pad": _pad, "piano": _electric_piano, "strum": _string, "arpeggio": rng.pick((_string, _electric_piano))}[kind](rng)
    low = int(rng.uniform(50, 62))
    rhythm = rng.pick(((0,), (0, 8), (0, 6, 12), (0, 4, 8, 12), (2, 6, 10, 14), (0, 3, 6, 10, 12)))
    order = rng.pick(((0, 1, 2, 1), (0, 1, 2, 3), (2, 1, 0, 1), (0, 2, 1, 3)))
    every = rng.pick((1, 2, 2))
    out = np.zeros((2, n))
    places = [rng.uniform(-0.6, 0.6) for _ in range(4)]
    for bar in range(score.bars):
        voices = _voicing(score.chords[bar], low)
        start = bar * score.bar
        if kind == "arpeggio":
            voices = [*voices, voices[0] + 12]
            for i in range(16 // every):
                v = order[i % 4] % len(voices)
                m = samples(score.step * every * 2.2)
                add(out, pan(play(pitch_to_hz(voices[v]), m, rng.uniform(0.6, 1.0)), places[v]), samples(start + i * every * score.step))
            continue
        hits = (0,) if kind == "pad" else rhythm
        for i, at in enumerate(hits):
            until = hits[i + 1] if i + 1 < len(hits) else 16
            m = samples((until - at) * score.step * 0.98)
            for v, pitch in enumerate(voices):
                late = 0.012 * v if kind == "strum" else 0.0
                add(out, pan(play(pitch_to_hz(pitch), m, rng.uniform(0.7, 1.0)), places[v]), samples(start + at * score.step + late))
    return out * level


def _riff_part(rng: Rng, score: Score, n: int, rests: list[bool]) -> Array:
    """An instrumental melody in the bars where `rests` is true."""
    play = rng.pick((_string, _electric_piano, _pad))(rng)
    place, low = rng.uniform(-0.4, 0.4), int(rng.uniform(62, 72))
    inside = [p for p in range(low, low + 17) if p % 12 in score.scale]
    rhythm = rng.pick(((0, 4, 6, 8, 12), (0, 3, 6, 8, 11, 14), (0, 2, 4, 8, 10, 12), (0, 6, 8, 14), (4, 6, 8, 10, 12, 14)))
    shape = [int(rng.uniform(0, len(inside))) for _ in rhythm]
    out = np.zeros((2, n))
    for bar in range(score.bars):
        if not rests[bar]:
            continue
        for i, at in enumerate(rhythm):
            until = rhythm[i + 1] if i + 1 < len(rhythm) else 16
            pitch = inside[min(max(shape[i] + rng.pick((-1, 0, 0, 0, 1)), 0), len(inside) - 1)]
            m = samples((until - at) * score.step * 1.1)
            add(out, pan(play(pitch_to_hz(pitch), m, rng.uniform(0.75, 1.0)), place), samples(bar * score.bar + at * score.step))
    return out


def _other(rng: Rng, score: Score, n: int, sung: list[bool]) -> Array:
    """Chord players and the riff between the sung phrases, with their reverb, delay and chorus."""
    parts = [_loudness(_chord_part(rng, score, n, 1.0)) for _ in range(rng.pick((1, 2, 2)))]
    if rng.chance(0.75):
        riff = _riff_part(rng, score, n, [not s for s in sung] if rng.chance(0.7) else [True] * score.bars)
        if rng.chance(0.4):
            riff = riff + echo(riff.sum(axis=0), score.beat * 0.75, 0.35)
        parts.append(0.8 * _loudness(riff))
    out = sum((part * rng.uniform(0.5, 1.0) for part in parts), np.zeros((2, n)))
    if rng.chance(0.4):  # tremolo from side to side
        sway = rng.uniform(0.1, 0.35) * np.sin(np.arange(n) * (2 * np.pi * rng.uniform(0.8, 5.0) / SAMPLE_RATE))
        out = out * np.stack([1.0 + sway, 1.0 - sway])
    out = spectral(out, band(rng.uniform(60, 180), rng.uniform(7000, 16000), 1))
    wet = convolve(out.sum(axis=0), room(rng, rng.uniform(0.8, 2.6), 0.015, rng.uniform(3000, 7000)))
    return compress(out + rng.uniform(0.05, 0.3) * wet, 2.0, 2.0)


def _loudness(x: Array) -> Array:
    """Scale to an RMS of 0.1, measured where it plays."""
    power = (x**2).mean(axis=0)[: x.shape[1] // HOP * HOP].reshape(-1, HOP).mean(axis=1)
    active = power[power > 1e-3 * (power.max() + 1e-12)]
    return x * (0.1 / np.sqrt(active.mean() + 1e-12)) if len(active) and power.max() > 0 else x


def make_song(seed: int, seconds: float = DEMO_SECONDS) -> dict[str, npt.NDArray[np.float32]]:
    """Compose, play and mix one song.

    Args:
        seed: any integer from 0; the same seed and length give the same song, bit for bit.
        seconds: its length; the music runs through to the end and fades out within the last 50 ms.

    Returns:
        The stems by name (`STEMS`), each float32 (2, samples) at 44.1 kHz within ±1, on the grid of 16-bit audio. Their sum is the
        mixture, exactly, and stays within ±1.
    """
    length = samples(seconds)
    n = -(-length // HOP) * HOP
    rng = Rng(seed, 0)
    score = Score(rng, seconds)

    kit = Kit(Rng(seed, 1))
    drums = np.zeros((2, n))
    silent_bar = int(rng.uniform(0, score.bars)) if rng.chance(0.25) else -1
    for bar in range(score.bars):
        start = samples(bar * score.bar)
        last = (bar + 1) % score.section == 0
        if bar % score.section == 0 and (bar > 0 or rng.chance(0.5)):
            kit.hit(drums, "crash", start, True)
        kit.bar(drums, start, score.step * SAMPLE_RATE, score.chorus[bar], last and rng.chance(0.8), beats=bar != silent_bar)

    voice = Rng(seed, 4)
    singer = Singer(voice)
    notes: list[Note] = []
    sung = [False] * score.bars
    begin = rng.pick((0, 0, 1, 2)) if score.bars > 6 else 0
    for bar in range(begin, score.bars, 2):
        last = bar + 2 >= score.bars
        if voice.chance(0.85) or (last and not notes):
            bars = min(2, score.bars - bar)
            chords = score.chords[bar : bar + bars]
            notes += melody(voice, singer, score.scale, chords, bar * score.bar, score.beat, bars)
            sung[bar : bar + bars] = [True] * bars
    chorus_bars = [bar for bar in range(score.bars) if score.chorus[bar]] or [0]
    chorus = (chorus_bars[0] * score.bar, (chorus_bars[0] + score.section) * score.bar)

    players = {
        "drums": kit.bus(drums),
        "bass": _bass(Rng(seed, 2), score, n),
        "other": _other(Rng(seed, 3), score, n, sung),
        "vocals": singer.sing(notes, n, score.beat, chorus),
    }
    gains = {"drums": rng.uniform(-2, 2), "bass": rng.uniform(-3, 1), "other": rng.uniform(-3, 1), "vocals": rng.uniform(-1, 3)}
    stems = {stem: _loudness(players[stem]) * 10.0 ** (gains[stem] / 20.0) for stem in STEMS}
    return _master(stems, length, rng.uniform(0.75, 0.95))


def _master(stems: dict[str, Array], length: int, peak: float) -> dict[str, npt.NDArray[np.float32]]:
    """A limiter whose gain follows the mixture and is applied to every stem alike; fade; round to the 16-bit grid."""
    mix = sum(stems.values(), np.zeros_like(stems["drums"]))
    level = np.abs(mix).max(axis=0).reshape(-1, HOP).max(axis=1)
    ceiling = 0.7 * level.max()
    wanted = np.minimum(1.0, ceiling / np.maximum(level, 1e-9))
    width = 9  # frames: the gain falls before a peak, 26 ms of look-ahead
    lowest = np.lib.stride_tricks.sliding_window_view(np.pad(wanted, width, mode="edge"), 2 * width + 1).min(axis=1)
    window = np.hanning(width + 2)[1:-1]
    smooth = np.convolve(np.pad(lowest, width // 2, mode="edge"), window / window.sum(), mode="valid")
    gain = upsample(np.append(smooth, smooth[-1])) * (peak / ceiling)
    gain[:length] *= np.minimum(1.0, (length - np.arange(length)) / samples(0.05))
    # Adding zero turns -0.0, whose sign is a matter of last digits, into 0.0.
    return {stem: (np.rint((x * gain)[:, :length] * 32768.0) / 32768.0 + 0.0).astype(np.float32) for stem, x in stems.items()}


def mixture(stems: dict[str, npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    """The sum of the stems, exact in float32 since all lie on the 16-bit grid."""
    total: npt.NDArray[np.float32] = np.sum([stems[stem] for stem in STEMS], axis=0, dtype=np.float32)
    return total


def main() -> None:
    import soundfile

    mix = mixture(make_song(DEMO_SEED, DEMO_SECONDS))
    soundfile.write(DEMO_FILE, (mix.T * 32768.0).astype(np.int16), SAMPLE_RATE, subtype="PCM_16", format="FLAC")


if __name__ == "__main__":
    main()
