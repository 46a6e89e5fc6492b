"""The singer of the demo song: a formant synthesiser.

The glottal source is a row of harmonics with a falling spectrum; a cascade of five resonances (the vocal tract) sets their levels, moving
from vowel to vowel. Consonants and breaths are shaped noise. Vibrato sets in late in a note, and the pitch slides between notes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from demucs_np.demo.synth import (
    HOP,
    SAMPLE_RATE,
    Array,
    Rng,
    add,
    band,
    compress,
    convolve,
    echo,
    fade,
    harmonics,
    pan,
    room,
    samples,
    spectral,
)

# Centre frequencies in Hz of the first three formants, for a long (male) vocal tract; Peterson and Barney 1952, rounded.
VOWELS = {
    "a": (730.0, 1090.0, 2440.0),
    "e": (530.0, 1840.0, 2480.0),
    "i": (280.0, 2250.0, 2900.0),
    "o": (500.0, 900.0, 2400.0),
    "u": (320.0, 870.0, 2240.0),
    "@": (500.0, 1350.0, 2450.0),
    "m": (250.0, 1050.0, 2200.0),
}
BANDWIDTHS = (80.0, 95.0, 130.0, 180.0, 250.0)
# Band in Hz, level and length in seconds of the noise of each consonant.
CONSONANTS = {
    "s": (4800.0, 11000.0, 0.22, 0.10),
    "sh": (2200.0, 7000.0, 0.22, 0.10),
    "f": (1500.0, 9000.0, 0.08, 0.08),
    "h": (700.0, 4500.0, 0.09, 0.08),
    "t": (3000.0, 9000.0, 0.30, 0.025),
    "k": (1500.0, 4500.0, 0.30, 0.03),
    "p": (400.0, 3000.0, 0.25, 0.02),
}
FRAME = HOP / SAMPLE_RATE  # seconds per control value
HARMONICS = 60


@dataclass(frozen=True)
class Note:
    """One sung syllable; times in seconds, pitch as MIDI number."""

    start: float
    length: float
    pitch: float
    first: bool  # of its phrase: a breath comes before


class Singer:
    """A voice: the size of its vocal tract, its vibrato, its breathiness, its place in the mix."""

    def __init__(self, rng: Rng) -> None:
        self.rng = rng
        self.high = rng.chance(0.5)
        self.tract = rng.uniform(1.1, 1.22) if self.high else rng.uniform(0.93, 1.05)
        self.tilt = rng.uniform(0.9, 1.4)  # spectral fall of the source, 6 dB per octave each 1
        self.vibrato = (rng.uniform(4.8, 6.4), rng.uniform(0.12, 0.5))  # Hz, semitones
        self.breath = rng.uniform(0.004, 0.02)
        self.doubled = rng.chance(0.35)
        self.reverb = (rng.uniform(0.8, 2.2), rng.uniform(0.08, 0.3))
        self.echo = rng.pick((0.0, 0.0, rng.uniform(0.1, 0.28)))

    def range(self) -> tuple[int, int]:
        """Lowest and highest comfortable MIDI pitch."""
        return (57, 76) if self.high else (48, 67)

    def _levels(self, hz: Array, formants: Array) -> Array:
        """Level of each harmonic, (frames, HARMONICS), for a fundamental (frames) and formants (frames, 5)."""
        f = hz[:, None] * np.arange(1, HARMONICS + 1)
        levels = np.arange(1, HARMONICS + 1) ** -self.tilt * (1.0 + (f / 1500.0) ** 2) ** 0.75  # what the vocal tract's higher poles add
        for i, width in enumerate(BANDWIDTHS):
            centre = formants[:, i, None]
            levels *= centre**2 / np.sqrt((centre**2 - f**2) ** 2 + (width * 1.3 * f) ** 2)
        return levels

    def take(self, notes: list[Note], n: int, detune: float = 0.0) -> Array:
        """Sing `notes` once: (n), n a multiple of HOP. `detune` in semitones moves the whole take."""
        rng, frames = self.rng, n // HOP
        time = np.arange(frames + 1) * FRAME
        pitch = np.full(frames + 1, notes[0].pitch if notes else 60.0)
        loud, vibrato = np.zeros(frames + 1), np.zeros(frames + 1)
        formants = np.tile(np.array([500.0, 1350.0, 2450.0, 3400.0, 4300.0]), (frames + 1, 1))
        out = np.zeros(n)
        for note in notes:
            a, b = int(note.start / FRAME), min(int((note.start + note.length) / FRAME), frames)
            if b - a < 8:
                continue
            consonant = rng.pick((*CONSONANTS, "", "", "m", "m"))
            lead = 0.0
            if consonant in CONSONANTS:
                low, high, level, lead = CONSONANTS[consonant]
                m = samples(lead * rng.uniform(0.8, 1.3))
                hiss = spectral(rng.noise(m) * fade(m, 0.3 * lead, 0.4 * lead), band(low * self.tract, high, 3))
                add(out, hiss * level * rng.uniform(0.5, 1.1), samples(note.start))
            if note.first and rng.chance(0.8):
                m = samples(rng.uniform(0.2, 0.4))
                air = spectral(rng.noise(m) * fade(m, 0.12, 0.06), band(900 * self.tract, 5500, 2))
                add(out, air * rng.uniform(0.03, 0.09), samples(note.start) - m - samples(0.03))
            age = time[a:b] - time[a]
            left = time[b] - time[a:b]
            pitch[a:] = note.pitch
            vibrato[a:b] = np.clip((age - 0.18) / 0.3, 0.0, 1.0)
            onset = lead * 0.8
            swell = rng.uniform(0.7, 1.0) * (0.85 + 0.15 * np.clip(age / 0.25, 0, 1))
            loud[a:b] = np.clip((age - onset) / 0.03, 0, 1) * np.clip(left / 0.05, 0, 1) * swell
            begin, end = np.array(VOWELS[rng.pick("aeiou@")]), np.array(VOWELS[rng.pick("aeiou@")])
            if note.length < 0.5:
                end = begin
            move = np.clip((age - 0.5 * note.length) / 0.12, 0, 1)[:, None]
            target = begin * (1 - move) + end * move
            if consonant == "m":
                close = np.clip(1.0 - (age - 0.05) / 0.04, 0, 1)[:, None]
                target = target * (1 - close) + np.array(VOWELS["m"]) * close
                loud[a:b] *= 1.0 - 0.55 * close[:, 0]
            formants[a:b, :3] = target
        smooth = np.hanning(23)  # 67 ms: the pitch slides, the mouth moves
        smooth /= smooth.sum()
        pitch = np.convolve(np.pad(pitch, 11, mode="edge"), smooth, mode="valid")
        for i in range(3):
            formants[:, i] = np.convolve(np.pad(formants[:, i], 7, mode="edge"), np.full(15, 1 / 15), mode="valid")
        rate, depth = self.vibrato
        wander = np.convolve(rng.noise(frames + 1), np.full(61, 1 / 61), mode="same") * 0.5
        pitch = pitch + detune + wander + depth * vibrato * np.sin(2 * np.pi * rate * time + rng.uniform(0, 6.28))
        hz = 440.0 * 2.0 ** ((pitch - 69.0) / 12.0)
        levels = self._levels(hz, formants * self.tract)
        voiced = levels * (loud * (1.0 + 0.1 * wander))[:, None]
        air = spectral(rng.noise(n), band(1500, 8000, 1)) * self.breath
        out += 0.22 * harmonics(hz, voiced) + air * np.repeat(loud[1:], HOP)
        return out

    def sing(self, notes: list[Note], n: int, beat: float, chorus: tuple[float, float]) -> Array:
        """Lead, doubles inside the `chorus` (start, end in seconds), delay and reverb: (2, n). `beat` is in seconds."""
        rng = self.rng
        lead = self.take(notes, n)
        out = pan(lead, rng.uniform(-0.08, 0.08))
        if self.doubled:
            inside = [note for note in notes if chorus[0] <= note.start < chorus[1]]
            for side in (-1.0, 1.0):
                out += pan(0.35 * self.take(inside, n, side * rng.uniform(0.04, 0.12)), side * rng.uniform(0.4, 0.8))
        out = compress(out, rng.uniform(-2, 3), rng.uniform(2.0, 4.0), 0.008, 0.15)
        send = out.sum(axis=0)
        seconds, level = self.reverb
        out = out + level * convolve(send, room(rng, seconds, rng.uniform(0.01, 0.04), rng.uniform(3500, 7000)))
        if self.echo:
            out = out + echo(spectral(send, band(300, 5000)), beat * rng.pick((0.5, 0.75, 1.0)), self.echo)
        return out


def melody(rng: Rng, singer: Singer, scale: list[int], chords: list[list[int]], start: float, beat: float, bars: int) -> list[Note]:
    """A line of phrases over `bars` bars of 4 beats from `start` seconds: steps in the scale, chord notes on strong
    beats, rests to breathe.

    `scale` is pitch classes, `chords` one list of pitch classes a bar.
    """
    low, high = singer.range()
    inside = [p for p in range(low, high + 1) if p % 12 in scale]
    at = rng.pick([i for i, p in enumerate(inside) if 0.3 < (p - low) / (high - low) < 0.7])
    notes: list[Note] = []
    rhythms = ((1, 1, 2), (2, 2), (1.5, 0.5, 2), (0.5, 0.5, 1, 2), (1, 0.5, 0.5, 1, 1), (3, 1), (0.5, 0.5, 0.5, 0.5, 2), (4,))
    motif = [rng.pick(rhythms), rng.pick(rhythms)]
    for bar in range(bars):
        rhythm = motif[bar % 2] if rng.chance(0.7) else rng.pick(rhythms)
        rest = 1.0 if bar % 2 == 1 else 0.0  # the last beat of every second bar
        position = rng.pick((0.0, 0.0, 0.5)) if bar % 2 == 0 else 0.0
        first = bar % 2 == 0
        for length in rhythm:
            if position >= 4.0 - rest - 0.25:
                break
            length = min(length, 4.0 - rest - position)
            at = min(max(at + rng.pick((-2, -1, -1, 0, 1, 1, 2)), 0), len(inside) - 1)
            if position % 2 == 0:
                at = min(range(len(inside)), key=lambda i: abs(i - at) + (0 if inside[i] % 12 in chords[bar % len(chords)] else 3))
            gap = rng.uniform(0.02, 0.06)
            notes.append(Note(start + (bar * 4 + position) * beat, length * beat - gap, inside[at], first))
            first = False
            position += length
    return notes
