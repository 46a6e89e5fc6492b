"""The transformer's two-layer perceptron in one kernel: the hidden layer, four times as wide, never leaves the cache."""

from __future__ import annotations

import numpy as np

from ._jit import kernel, numbers, view_as
from .conv import CHUNK
from .epilogue import ACTIVATIONS, activate, store_scaled
from .gemm import LANES, PANEL, gemm, padded
from .layer import Conv
from .tiles import evenly, pool

TOKENS = 96  # of a tile, at most
assert CHUNK % PANEL == 0


def feed_forward(y: np.ndarray, widen: Conv, narrow: Conv, scale: np.ndarray, out: np.ndarray) -> None:
    """out[N, C] += scale[C] * narrow(activation(widen(y [N, C]))), both linear layers prepared for the kernels.

    Replaces two products with the hidden layer written and read in between (22 MB for 2688 tokens of 512 channels). Rows of it
    would lie 8 KiB apart, where all fall into the same few lines of L1: 62 GFLOP/s for the second product instead of 100.
    """
    N, C = y.shape
    tokens = evenly(N, TOKENS)
    hidden_pitch, pitch = CHUNK + LANES, padded(C) + LANES
    scratch = 2 * tokens + tokens * (hidden_pitch + pitch)
    geometry = np.array([N, C, widen.columns, ACTIVATIONS[widen.activation], hidden_pitch, pitch, tokens])
    arrays = (y.reshape(-1), widen.packed, narrow.packed, scale, out.reshape(-1))
    pool().run(_feed_forward_tiles, -(-N // tokens), scratch, *arrays, geometry)


@kernel
def _feed_forward_tiles(tile0, tile1, scratch, y, weights1, weights2, scale, out, geometry):
    """`tokens` rows: for each chunk of hidden channels the first product, its activation, and its part of the second product."""
    N, C, hidden, act, hidden_pitch, pitch, tokens = numbers(geometry, 7)
    for tile in range(tile0, tile1):
        first = tile * tokens
        M = min(tokens, N - first)
        table = view_as(scratch, 0, tokens, np.int64)
        at_hidden = 2 * tokens
        at = at_hidden + tokens * hidden_pitch
        for n in range(0, hidden, CHUNK):
            columns = min(CHUNK, hidden - n)
            for m in range(M):
                table[m] = (first + m) * C
            gemm(y, 0, table, 0, M, weights1, n * (1 + C), C, 0, scratch, at_hidden, hidden_pitch, columns, C, False)
            activate(scratch, at_hidden, hidden_pitch, M, columns, act)
            for m in range(M):
                table[m] = at_hidden + m * hidden_pitch
            gemm(scratch, 0, table, 0, M, weights2, 0, hidden, n, scratch, at, pitch, C, columns, n > 0)
        store_scaled(scratch, at, pitch, M, False, scale, first * C, C, out)
