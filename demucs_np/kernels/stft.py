"""Short-time Fourier transform and its inverse, on an FFT of our own that carries several transforms side by side in vector lanes.

Source: Stockham's self-sorting FFT, radix 2, as in Van Loan 1992, "Computational Frameworks for the FFT", section 1.7.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from .._jit import exact, kernel, view
from .reference import hann
from .tiles import pool

FRAMES = 8  # forward: frames of one channel side by side
HOPS = 29  # inverse: output hops of a tile; n_fft/hop - 1 more frames are computed again by its neighbour


@lru_cache(maxsize=8)
def twiddles(n: int) -> np.ndarray:
    """cos and sin of 2 pi k / n for k < n/2, float32 rounded from float64 -> [2, n/2]."""
    angle = 2 * np.pi * np.arange(n // 2) / n
    return np.stack([np.cos(angle), np.sin(angle)]).astype(np.float32)


def own_size(n: int) -> bool:
    """Whether our FFT takes this size; others go through numpy.fft."""
    return n >= 8 and n & (n - 1) == 0


@exact
def _fft(scratch, a, b, n, lanes, cosine, sine):  # type: ignore[no-untyped-def]
    """Complex FFT of `lanes` transforms of n points; real parts at scratch[a + i*lanes], imaginary parts n*lanes further.

    Works back and forth between the areas at a and b, each 2*n*lanes long; returns the one that holds the result.
    `cosine` and `sine` are those of 2n points (the real transform's): their even entries serve.
    """
    span, m = n // 2, 1
    imaginary = n * lanes
    while span >= 1:
        for j in range(span):
            c, s = cosine[2 * j * m], sine[2 * j * m]
            size = m * lanes
            low, high = a + j * size, a + (j + span) * size
            r0, i0 = view(scratch, low, size), view(scratch, low + imaginary, size)
            r1, i1 = view(scratch, high, size), view(scratch, high + imaginary, size)
            low = b + 2 * j * size
            high = low + size
            p0, q0 = view(scratch, low, size), view(scratch, low + imaginary, size)
            p1, q1 = view(scratch, high, size), view(scratch, high + imaginary, size)
            for i in range(size):
                dr, di = r0[i] - r1[i], i0[i] - i1[i]
                p0[i] = r0[i] + r1[i]
                q0[i] = i0[i] + i1[i]
                p1[i] = dr * c + di * s
                q1[i] = di * c - dr * s
        span //= 2
        m *= 2
        a, b = b, a
    return a


def stft(x: np.ndarray, n_fft: int, hop: int, frames: int, out: np.ndarray) -> None:
    """out[frames, n_fft/2, 2*channels] = real and imaginary parts of the windowed FFT of x[channels, samples] / sqrt(n_fft).

    Frame t begins at sample t*hop; the last bin is dropped. n_fft is a power of two (see `own_size`).
    """
    channels, samples = x.shape
    blocks = -(-frames // FRAMES)
    pool().run(
        _stft_tiles, channels * blocks, 2 * n_fft * FRAMES, x.reshape(-1), hann(n_fft), twiddles(n_fft), out.reshape(-1),
        np.array([channels, samples, n_fft, hop, frames]),
    )  # fmt: skip


@kernel
def _stft_tiles(tile0, tile1, scratch, x, window, twiddle, out, geometry):  # type: ignore[no-untyped-def]
    channels, samples, n_fft, hop, frames = geometry
    for tile in range(tile0, tile1):
        channel, first = tile % channels, tile // channels * FRAMES
        count = min(FRAMES, frames - first)
        n = n_fft // 2
        for f in range(FRAMES):
            start = channel * samples + (first + min(f, count - 1)) * hop
            frame = x[start : start + n_fft]
            for i in range(n):  # neighbouring samples as one complex number: a real transform of 2n is a complex one of n
                scratch[i * FRAMES + f] = frame[2 * i] * window[2 * i]
                scratch[(n + i) * FRAMES + f] = frame[2 * i + 1] * window[2 * i + 1]
        cosine, sine = twiddle[0], twiddle[1]
        at = _fft(scratch, 0, 2 * n * FRAMES, n, FRAMES, cosine, sine)
        half = np.float32(0.5 / np.sqrt(np.float64(n_fft)))
        for k in range(n):
            mirror = (n - k) % n
            c, s = cosine[k], sine[k]
            for f in range(count):
                ar, ai = scratch[at + k * FRAMES + f], scratch[at + (n + k) * FRAMES + f]
                br, bi = scratch[at + mirror * FRAMES + f], scratch[at + (n + mirror) * FRAMES + f]
                er, ei, dr, di = ar + br, ai - bi, ar - br, ai + bi  # spectrum of the even samples, and i times that of the odd ones
                target = ((first + f) * n + k) * 2 * channels + 2 * channel
                out[target] = (er + di * c - dr * s) * half
                out[target + 1] = (ei - dr * c - di * s) * half


def istft(
    z: np.ndarray,
    n_fft: int,
    hop: int,
    offset: int,
    envelope: np.ndarray,
    out: np.ndarray,
    *,
    scale: float = 1,
    shift: float = 0,
    time: np.ndarray | None = None,
    time_scale: float = 1,
    time_shift: float = 0,
) -> None:
    """out[signals, samples] = inverse STFT of z[frames, n_fft/2, 2*signals]*scale + shift, plus time*time_scale + time_shift.

    time: [samples, signals]. Frame t begins at sample t*hop + offset; envelope[samples] is the inverse of the summed squared windows.
    The missing last bin is zero, and the imaginary part of bin 0 is ignored. n_fft is a power of two.
    """
    frames, bins, _ = z.shape
    signals, samples = out.shape
    overlap = n_fft // hop
    hops = -(-samples // hop)
    block = (HOPS + overlap) * hop * signals
    pool().run(
        _istft_tiles, -(-hops // HOPS), block + 4 * bins * signals, z.reshape(-1), hann(n_fft), twiddles(n_fft), envelope,
        np.empty(0, np.float32) if time is None else time.reshape(-1), out.reshape(-1),
        np.array([frames, n_fft, hop, offset, signals, samples]),
        np.array([scale, shift, time_scale, time_shift], np.float32),
    )  # fmt: skip


@kernel
def _istft_tiles(tile0, tile1, scratch, z, window, twiddle, envelope, time, out, geometry, affine):  # type: ignore[no-untyped-def]
    """HOPS hops of output of all signals: every frame that reaches them, overlapped and added in `scratch`."""
    frames, n_fft, hop, offset, signals, samples = geometry
    scale, shift, time_scale, time_shift = affine
    for tile in range(tile0, tile1):
        n = n_fft // 2
        first, last = tile * HOPS * hop, min(samples, (tile + 1) * HOPS * hop)
        total = scratch[: (last - first) * signals]
        for i in range(total.size):
            total[i] = np.float32(0)
        work = (HOPS + n_fft // hop) * hop * signals
        cosine, sine = twiddle[0], twiddle[1]
        one = np.float32(1 / np.sqrt(np.float64(n_fft)))  # 1/n_fft of the inverse, times sqrt(n_fft) of the normalised forward
        for frame in range(max(0, (first - offset - n_fft) // hop), min(frames, (last - offset - 1) // hop + 1)):
            begin = frame * hop + offset
            low, high = max(first, begin), min(last, begin + n_fft)
            if low >= high:
                continue
            for k in range(n):
                mirror = n - k
                c, s = cosine[k], sine[k]
                for i in range(signals):
                    # the complex spectrum of (even + i odd) samples; real and imaginary parts exchanged, the forward FFT inverts it
                    at = (frame * n + k) * 2 * signals + 2 * i
                    ar, ai = z[at] * scale + shift, z[at + 1] * scale + shift
                    br, bi = np.float32(0), np.float32(0)
                    if k == 0:
                        ai = np.float32(0)
                    else:
                        at = (frame * n + mirror) * 2 * signals + 2 * i
                        br, bi = z[at] * scale + shift, z[at + 1] * scale + shift
                    er, ei, dr, di = ar + br, ai - bi, ar - br, ai + bi
                    scratch[work + (n + k) * signals + i] = er - dr * s - di * c
                    scratch[work + k * signals + i] = ei + dr * c - di * s
            at = _fft(scratch, work, work + 2 * n * signals, n, signals, cosine, sine)
            for position in range(low, high):
                p = position - begin
                w = window[p] * one
                source = view(scratch, at + (p // 2 + (n if p % 2 == 0 else 0)) * signals, signals)
                target = view(total, (position - first) * signals, signals)
                for i in range(signals):
                    target[i] += source[i] * w
        for position in range(first, last):
            e = envelope[position]
            for i in range(signals):
                value = total[(position - first) * signals + i] * e
                if time.size:
                    value += time[position * signals + i] * time_scale + time_shift
                out[i * samples + position] = value
