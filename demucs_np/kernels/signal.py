"""What is done to samples around the network: padding, transposition, copies, and the look for numbers that are none."""

from __future__ import annotations

import numpy as np

from ._jit import kernel, numbers, view
from .tiles import pool

PART = 2**16  # numbers of a tile


def pad(x: np.ndarray, left: int, right: int, out: np.ndarray, *, reflect: bool = False) -> None:
    """out[C, left + n + right] = x[C, n] between zeros or, with `reflect`, its mirror images.

    Where x is too short to be reflected, zeros are appended first, and reflected too. Upstream: `demucs.hdemucs.pad1d`.
    """
    channels, n = x.shape
    ahead, whole = (left, left + n + right) if not reflect else (0, n)  # x lies `ahead` of the beginning of what is reflected
    if reflect and n <= max(left, right):
        extra = max(left, right) - n + 1
        ahead, whole = extra - min(right, extra), n + extra
    first = left - ahead if reflect else 0  # of the mirrored samples, in `out`
    parts = -(-out.shape[1] // PART)
    geometry = np.array([n, ahead, whole, first, out.shape[1], parts])
    pool().run(_pad_tiles, channels * parts, 0, x.reshape(-1), out.reshape(-1), geometry)


@kernel
def _pad_tiles(tile0, tile1, scratch, x, out, geometry):
    n, ahead, whole, first, length, parts = numbers(geometry, 6)
    for tile in range(tile0, tile1):
        channel, part = tile // parts, tile % parts
        source, target = view(x, channel * n, n), view(out, channel * length, length)
        for i in range(part * PART, min(length, (part + 1) * PART)):
            at = abs(i - first)
            at = (at if at < whole else 2 * (whole - 1) - at) - ahead
            target[i] = source[at] if 0 <= at < n else np.float32(0)


def transpose(x: np.ndarray, out: np.ndarray) -> None:
    """out[n, C] = x[C, n]."""
    channels, n = x.shape
    rows = max(1, PART // channels)
    pool().run(_transpose_tiles, -(-n // rows), 0, x.reshape(-1), out.reshape(-1), np.array([channels, n, rows]))


@kernel
def _transpose_tiles(tile0, tile1, scratch, x, out, geometry):
    channels, n, rows = numbers(geometry, 3)
    for i in range(tile0 * rows, min(n, tile1 * rows)):
        for channel in range(channels):
            out[i * channels + channel] = x[channel * n + i]


def copy(x: np.ndarray, out: np.ndarray) -> None:
    """out = x."""
    pool().run(_copy_tiles, -(-x.size // PART), 0, x.reshape(-1), out.reshape(-1))


@kernel
def _copy_tiles(tile0, tile1, scratch, x, out):
    first, last = tile0 * PART, min(x.size, tile1 * PART)
    source, target = view(x, first, last - first), view(out, first, last - first)
    for i in range(source.size):
        target[i] = source[i]


def parts_of(size: int) -> int:
    """Parts that `finite` looks at one by one."""
    return -(-size // PART)


def finite(x: np.ndarray, out: np.ndarray) -> None:
    """out[parts_of(x.size)] = 1 for each part of x whose numbers are all finite, else 0."""
    pool().run(_finite_tiles, out.size, 0, x.reshape(-1), out)


@kernel
def _finite_tiles(tile0, tile1, scratch, x, out):
    for tile in range(tile0, tile1):
        part = view(x, tile * PART, min(PART, x.size - tile * PART))
        total = np.float32(0)
        for i in range(part.size):
            total += part[i] * np.float32(0)  # NaN for what is not finite
        out[tile] = np.float32(1) if total == 0 else np.float32(0)
