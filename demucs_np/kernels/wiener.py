"""Wiener filtering of a stereo or mono mixture by an EM algorithm, in float64.

A frequency bin of a window of frames is independent of all others. With the estimate y_j(t), a vector over channels, of source j and
the mixture x(t), one iteration is

    v_j(t) = mean over channels of |y_j(t)|²,    R_j = Σ_t y_j(t) y_j(t)ᴴ / (1e-10 + Σ_t v_j(t)),
    y_j(t) = v_j(t) R_j (Σ_k v_k(t) R_k + 1e-5 I)⁻¹ x(t).

Source: Nugraha et al. 2016, "Multichannel music separation with deep neural networks", simplified as in Open-Unmix (`demucs.wiener`).
"""

from __future__ import annotations

import math

import numpy as np

from ._jit import inline, kernel, numbers, view_as
from .tiles import pool

WINDOW = 300  # frames
BINS = 8  # of a tile: one or two cache lines of the mixture


def wiener(z: np.ndarray, m: np.ndarray, iterations: int, residual: bool, out: np.ndarray) -> None:
    """out[T, F, 2*S*C]: the sources in the mixture z [T, F, 2C], from their magnitudes m [T, F, S*C]; channels are (re, im) pairs.

    `residual` estimates what the sources leave of the mixture as one more. With iterations, C is 1 or 2.
    """
    T, F, channels = z.shape
    C, S = channels // 2, m.shape[2] * 2 // channels
    estimated = S + 1 if residual and iterations else S
    scale = np.array([_scale(z[start : start + WINDOW]) for start in range(0, T, WINDOW)])
    geometry = np.array([T, F, C, S, estimated, iterations])
    complexes = WINDOW * C * (estimated + 1) + 4 * estimated
    scratch = 4 * complexes + 2 * (WINDOW + 1) * estimated
    tiles = scale.size * -(-F // BINS)
    pool().run(_wiener_tiles, tiles, scratch, z.reshape(-1), m.reshape(-1), scale, out.reshape(-1), geometry)


def _scale(window: np.ndarray) -> float:
    """What the iterations divide a window by: keeps the largest bin at or below 10, where 1e-5 was tuned."""
    pairs = window.reshape(-1, 2).astype(np.float64)
    return max(1.0, math.sqrt(np.einsum("ij,ij->i", pairs, pairs).max()) / 10)


@kernel
def _wiener_tiles(tile0, tile1, scratch, z, m, scale, out, geometry):
    """BINS bins of one window: the mixture's phase at the given magnitudes, and from there the iterations."""
    T, F, C, S, estimated, iterations = numbers(geometry, 6)
    for tile in range(tile0, tile1):
        blocks = (F + BINS - 1) // BINS
        window, block = tile // blocks, tile % blocks
        first = window * WINDOW
        frames = min(WINDOW, T - first)
        divisor = scale[window] if iterations else 1.0
        complexes = WINDOW * C * (estimated + 1) + 4 * estimated
        values = view_as(scratch, 0, complexes, np.complex128)
        x = values[: WINDOW * C]  # [t, C]
        y = values[WINDOW * C : WINDOW * C * (estimated + 1)]  # [t, j, C]
        R = values[WINDOW * C * (estimated + 1) :]  # [j, 2, 2]
        v = view_as(scratch, 4 * complexes, (WINDOW + 1) * estimated, np.float64)  # [t, j], and the sums over t
        for f in range(block * BINS, min(F, (block + 1) * BINS)):
            for t in range(frames):
                at = ((first + t) * F + f) * C
                for c in range(C):
                    real, imaginary = np.float64(z[2 * (at + c)]), np.float64(z[2 * (at + c) + 1])
                    if real == 0 and imaginary == 0:
                        real = np.float64(1)
                    mixed = complex(real, imaginary) / divisor
                    phase = complex(real, imaginary) / np.sqrt(real * real + imaginary * imaginary)
                    rest = mixed
                    for j in range(S):
                        value = m[at * S + j * C + c] * phase / divisor
                        y[(t * estimated + j) * C + c] = value
                        rest -= value
                    if estimated > S:
                        y[(t * estimated + S) * C + c] = rest
                    x[t * C + c] = mixed
            for _ in range(iterations):
                _covariances(y, frames, C, estimated, v, R)
                _filter(x, frames, C, estimated, v, R, y)
            for t in range(frames):
                at = ((first + t) * F + f) * C * S
                for i in range(S * C):
                    value = y[t * estimated * C + i] * divisor
                    out[2 * (at + i)] = value.real
                    out[2 * (at + i) + 1] = value.imag


@inline
def _covariances(y, frames, C, sources, v, R):
    """v[t, j] and R[j, 2, 2] from the estimates y [t, j, C]. Mono is stereo with silence in the second channel."""
    total = v[frames * sources : (frames + 1) * sources]
    total[:] = 1e-10
    R[:] = 0
    for t in range(frames):
        for j in range(sources):
            at = (t * sources + j) * C
            left = y[at]
            right = y[at + 1] if C > 1 else complex(0.0, 0.0)
            power = left.real * left.real + left.imag * left.imag
            power2 = right.real * right.real + right.imag * right.imag
            v[t * sources + j] = (power + power2) / C
            total[j] += (power + power2) / C
            R[4 * j] += power
            R[4 * j + 1] += left * right.conjugate()
            R[4 * j + 3] += power2
    for j in range(sources):
        R[4 * j] /= total[j]
        R[4 * j + 1] /= total[j]
        R[4 * j + 2] = R[4 * j + 1].conjugate()
        R[4 * j + 3] /= total[j]


@inline
def _filter(x, frames, C, sources, v, R, y):
    """y[t, j] = v[t, j] R[j] (Σ_k v[t, k] R[k] + 1e-5 I)⁻¹ x[t]."""
    for t in range(frames):
        a, b, d = 1e-5, complex(0.0, 0.0), 1e-5  # the Hermitian matrix (a b; b' d)
        for j in range(sources):
            weight = v[t * sources + j]
            a += weight * R[4 * j].real
            b += weight * R[4 * j + 1]
            d += weight * R[4 * j + 3].real
        determinant = a * d - (b.real * b.real + b.imag * b.imag)
        left = x[t * C]
        right = x[t * C + 1] if C > 1 else complex(0.0, 0.0)
        left, right = (d * left - b * right) / determinant, (a * right - b.conjugate() * left) / determinant
        for j in range(sources):
            weight = v[t * sources + j]
            at = (t * sources + j) * C
            y[at] = weight * (R[4 * j] * left + R[4 * j + 1] * right)
            if C > 1:
                y[at + 1] = weight * (R[4 * j + 2] * left + R[4 * j + 3] * right)
