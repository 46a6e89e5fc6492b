"""What each operation means, in float64 and straight from its formula. Shares no code with the library: slow, and easy to believe.

Weights have PyTorch's layouts; activations are channels last, as in the library.
"""

import cmath
import math

import numpy as np


def conv(x, weight, bias, *, stride=1, pad=0, dilation=1, rows=None):
    """x [B, L, C] * weight [N, C, K, taps] + bias [N] -> [B, rows, N]: K positions along L, `taps` of them along B, centred."""
    x, weight = x.astype(np.float64), weight.astype(np.float64)
    B, L, _ = x.shape
    N, _, K, taps = weight.shape
    rows = (L + 2 * pad - K) // stride + 1 if rows is None else rows
    z = np.zeros((B, rows, N)) + bias
    for b in range(B):
        for tap in range(taps):
            source = b + (tap - taps // 2) * dilation
            for row in range(rows):
                for k in range(K):
                    position = row * stride - pad + k
                    if 0 <= source < B and 0 <= position < L:
                        z[b, row] += weight[:, :, k, tap] @ x[source, position]
    return z


def conv_transposed(x, weight, bias, *, stride, length):
    """x [B, L, C] and weight [C, N, K] -> [B, length, N]: what every input spreads over K positions, `stride` apart, plus bias."""
    x, weight = x.astype(np.float64), weight.astype(np.float64)
    B, L, _ = x.shape
    _, N, K = weight.shape
    z = np.zeros((B, max(length, (L - 1) * stride + K), N))
    for b in range(B):
        for position in range(L):
            for k in range(K):
                z[b, position * stride + k] += x[b, position] @ weight[:, :, k]
    return z[:, :length] + bias


def activate(z, name):
    """none, gelu, relu, or glu: the first half of the last axis times the sigmoid of the second."""
    if name == "glu":
        half = z.shape[-1] // 2
        return z[..., :half] * sigmoid(z[..., half:])
    return {"none": lambda z: z, "gelu": gelu, "relu": lambda z: np.where(z > 0, z, 0.0)}[name](z)


def _of_each(function):
    return np.vectorize(function, otypes=[np.float64])


@_of_each
def exp(x):
    return math.exp(x) if x < 700 else math.inf if not math.isnan(x) else x


@_of_each
def sigmoid(x):
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0 if not math.isnan(x) else x


@_of_each
def gelu(x):
    """x times the normal distribution function; erfc keeps the digits of its lower tail."""
    return x * 0.5 * math.erfc(-x / math.sqrt(2))


def standardize(x, eps=1e-5):
    """Each row of x [rows, numbers] less its mean, over its biased standard deviation."""
    out = np.empty(x.shape)
    for i, row in enumerate(x.astype(np.float64)):
        mean = math.fsum(row) / row.size
        variance = math.fsum((row - mean) ** 2) / row.size
        out[i] = (row - mean) / math.sqrt(variance + eps)
    return out


def group_norm(x, groups, weight, bias):
    """x [B, L, C]: statistics of each of `groups` slices of channels over B and L."""
    B, L, C = x.shape
    rows = x.reshape(B * L, groups, C // groups).transpose(1, 0, 2).reshape(groups, -1)
    z = standardize(rows).reshape(groups, B * L, C // groups).transpose(1, 0, 2).reshape(B, L, C)
    return z * weight + bias


def layer_norm(x, weight, bias):
    """Statistics of each vector of the last axis."""
    return standardize(x.reshape(-1, x.shape[-1])).reshape(x.shape) * weight + bias


def norm_of_rows(x, weight, bias):
    """x [B, L, C]: statistics of each l over B and C."""
    B, L, C = x.shape
    z = standardize(x.transpose(1, 0, 2).reshape(L, B * C)).reshape(L, B, C).transpose(1, 0, 2)
    return z * weight + bias


def attention(q, k, v, heads):
    """q [N, C], k and v [S, C] -> [N, C], one head and one query at a time."""
    q, k, v = (a.astype(np.float64) for a in (q, k, v))
    N, C = q.shape
    D = C // heads
    out = np.empty((N, C))
    for channels in (slice(h * D, (h + 1) * D) for h in range(heads)):
        for n in range(N):
            scores = [math.fsum(q[n, channels] * row) / math.sqrt(D) for row in k[:, channels]]
            top = max(scores)
            weights = np.array([math.exp(score - top) for score in scores])
            out[n, channels] = weights @ v[:, channels] / math.fsum(weights)
    return out


def hann(n):
    return np.array([math.sin(math.pi * i / n) ** 2 for i in range(n)])


def dft(n):
    """exp(-2 pi i j k / n) -> [n, n]."""
    turns = [cmath.exp(-2j * math.pi * i / n) for i in range(n)]
    return np.array([[turns[j * k % n] for k in range(n)] for j in range(n)])


def stft(x, n_fft, hop, frames):
    """x [channels, samples] -> [frames, n_fft/2, 2*channels]: real and imaginary part of each channel, over sqrt(n_fft)."""
    x = x.astype(np.float64)
    out = np.empty((frames, n_fft // 2, 2 * len(x)))
    waves, window = dft(n_fft)[: n_fft // 2] / math.sqrt(n_fft), hann(n_fft)
    for t in range(frames):
        for c, signal in enumerate(x):
            spectrum = waves @ (signal[t * hop : t * hop + n_fft] * window)
            out[t, :, 2 * c], out[t, :, 2 * c + 1] = spectrum.real, spectrum.imag
    return out


def istft(z, n_fft, hop, offset, envelope):
    """z [frames, n_fft/2, 2*signals] -> [signals, samples]: the windowed inverse of every frame, overlapped and added."""
    frames, bins, channels = z.shape
    samples = len(envelope)
    out = np.zeros((channels // 2, samples))
    waves, window = dft(n_fft).conj() / math.sqrt(n_fft), hann(n_fft)
    for t in range(frames):
        for c in range(channels // 2):
            half = z[t, :, 2 * c].astype(np.float64) + 1j * z[t, :, 2 * c + 1]
            spectrum = np.zeros(n_fft, complex)
            spectrum[:bins] = half
            spectrum[0] = half[0].real  # the signal is real, and so is its mean
            spectrum[bins + 1 :] = half[:0:-1].conj()  # negative frequencies; bin n_fft/2 stays zero
            frame = (waves @ spectrum).real * window
            for i, value in enumerate(frame):
                position = t * hop + offset + i
                if 0 <= position < samples:
                    out[c, position] += value
    return out * envelope
