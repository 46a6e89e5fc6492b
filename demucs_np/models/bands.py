"""Where the frequency bands of a split layer begin and end. Upstream: `demucs.hdemucs.MultiWrap`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Band(NamedTuple):
    """Rows start ... limit of an encoder layer's input: padded by `pad` at the low end, they give `rows` rows."""

    start: int
    limit: int
    pad: int
    rows: int


def encoder_bands(F: int, ratios: Sequence[float], kernel_size: int, stride: int) -> list[Band]:
    """Bands that meet at `ratios` of F rows, rounded to whole windows; each begins where the windows of the one before end."""
    bands, start, pad = [], 0, kernel_size // 4
    for ratio in (*ratios, 1):
        left, right, limit = pad if start == 0 else 0, pad if ratio == 1 else 0, F
        if ratio != 1:
            windows = round((round(F * ratio) - start + left - kernel_size) / stride + 1)
            limit = start + (windows - 1) * stride + kernel_size - left
        bands.append(Band(start, limit, left, (limit - start + left + right - kernel_size) // stride + 1))
        start = limit - kernel_size + stride
    return bands


def decoder_bands(F: int, ratios: Sequence[float]) -> list[tuple[int, int]]:
    """First row of each band of a decoder layer's input, and the row after its last."""
    limits = [*(round(F * ratio) for ratio in ratios), F]
    return list(zip([0, *limits[:-1]], limits, strict=True))
