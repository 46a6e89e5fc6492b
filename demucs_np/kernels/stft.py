"""Short-time Fourier transform and its inverse, on an FFT of our own that carries several transforms side by side in vector lanes.

Source: Stockham's self-sorting FFT, radix 4 and once 2, as in Van Loan 1992, "Computational Frameworks for the FFT", section 1.7.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ._jit import DISABLED, exact, kernel, numbers, view
from .tables import hann, table
from .tiles import pool

WIDE = 8  # transforms side by side: a multiple of it
FRAMES = WIDE  # forward: frames of one channel side by side
HOPS = 29  # inverse: output hops of a tile; n_fft/hop - 1 more frames are computed again by its neighbour


@table
def twiddles(n: int) -> np.ndarray:
    """cos and sin of 2 pi k / n for k < n/2, float32 rounded from float64 -> [2, n/2]."""
    angle = 2 * np.pi * np.arange(n // 2) / n
    return np.stack([np.cos(angle), np.sin(angle)]).astype(np.float32)


def own_size(n: int) -> bool:
    """Whether our FFT takes this size; others go through numpy.fft."""
    return n >= 8 and n & (n - 1) == 0


def _butterfly(radix: int) -> Any:
    """An intrinsic `(x, at, step, imaginary, out, to, leap, c1, s1, c2, s2, c3, s3, size)`: transforms of `radix` points, those at
    x[at + q*step], their imaginary parts `imaginary` further; point q of the result, turned by the angle of (cq, sq), goes to
    out[to + q*leap]. `size` of them side by side, a multiple of WIDE. Nothing is fused: the bits are the same without FMA."""

    @intrinsic
    def butterfly(
        typingctx: Any, x: Any, at: Any, step: Any, imaginary: Any, to: Any, leap: Any,
        c1: Any, s1: Any, c2: Any, s2: Any, c3: Any, s3: Any, size: Any,
    ) -> Any:  # fmt: skip
        n, f = types.intp, types.float32
        signature = types.void(x, n, n, n, n, n, f, f, f, f, f, f, n)

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            x, at, step, imaginary, to, leap, c1, s1, c2, s2, c3, s3, size = args
            data = context.make_array(sig.args[0])(context, builder, x).data
            i64, i32, vector = ir.IntType(64), ir.IntType(32), ir.VectorType(ir.FloatType(), WIDE)
            splat, nothing = ir.Constant(ir.VectorType(i32, WIDE), [0] * WIDE), ir.Constant(vector, ir.Undefined)
            turns = [
                tuple(builder.shuffle_vector(builder.insert_element(nothing, part, i32(0)), nothing, splat) for part in turn)
                for turn in ((c1, s1), (c2, s2), (c3, s3))[: radix - 1]
            ]

            def pointer(start: Any, i: Any, stride: Any, q: int) -> Any:
                place = builder.add(builder.add(start, i), builder.mul(stride, i64(q)))
                return [builder.bitcast(builder.gep(data, [p]), vector.as_pointer()) for p in (place, builder.add(place, imaginary))]

            def load(p: Any) -> Any:
                value = builder.load(p)
                value.align = 4
                return value

            def add(a: Any, b: Any) -> Any:
                return tuple(builder.fadd(p, q) for p, q in zip(a, b, strict=True))

            def sub(a: Any, b: Any) -> Any:
                return tuple(builder.fsub(p, q) for p, q in zip(a, b, strict=True))

            def turn(a: Any, by: Any) -> Any:
                (re, im), (c, s) = a, by
                real = builder.fadd(builder.fmul(re, c), builder.fmul(im, s))
                return real, builder.fsub(builder.fmul(im, c), builder.fmul(re, s))

            with cgutils.for_range_slice(builder, i64(0), size, i64(WIDE)) as (i, _):
                points = [tuple(load(p) for p in pointer(at, i, step, q)) for q in range(radix)]
                if radix == 2:
                    results = [add(*points), sub(*points)]
                else:
                    even, odd = add(points[0], points[2]), add(points[1], points[3])
                    real, (re, im) = sub(points[0], points[2]), sub(points[1], points[3])
                    minus_i = (im, re)  # -i (re + i im) = im - i re: the sign of its second part is taken below
                    first = (builder.fadd(real[0], minus_i[0]), builder.fsub(real[1], minus_i[1]))
                    third = (builder.fsub(real[0], minus_i[0]), builder.fadd(real[1], minus_i[1]))
                    results = [add(even, odd), first, sub(even, odd), third]
                results[1:] = [turn(result, by) for result, by in zip(results[1:], turns, strict=True)]
                for q, result in enumerate(results):
                    for value, p in zip(result, pointer(to, i, leap, q), strict=True):
                        builder.store(value, p).align = 4
            return context.get_dummy_value()

        return signature, codegen

    return butterfly


def _plain_butterfly(radix: int) -> Any:
    """The same in Python, for NUMBA_DISABLE_JIT=1."""
    fourier = np.exp(-2j * np.pi * np.outer(np.arange(radix), np.arange(radix)) / radix).astype(np.complex64)

    def butterfly(
        x: Any, at: int, step: int, imaginary: int, to: int, leap: int,
        c1: Any, s1: Any, c2: Any, s2: Any, c3: Any, s3: Any, size: int,
    ) -> None:  # fmt: skip
        places = [at + q * step for q in range(radix)]
        points = np.stack([x[p : p + size] + 1j * x[p + imaginary : p + imaginary + size] for p in places])
        turns = np.array([1, c1 - 1j * s1, c2 - 1j * s2, c3 - 1j * s3])[:radix, None]
        for q, result in enumerate(turns * (fourier @ points)):
            p = to + q * leap
            x[p : p + size], x[p + imaginary : p + imaginary + size] = result.real, result.imag

    return butterfly


_make = _plain_butterfly if DISABLED else _butterfly
_butterfly2, _butterfly4 = _make(2), _make(4)


@exact
def _fft(scratch, a, b, n, lanes, cosine, sine):
    """Complex FFT of `lanes` transforms of n points; real parts at scratch[a + i*lanes], imaginary parts n*lanes further.

    Works back and forth between the areas at a and b, each 2*n*lanes long; returns the one that holds the result.
    `cosine` and `sine` are those of 2n points (the real transform's): their even entries serve.
    """
    m = 1
    one, zero = np.float32(1), np.float32(0)
    while m < n:
        size = m * lanes
        if n // m % 4 == 0:
            span = n // m // 4
            for j in range(span):
                k = 2 * j * m
                c3, s3 = (cosine[3 * k], sine[3 * k]) if 3 * k < n else (-cosine[3 * k - n], -sine[3 * k - n])
                _butterfly4(
                    scratch, a + j * size, span * size, n * lanes, b + 4 * j * size, size,
                    cosine[k], sine[k], cosine[2 * k], sine[2 * k], c3, s3, size,
                )  # fmt: skip
            m *= 4
        else:
            span = n // m // 2
            for j in range(span):
                k = 2 * j * m
                _butterfly2(
                    scratch, a + j * size, span * size, n * lanes, b + 2 * j * size, size, cosine[k], sine[k], one, zero, one, zero, size
                )
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
        _stft_tiles, channels * blocks, 2 * n_fft * FRAMES, x.reshape(-1), hann(n_fft), twiddles(n_fft).reshape(-1), out.reshape(-1),
        np.array([channels, samples, n_fft, hop, frames]),
    )  # fmt: skip


@kernel
def _stft_tiles(tile0, tile1, scratch, x, window, twiddle, out, geometry):
    channels, samples, n_fft, hop, frames = numbers(geometry, 5)
    for tile in range(tile0, tile1):
        channel, first = tile % channels, tile // channels * FRAMES
        count = min(FRAMES, frames - first)
        n = n_fft // 2
        for f in range(FRAMES):
            start = channel * samples + (first + min(f, count - 1)) * hop
            frame = view(x, start, n_fft)
            for i in range(n):  # neighbouring samples as one complex number: a real transform of 2n is a complex one of n
                scratch[i * FRAMES + f] = frame[2 * i] * window[2 * i]
                scratch[(n + i) * FRAMES + f] = frame[2 * i + 1] * window[2 * i + 1]
        cosine, sine = view(twiddle, 0, n), view(twiddle, n, n)
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


_AS_IT_IS = np.array([0.0, 1.0])  # moments


def istft(
    z: np.ndarray,
    n_fft: int,
    hop: int,
    offset: int,
    envelope: np.ndarray,
    out: np.ndarray,
    *,
    moments: np.ndarray | None = None,
    time: np.ndarray | None = None,
    time_moments: np.ndarray | None = None,
) -> None:
    """out[signals, samples] = inverse STFT of z[frames, n_fft/2, 2*signals]*std + mean, plus time*std + mean.

    time: [samples or more, signals]; moments, time_moments: float64 mean and std, as of `normalize` (None: 0 and 1). Frame t begins at
    sample t*hop + offset; envelope[samples] is the inverse of the summed squared windows.
    The missing last bin is zero, and the imaginary part of bin 0 is ignored. n_fft is a power of two.
    """
    frames, bins, _ = z.shape
    signals, samples = out.shape
    overlap = n_fft // hop
    hops = -(-samples // hop)
    block = (HOPS + overlap) * hop * signals
    pool().run(
        _istft_tiles, -(-hops // HOPS), block + 4 * bins * lanes_for(signals), z.reshape(-1), hann(n_fft), twiddles(n_fft).reshape(-1),
        envelope, np.empty(0, np.float32) if time is None else time.reshape(-1), out.reshape(-1),
        np.array([frames, n_fft, hop, offset, signals, samples]),
        _AS_IT_IS if moments is None else moments, _AS_IT_IS if time_moments is None else time_moments,
    )  # fmt: skip


def lanes_for(signals: int) -> int:
    """Whole vectors for so many transforms."""
    return (signals + WIDE - 1) // WIDE * WIDE


_lanes = exact(lanes_for)  # for kernels; calling it from Python would compile it


@exact
def _unpack(a, b, c, s, scale, shift, real, imaginary):
    """The complex spectrum of (even + i odd) samples from that of all, at a bin and at its mirror image, of many signals.

    Real and imaginary parts are exchanged: so the forward FFT inverts it.
    """
    for i in range(a.size // 2):
        ar, ai = a[2 * i] * scale + shift, a[2 * i + 1] * scale + shift
        br, bi = b[2 * i] * scale + shift, b[2 * i + 1] * scale + shift
        er, ei, dr, di = ar + br, ai - bi, ar - br, ai + bi
        real[i] = er - dr * s - di * c
        imaginary[i] = ei + dr * c - di * s
    for i in range(a.size // 2, real.size):
        real[i] = imaginary[i] = np.float32(0)


@exact
def _added(total, scale, time, time_scale, time_shift):
    """One of several orders in which it could be fused."""
    return total * scale + (time * time_scale + time_shift)


@kernel
def _istft_tiles(tile0, tile1, scratch, z, window, twiddle, envelope, time, out, geometry, moments, time_moments):
    """HOPS hops of output of all signals: every frame that reaches them, overlapped and added in `scratch`."""
    frames, n_fft, hop, offset, signals, samples = numbers(geometry, 6)
    lanes = _lanes(signals)
    shift, scale = np.float32(moments[0]), np.float32(moments[1])
    time_shift, time_scale = np.float32(time_moments[0]), np.float32(time_moments[1])
    for tile in range(tile0, tile1):
        n = n_fft // 2
        first, last = tile * HOPS * hop, min(samples, (tile + 1) * HOPS * hop)
        total = view(scratch, 0, (last - first) * signals)
        for i in range(total.size):
            total[i] = np.float32(0)
        work = (HOPS + n_fft // hop) * hop * signals
        cosine, sine = view(twiddle, 0, n), view(twiddle, n, n)
        one = np.float32(1 / np.sqrt(np.float64(n_fft)))  # 1/n_fft of the inverse, times sqrt(n_fft) of the normalised forward
        for frame in range(max(0, (first - offset - n_fft) // hop), min(frames, (last - offset - 1) // hop + 1)):
            begin = frame * hop + offset
            low, high = max(first, begin), min(last, begin + n_fft)
            if low >= high:
                continue
            spectrum = view(z, frame * n * 2 * signals, n * 2 * signals)
            for k in range(n):
                real, imaginary = view(scratch, work + (n + k) * lanes, lanes), view(scratch, work + k * lanes, lanes)
                a, b = view(spectrum, k * 2 * signals, 2 * signals), view(spectrum, (n - max(k, 1)) * 2 * signals, 2 * signals)
                _unpack(a, b, cosine[k], sine[k], scale, shift, real, imaginary)
                if k == 0:  # its imaginary part does not count, and bin n is zero
                    for i in range(signals):
                        real[i] = imaginary[i] = a[2 * i] * scale + shift
            at = _fft(scratch, work, work + 2 * n * lanes, n, lanes, cosine, sine)
            for position in range(low, high):
                p = position - begin
                w = window[p] * one
                source = view(scratch, at + (p // 2 + (n if p % 2 == 0 else 0)) * lanes, signals)
                target = view(total, (position - first) * signals, signals)
                for i in range(signals):
                    target[i] += source[i] * w
        for position in range(first, last):
            e = envelope[position]
            values = view(total, (position - first) * signals, signals)
            if time.size:
                for i in range(signals):
                    out[i * samples + position] = _added(values[i], e, time[position * signals + i], time_scale, time_shift)
            else:
                for i in range(signals):
                    out[i * samples + position] = values[i] * e
