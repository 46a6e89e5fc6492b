"""A bidirectional LSTM layer: the recurrence, given the projections of all inputs.

    i, f, g, o = gates(t) + h(t-1) W,    c(t) = σ(f) c(t-1) + σ(i) tanh(g),    h(t) = σ(o) tanh(c(t))

Source: Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000, as in PyTorch.
"""

from __future__ import annotations

import numpy as np

from ._jit import inline, kernel, numbers, view, view_as
from .activation import sigmoid, tanh
from .arena import apart
from .gemm import gemm, pack, packed_size, padded, padded_columns
from .sums import clear
from .tiles import pool

SEQUENCES = 12  # of a tile: they share each pass over the weights, which do not fit a core's caches


def prepare(weights: np.ndarray) -> np.ndarray:
    """[2, H, 4H] for forward and backward -> packed for the kernel."""
    _, K, N = weights.shape
    packed = apart((2, packed_size(K, N)))
    for direction, matrix in zip(packed, weights, strict=True):
        direction[:] = pack(matrix)
    return packed


def lstm(gates: np.ndarray, recurrent: np.ndarray, first: np.ndarray, step: int, out: np.ndarray) -> None:
    """out[steps, sequences, 2H] = the layer's states, forward and backward, of sequences whose inputs are projected in `gates`.

    gates: [P, 8H], i, f, g, o of the forward and then of the backward direction; sequence r reads the rows first[r] + t*step of it.
    recurrent: from `prepare`.
    """
    steps, R, H = out.shape[0], out.shape[1], out.shape[2] // 2
    groups = -(-R // SEQUENCES)
    count = -(-R // groups)
    scratch = 2 * count + count * (padded(4 * H) + H)
    geometry = np.array([steps, R, H, step, count])
    pool().run(_lstm_tiles, 2 * -(-R // count), scratch, gates.reshape(-1), recurrent, first.astype(np.int64), out.reshape(-1), geometry)


@kernel
def _lstm_tiles(tile0, tile1, scratch, gates, recurrent, first, out, geometry):
    """One direction of `count` sequences, over all steps. States are read where they are written, in `out`."""
    steps, R, H, step, count = numbers(geometry, 5)
    for tile in range(tile0, tile1):
        direction, begin = tile % 2, tile // 2 * count
        M = min(R, begin + count) - begin
        N = 4 * H
        ldc = padded_columns(N)
        weights = recurrent[direction]
        table = view_as(scratch, 0, count, np.int64)
        at = 2 * count
        cells = view(scratch, at + count * ldc, count * H)
        clear(cells)
        clear(view(scratch, at, count * ldc))  # with the columns that only fill up the last vector
        for s in range(steps):
            t = s if direction == 0 else steps - 1 - s
            for m in range(M):
                start = (first[begin + m] + t * step) * 2 * N + direction * N
                _copy(view(gates, start, N), view(scratch, at + m * ldc, N))
            if s > 0:
                before = t - 1 if direction == 0 else t + 1
                for m in range(M):
                    table[m] = (before * R + begin + m) * 2 * H + direction * H
                gemm(out, 0, table, 0, M, weights, 0, H, 0, scratch, at, ldc, N, H, True)
            for m in range(M):
                z = at + m * ldc
                i, f, g, o = view(scratch, z, H), view(scratch, z + H, H), view(scratch, z + 2 * H, H), view(scratch, z + 3 * H, H)
                _cell(i, f, g, o, view(cells, m * H, H), view(out, (t * R + begin + m) * 2 * H + direction * H, H))


@inline
def _cell(i, f, g, o, c, h):
    for k in range(h.size):
        c[k] = sigmoid(f[k]) * c[k] + sigmoid(i[k]) * tanh(g[k])
        h[k] = sigmoid(o[k]) * tanh(c[k])


@inline
def _copy(x, out):
    for i in range(x.size):
        out[i] = x[i]
