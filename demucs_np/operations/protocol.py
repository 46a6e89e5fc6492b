"""What models are made of: the operations, and who owns which array.

Arrays are float32 and channels last: (T, F, C) in the frequency branch, (1, T, C) in the time branch; B and L below are any two axes.
Of every argument one of these holds:

    borrowed   it is read; it stays the caller's, and as it was. The rule where nothing else is said.
    consumed   it is the caller's no more: the result may be the same buffer, or it was given back. It must be a result itself.

A result is the caller's until it is consumed: each is passed on or given to `free`, once. Weights are no results, and never consumed.
The layers that `prepare` gives, and shapes where a forward begins (`Network.__call__`), have been checked; operations check nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from ..kernels.layer import Conv, Norm

Array = np.ndarray


class Operations(Protocol):
    """Implemented by `NumpyOperations`, `CompiledOperations` and, without arithmetic, `ShapeOperations`."""

    name: str

    def prepare(self, layer: Conv, path: str = "") -> Conv:
        """The layer as `conv` wants it; `path` is that of the module that has its weights, upstream."""

    def prepare_recurrent(self, weights: Array) -> Any:
        """The recurrent weights [2, H, 4H] of an LSTM layer, forward and backward, as `lstm` wants them."""

    def prepare_table(self, x: Array, *factors: float) -> Array:
        """x times the factors one after the other in float64, rounded once: a table of weights for `add_table`."""

    def run(self, model: Any, mix: Array, out: Array) -> None:
        """The model's forward pass. Its results lie where all of them need the least memory."""

    def mark(self) -> int:
        """Where a computation begins, for `reset`."""

    def free(self, *arrays: Array | None) -> None:
        """These results (consumed) are not needed any more."""

    def make_room(self, out: Array) -> None:
        """`out`, which is no result, is going to be written: as much memory of results that are not needed any more may go."""

    def reset(self, mark: int) -> None:
        """Give back every result since `mark`: the computation was not finished."""

    def copy(self, x: Array) -> Array:
        """x, any view, as an array of its own."""

    def pad(self, x: Array, left: int, right: int, *, reflect: bool = False) -> Array:
        """x [C, n] -> [C, left + n + right]: zeros around it, or its mirror images.

        Where x is too short to be mirrored, zeros are appended to it first, and mirrored too. Upstream: `demucs.hdemucs.pad1d`.
        """

    def transpose(self, x: Array) -> Array:
        """x [N, M], any view -> [1, M, N]."""

    def finite(self, x: Array) -> Array:
        """Numbers, none of which is zero if all of x are finite."""

    def join(self, parts: Sequence[Array]) -> Array:
        """[B, L_k, C] of each part -> [B, sum of L_k, C]."""

    def conv(
        self,
        x: Array,
        layer: Conv,
        *,
        rows: int | None = None,
        length: int | None = None,
        before: Array | None = None,
        stats: Array | None = None,
        scale: Array | None = None,
        residual: Array | None = None,
        spent: bool = False,
    ) -> Array:
        """residual + scale * activation(norm(conv(x) + bias) + before) -> [B, length, outputs]. Consumes `residual`, and if it is
        `spent` x.

        x: [B, L, C]; before, residual: as the result; stats: [L, 2] or [1, 2], mean and 1/std of `layer.norm`; scale: [outputs].
        `rows` windows along L (default: all that fit the padded input), `length` positions of the result (default: all).
        A transposed convolution takes neither stats, before nor scale, and GLU no `before`. Raises ValueError for too long a result.
        """

    def projected_stats(self, x: Array, layer: Conv) -> Array:
        """Mean and 1/std, over (B, N), of the 1x1 convolution of x[B, L, C] that `layer` is, for each row of L -> [L, 2]."""

    def feed_forward(self, x: Array, y: Array, widen: Conv, narrow: Conv, scale: Array | None) -> Array:
        """x + scale * narrow(activation(widen(y))), all [1, N, C]. Consumes x."""

    def normalize(self, x: Array) -> tuple[Array, Array]:
        """(x - mean) / (1e-5 + std), and the mean and the std (unbiased) over the whole array: float64 [2]. Consumes x."""

    def restore(self, x: Array, moments: Array) -> Array:
        """x * std + mean: what `normalize` took away."""

    def normalize_mono(self, x: Array) -> tuple[Array, float, float]:
        """The same of x [C, n] with mean and std of the mean over C."""

    def denormalize(self, x: Array, mean: float, std: float, out: Array) -> None:
        """out = x * std + mean; x may be any view."""

    def group_norm(
        self, x: Array, norm: Norm, *, activation: str = "none", crop: int = 0, length: int | None = None, spent: bool = False
    ) -> Array:
        """activation(GroupNorm(x[B, L, C])), statistics over (B, L, C/groups) -> the rows crop ... crop + length of L. Consumes x where it
        is `spent`."""

    def layer_norm(self, x: Array, norm: Norm) -> Array:
        """LayerNorm over the last axis."""

    def norm_gelu(self, x: Array, norm: Norm) -> Array:
        """GELU(GroupNorm(1)) of each row of L by itself: statistics of x[B, L, C] over (B, C). Consumes x."""

    def activate(self, x: Array, name: str) -> Array:
        """`gelu`, `relu` or `none` of x. Consumes x."""

    def add_table(self, x: Array, table: Array, path: str = "") -> Array:
        """x[B, ...] + table[...] or x + table. Consumes x. `path` is that of the module that has the table, upstream."""

    def attention(self, q: Array, k: Array, v: Array, heads: int) -> Array:
        """softmax(q_h k_h' / sqrt(C/heads)) v_h for each slice of C/heads channels; q [N, C], k and v [S, C] -> [N, C].

        All three may be columns of wider arrays.
        """

    def lstm(self, gates: Array, recurrent: Any, first: Array, step: int, steps: int) -> Array:
        """One bidirectional LSTM layer over sequences that share their inputs: gates [P, 8H] -> [steps, sequences, 2H].

        gates: W x + b of every input, for i, f, g, o of the forward and then of the backward direction. Sequence r reads the rows
        first[r] + t*step of it. Forward halves of the result come first.
        """

    def join_windows(self, y: Array, windows: int, stride: int, length: int) -> Array:
        """Windows y [steps, windows*F, C] that begin `stride` apart -> [length, F, C], each step from the one in whose middle it is."""

    def local_attention(self, x: Array, heads: int, decays: int) -> Array:
        """Attention over T that fades with distance, for each row of F by itself: x [T, F, 3C + heads*decays] -> [T, F, C].

        x: queries, keys, values, and for each head and query the logits p of `decays` rates. The score of query s and key t is
        q·k / sqrt(C/heads) - |s - t| / sqrt(decays) * Σ_n n sigmoid(p_n) / 2, with n = 1 ... decays, but -100 where s = t.
        """

    def join_bands(self, parts: Sequence[Array], biases: Sequence[Array], stride: int, overlap: int, crop: int, length: int) -> Array:
        """Bands [T, L_k, C] of transposed convolutions, each of which begins `overlap` rows before the end of the one before, summed
        -> rows crop ... crop + length. The bias [C] of all but the first, twice in their first `stride` rows, is taken off once.
        """

    def magnitude(self, z: Array) -> Array:
        """|z|: complex numbers as pairs [T, F, 2C] -> [T, F, C]."""

    def phase_mask(self, z: Array, m: Array) -> Array:
        """The sources' spectrograms: z/|z| of the mixture z [T, F, 2C] times the magnitudes m [T, F, S*C] -> [T, F, 2*S*C]."""

    def wiener(self, z: Array, m: Array, iterations: int, residual: bool) -> Array:
        """The sources' spectrograms [T, F, 2*S*C] in the mixture z [T, F, 2C], from their magnitudes m [T, F, S*C]; see `wiener.py`.

        Windows of 300 frames are filtered each by itself. A bin of exact silence counts as 1. `residual` estimates what the sources
        leave of the mixture as one more.
        """

    def stft(self, x: Array, n_fft: int, hop: int, frames: int) -> Array:
        """x[channels, samples] -> [frames, n_fft/2, 2*channels]: real and imaginary parts / sqrt(n_fft), last bin dropped."""

    def istft(
        self,
        z: Array,
        n_fft: int,
        hop: int,
        offset: int,
        envelope: Array,
        *,
        moments: Array | None = None,
        time: Array | None = None,
        time_moments: Array | None = None,
        out: Array | None = None,
    ) -> Array:
        """Inverse STFT of z[frames, n_fft/2, 2*signals]*std + mean, plus time[samples or more, signals]*std + mean, each with its own
        moments (None: 0 and 1), the mean and the std that `normalize` gave.

        Frame t begins at sample t*hop + offset; envelope[samples] is 1 / (sum of squared windows). The missing last bin is zero, and
        the imaginary part of bin 0 is ignored -> [signals, samples], into `out` if it is given.
        """

    def resample(self, x: Array, old_rate: int, new_rate: int) -> Array:
        """x [C, n], any view -> [C, new_rate * n // old_rate]."""
