"""From samples to the spectrogram and back, in the hybrid models. Upstream: `_spec`, `_ispec`, `_magnitude`, `_mask` of HTDemucs."""

from __future__ import annotations

import numpy as np

from ..kernels.tables import hann, table
from ..operations import Operations

Array = np.ndarray


def spectrogram(ops: Operations, mix: Array, n_fft: int, *, zeros: bool = False) -> Array:
    """mix [C, n] -> [ceil(n/hop), n_fft/2, 2C]: frame t is centred on samples t*hop ... (t+1)*hop; complex numbers as two channels.

    Beyond its ends the mix is reflected, or with `zeros` silent.
    """
    hop, n = n_fft // 4, mix.shape[1]
    frames = -(-n // hop)
    left, right = hop // 2 * 3, hop // 2 * 3 + frames * hop - n
    padded = ops.pad(mix, left, right, reflect=not zeros)  # [C, n] -> [C, (frames + 3)*hop]
    z = ops.stft(padded, n_fft, hop, frames)  # -> [frames, n_fft/2, 2C]
    ops.free(padded)
    return z


def spectrogram_centered(ops: Operations, mix: Array, n_fft: int) -> Array:
    """mix [C, n], n > n_fft/2 -> [1 + n//hop, n_fft/2, 2C]: frame t is centred on sample t*hop."""
    hop = n_fft // 4
    padded = ops.pad(mix, n_fft // 2, n_fft // 2, reflect=True)  # [C, n] -> [C, n + n_fft]
    z = ops.stft(padded, n_fft, hop, 1 + mix.shape[1] // hop)  # -> [frames, n_fft/2, 2C]
    ops.free(padded)
    return z


@table
def inverse_envelope(n_fft: int, n: int) -> Array:
    """1 / (sum of the squared windows over each sample), which is constant: the frames beyond both ends count, though they are zero."""
    window = hann(n_fft).astype(np.float64) ** 2
    total = window.reshape(4, -1).sum(axis=0)  # [hop]
    return np.resize(1 / np.roll(total, -(n_fft // 8)), n).astype(np.float32)


@table
def inverse_envelope_of(n_fft: int, n: int, first: int, frames: int) -> Array:
    """1 / (sum of the squared windows over each sample) of `frames` frames, the first of which begins at sample `first`."""
    hop = n_fft // 4
    window = hann(n_fft).astype(np.float64) ** 2
    total = np.zeros(-first + max(n, first + (frames - 1) * hop + n_fft))
    for t in range(frames):
        total[t * hop : t * hop + n_fft] += window
    return (1 / total[-first : -first + n]).astype(np.float32)


def waveform(ops: Operations, z: Array, n_fft: int, n: int, **affine: object) -> Array:
    """Inverse of `spectrogram`: z [frames, n_fft/2, 2*signals] -> [signals, n]. `affine`: see `Operations.istft`."""
    hop = n_fft // 4
    return ops.istft(z, n_fft, hop, -(hop // 2 * 3), inverse_envelope(n_fft, n), **affine)  # type: ignore[arg-type]


def waveform_late(ops: Operations, z: Array, n_fft: int, n: int, **affine: object) -> Array:
    """As `waveform`, but 3/2 hops late, as the first hybrid models were trained: they crop two hops less than they padded.

    The first samples then lack a frame in the envelope: the spectrogram is continued with only two frames of silence.
    """
    envelope = inverse_envelope_of(n_fft, n, -(n_fft // 2), len(z) + 4)
    return ops.istft(z, n_fft, n_fft // 4, 0, envelope, **affine)  # type: ignore[arg-type]


def waveform_centered(ops: Operations, z: Array, n_fft: int, n: int, **affine: object) -> Array:
    """Inverse of `spectrogram_centered`."""
    envelope = inverse_envelope_of(n_fft, n, -(n_fft // 2), len(z))
    return ops.istft(z, n_fft, n_fft // 4, -(n_fft // 2), envelope, **affine)  # type: ignore[arg-type]


def mask(ops: Operations, z: Array, m: Array, wiener_iters: int, wiener_residual: bool) -> Array:
    """The sources' spectrograms from the mixture's z [T, F, 2C] and the predicted magnitudes m [T, F, S*C] -> [T, F, 2*S*C].

    Negative `wiener_iters`: the mixture's phase at the predicted magnitude; else Wiener filtering.
    """
    return ops.phase_mask(z, m) if wiener_iters < 0 else ops.wiener(z, m, wiener_iters, wiener_residual)
