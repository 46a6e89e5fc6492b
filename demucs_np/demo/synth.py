"""Building blocks of the demo song's synthesiser: oscillators, strings, filters, reverb, compression.

Everything is float64 at 44.1 kHz. Slow quantities (pitch, loudness, brightness) are control signals: one value every `HOP` samples,
`frames + 1` values for `frames * HOP` samples, read by straight lines between them. Random numbers are uniform draws of PCG64 only,
the one stream that NumPy keeps stable from version to version.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

SAMPLE_RATE = 44100
HOP = 128  # samples per control value, 2.9 ms

Array = npt.NDArray[np.float64]
T = TypeVar("T")

_RAMP = np.arange(HOP) / HOP
_CHUNK = 64  # frames that `harmonics` works on at once: 64 KB per array, so that they stay in cache


class Rng:
    """Uniform random draws from a key of integers; equal keys give equal streams."""

    def __init__(self, *key: int) -> None:
        self._generator = np.random.Generator(np.random.PCG64(key))

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        return low + (high - low) * float(self._generator.random())

    def chance(self, probability: float) -> bool:
        return float(self._generator.random()) < probability

    def pick(self, items: Sequence[T]) -> T:
        return items[int(self._generator.random() * len(items))]

    def noise(self, *shape: int) -> Array:
        """White noise, uniform in [-1, 1)."""
        return 2.0 * self._generator.random(shape) - 1.0


def samples(seconds: float) -> int:
    return int(seconds * SAMPLE_RATE)


def pitch_to_hz(pitch: float) -> float:
    """MIDI pitch number (69 is 440 Hz) to frequency."""
    return float(440.0 * 2.0 ** ((pitch - 69.0) / 12.0))


def upsample(control: Array) -> Array:
    """(frames + 1) control values -> (frames * HOP) samples, linear in between."""
    out: Array = (control[:-1, None] + np.diff(control)[:, None] * _RAMP).reshape(-1)
    return out


def decay(n: int, seconds: float) -> Array:
    """exp(-t / seconds) for `n` samples."""
    out: Array = np.exp(np.arange(n) * (-1.0 / (seconds * SAMPLE_RATE)))
    return out


def fade(n: int, attack: float, release: float) -> Array:
    """An envelope that rises and falls linearly, 1 in between; attack and release in seconds."""
    t = np.arange(n)
    return np.minimum(1.0, np.minimum((t + 1) / max(1, samples(attack)), (n - t) / max(1, samples(release))))


def harmonics(hz: Array, amplitudes: Array) -> Array:
    """Sum of sines at the multiples of a moving fundamental.

    `hz` (frames + 1), `amplitudes` (frames + 1, K) -> (frames * HOP). Harmonics above 18 kHz are left out. The sines of the multiples
    follow from two by sin(k p) = 2 cos(p) sin((k-1) p) - sin((k-2) p).
    """
    phase = np.cumsum(upsample(hz)) * (2.0 * np.pi / SAMPLE_RATE)
    amplitudes = amplitudes * (hz[:, None] * np.arange(1, amplitudes.shape[1] + 1) < 18000.0)
    frames = len(hz) - 1
    out = np.zeros((frames, HOP))
    for start in range(0, frames, _CHUNK):
        stop = min(start + _CHUNK, frames)
        level = amplitudes[start : stop + 1]
        count = int(np.max(np.nonzero(level.max(axis=0))[0], initial=-1)) + 1
        if count == 0:
            continue
        slope = np.diff(level, axis=0)
        p = phase[start * HOP : stop * HOP].reshape(stop - start, HOP)
        sine, double_cosine = np.sin(p), 2.0 * np.cos(p)
        before = np.zeros_like(sine)
        block = out[start:stop]
        for k in range(count):
            block += (level[:-1, k, None] + slope[:, k, None] * _RAMP) * sine
            sine, before = double_cosine * sine - before, sine
    return out.reshape(-1)


def pluck(rng: Rng, hz: float, n: int, brightness: float, seconds: float) -> Array:
    """A plucked string (Karplus and Strong 1983): a loop of one period that averages neighbours.

    The loop starts from a string pulled aside at one point plus `brightness` (0..1) times noise and falls by 60 dB in `seconds`.
    It runs a whole number of samples and is then read at the speed that gives the exact pitch.
    """
    period = max(2, round(SAMPLE_RATE / hz - 0.5))
    speed = hz * (period + 0.5) / SAMPLE_RATE
    gain = 10.0 ** (-3.0 / (seconds * hz))
    rounds = int(n * speed) // period + 3
    string = np.zeros((rounds, period))
    at, x = rng.uniform(0.08, 0.3), (np.arange(period) + 0.5) / period
    burst = rng.noise(period)
    for _ in range(2):
        burst = 0.5 * (burst + np.roll(burst, 1))
    shape = brightness * burst + np.minimum(x / at, (1.0 - x) / (1.0 - at))
    string[0] = shape - shape.mean()
    previous_last = 0.0
    for i in range(1, rounds):
        above = string[i - 1]
        string[i, 0] = 0.5 * gain * (above[0] + previous_last)
        string[i, 1:] = 0.5 * gain * (above[1:] + above[:-1])
        previous_last = float(above[-1])
    flat = string.reshape(-1)
    position = np.arange(n) * speed
    index = position.astype(np.int64)
    part = position - index
    out: Array = flat[index] * (1.0 - part) + flat[index + 1] * part
    out *= 0.7 / (np.abs(out).max() + 1e-9)
    return out


def spectral(x: Array, gain: Callable[[Array], Array]) -> Array:
    """Filter with zero phase: multiply the spectrum of `x` (..., n) by `gain(hz)`."""
    n = x.shape[-1]
    size = 1 << (n + 1024).bit_length()
    hz = np.fft.rfftfreq(size, 1.0 / SAMPLE_RATE).astype(np.float64)
    return np.fft.irfft(np.fft.rfft(x, size) * gain(hz), size)[..., :n]


def band(low: float, high: float, order: int = 2) -> Callable[[Array], Array]:
    """The gain of a band-pass from `low` to `high` Hz, for `spectral`; low = 0 or high = inf leaves that side open."""

    def gain(hz: Array) -> Array:
        g = np.ones_like(hz)
        if low > 0:
            r = (hz / low) ** (2 * order)
            g = g * np.sqrt(r / (1.0 + r))
        if high < np.inf:
            g = g / np.sqrt(1.0 + (hz / high) ** (2 * order))
        return g

    return gain


def room(rng: Rng, seconds: float, predelay: float, damping: float) -> Array:
    """A stereo impulse response (2, n): noise that decays by 60 dB in `seconds`, the highs faster with `damping` in Hz; unit energy."""
    n = samples(seconds)
    tail = rng.noise(2, n)
    dark = spectral(tail, band(180.0, damping, 1))
    mix = decay(n, seconds / 20.0)
    ir = (tail * mix * 0.3 + dark * (1.0 - mix)) * decay(n, seconds / 6.9)
    ir /= np.sqrt((ir**2).sum(axis=1, keepdims=True))
    return np.concatenate([np.zeros((2, samples(predelay))), ir], axis=1)


def convolve(x: Array, ir: Array) -> Array:
    """(n) with (2, m) -> the first n samples (2, n), by FFT in blocks."""
    n, m = len(x), ir.shape[1]
    size = 1 << (2 * m).bit_length()
    block = size - m
    count = -(-n // block)
    padded = np.zeros(count * block)
    padded[:n] = x
    spectra = np.fft.rfft(padded.reshape(count, block), size)
    response = np.fft.rfft(ir, size)
    out = np.zeros((2, count * block + m))
    for channel in range(2):
        pieces = np.fft.irfft(spectra * response[channel], size)
        for i in range(count):
            out[channel, i * block : i * block + size] += pieces[i]
    return out[:, :n]


def echo(x: Array, seconds: float, feedback: float) -> Array:
    """A ping-pong delay: (n) -> (2, n), repeats alternating left and right."""
    out = np.zeros((2, len(x)))
    gain, delay = feedback, samples(seconds)
    for i in range(1, 5):
        if i * delay >= len(x):
            break
        out[i % 2, i * delay :] += gain * x[: len(x) - i * delay]
        gain *= feedback
    return out


def compress(x: Array, threshold: float, ratio: float, attack: float = 0.005, release: float = 0.12) -> Array:
    """Reduce what exceeds `threshold` dB over the loudness of the whole by `ratio`, the same in both channels; (2, n), n % HOP == 0."""
    power = (x**2).mean(axis=0).reshape(-1, HOP).mean(axis=1)
    active = power[power > 1e-9]
    if not len(active):
        return x
    over = 10.0 * np.log10(np.maximum(power, 1e-12) / active.mean()) - threshold
    wanted = (np.maximum(over, 0.0) * (1.0 - 1.0 / ratio)).tolist()
    a, r = (float(1.0 - np.exp(-HOP / (SAMPLE_RATE * s))) for s in (attack, release))
    level, reduction = 0.0, [0.0]
    for w in wanted:
        level += (a if w > level else r) * (w - level)
        reduction.append(level)
    return x * upsample(10.0 ** (-np.array(reduction) / 20.0))


def pan(x: Array, position: float) -> Array:
    """(n) -> (2, n) at constant power; -1 is left, 1 is right."""
    angle = (position + 1.0) * np.pi / 4.0
    return np.stack([x * np.cos(angle), x * np.sin(angle)])


def add(out: Array, x: Array, start: int) -> None:
    """Mix `x` (..., m) into `out` (..., n) from sample `start`; what lies outside is dropped."""
    if start < 0:
        x, start = x[..., -start:], 0
    m = min(x.shape[-1], out.shape[-1] - start)
    if m > 0:
        out[..., start : start + m] += x[..., :m]
