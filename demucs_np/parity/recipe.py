"""Weights and music that any machine draws again from a seed, bit for bit, with NumPy alone.

Every number comes from the raw 64-bit words of the Philox counter generator, whose stream NumPy promises never to change
(it makes no such promise for `Generator.normal` and its like). Weights need only a multiplication and an addition after
that, so they are the same bits on every platform; the mix is rounded to the 16-bit grid, which hides the last digit of
the platform's sine.

A tensor depends on (seed, name, shape) alone: never on its place among the others.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, ...]
BLOCK = 1 << 20  # words drawn at a time: the float64 intermediates of a large tensor stay small


def stream(*key: object) -> np.random.Philox:
    """The generator that belongs to a key, independent of all others: its 128 bits are a SHA-256 of the key's text."""
    digest = hashlib.sha256("\0".join(map(str, key)).encode()).digest()
    return np.random.Philox(key=int.from_bytes(digest[:16], "little"))


def uniform(bits: np.random.Philox, low: float, high: float, size: int) -> NDArray[np.float64]:
    """`size` draws, uniform in [low, high): the upper 53 bits of each raw word, scaled."""
    words = bits.random_raw(size)
    return np.asarray(low + (high - low) * ((words >> np.uint64(11)) * 2.0**-53), np.float64)


def weight_range(name: str, shape: Shape) -> tuple[float, float]:
    """The interval a parameter is drawn from, by its upstream name and shape.

    Chosen so that nothing hides: norm weights lie around 1, LayerScales between 0.2 and 0.6 (their initial 1e-3 or 1e-4 would
    silence whole branches), no bias or embedding is zero. Matrices have a standard deviation of `gain / sqrt(fan_in)`, where the
    gain of 1.3 makes up for some of what GELU and GLU take: with more (1.7 would keep the size of activations in a network
    without norms) each gate amplifies rounding errors and the measurement with them. In attention and recurrent parts it is 1,
    or softmax and the gates would saturate.
    """
    if name.endswith(".scale"):  # LayerScale of DConv (`...6.scale`) and of the transformer (`gamma_1.scale`)
        return 0.2, 0.6
    if name.endswith("embedding.weight"):
        return -0.3, 0.3
    if name.endswith("query_decay.bias"):  # LocalState: a sigmoid of this sets how local attention is, initially of -2
        return -3.0, -1.0
    if len(shape) == 1:
        return (0.7, 1.3) if name.endswith("weight") else (-0.2, 0.2)
    fan_in = math.prod(shape[1:])
    gain = 1.0 if any(part in name for part in ("attn.", "lstm.", "query", "key.")) else 1.3
    bound = gain * math.sqrt(3 / fan_in)
    return -bound, bound


def draw_tensor(seed: int, name: str, shape: Shape) -> NDArray[np.float32]:
    """One parameter, float32: uniform over `weight_range`, its stream keyed by seed and name."""
    low, high = weight_range(name, shape)
    out = np.empty(math.prod(shape), np.float32)
    bits = stream("weights", seed, name)
    for start in range(0, out.size, BLOCK):
        part = out[start : start + BLOCK]
        part[:] = uniform(bits, low, high, part.size)
    return out.reshape(shape)


def draw_tensors(seed: int, shapes: Mapping[str, Shape]) -> dict[str, NDArray[np.float32]]:
    """All parameters of a model, in the order of `shapes`."""
    return {name: draw_tensor(seed, name, tuple(shape)) for name, shape in shapes.items()}


def draw_mix(seed: int, channels: int, length: int, samplerate: int = 44100) -> NDArray[np.float32]:
    """A mix with the traits of music, float32 (channels, length) on the 16-bit grid: notes, drum hits, a quiet noise floor.

    Notes are decaying harmonic tones placed differently in each channel; hits are decaying noise. Its spectrum falls like
    music's, silence and attacks both occur, and no channel equals another.
    """
    bits = stream("mix", seed)
    duration = length / samplerate
    time = np.arange(length) / samplerate  # [samples] seconds
    mix = 0.002 * uniform(bits, -1, 1, channels * length).reshape(channels, length)
    for _ in range(4 + math.ceil(4 * duration)):
        onset, pitch, decay, first = _each(uniform(bits, 0, 1, 4))
        pans = uniform(bits, 0.1, 1, channels)
        start = int(onset * 0.9 * length)
        t = time[: length - start]
        envelope = np.exp(-t * (2 + 10 * decay)) * -np.expm1(-t * 400)
        frequency = 55 * 2 ** (5 * pitch)  # five octaves
        partials = range(1, 1 + min(8, int(0.45 * samplerate / frequency)))
        note = sum(np.sin(2 * np.pi * (k * frequency * t + first * k)) / k**1.5 for k in partials)
        mix[:, start:] += 0.25 * pans[:, None] * (envelope * note)
    for _ in range(2 + math.ceil(3 * duration)):
        onset, decay = _each(uniform(bits, 0, 1, 2))
        pans = uniform(bits, 0.1, 1, channels)
        start = int(onset * length)
        hit = uniform(bits, -1, 1, length - start) * np.exp(-time[: length - start] * (20 + 60 * decay))
        mix[:, start:] += 0.3 * pans[:, None] * hit
    rounded: NDArray[np.float32] = (np.round(np.clip(mix, -1, 1) * 32767) / 32768).astype(np.float32)
    return rounded


def _each(values: NDArray[np.float64]) -> Iterator[float]:
    return (float(value) for value in values)


def tensors_digest(tensors: Mapping[str, NDArray]) -> str:
    """SHA-256 that identifies a model's weights: names, shapes and float32 values, whatever file or precision held them."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = np.ascontiguousarray(tensors[name], "<f4")
        digest.update(f"{name}{tensor.shape}".encode())
        digest.update(tensor.data)
    return digest.hexdigest()
