"""Multi-head attention with the softmax computed as the keys pass by: the matrix of scores is never stored.

Source: Dao et al. 2022 (FlashAttention), section 3.1, for the running maximum and sum.
"""

from __future__ import annotations

import numpy as np

from ._jit import kernel, numbers, view, view_as
from .activation import exp2
from .gemm import gemm, pack_columns, pack_rows, padded, padded_columns
from .softmax import KEYS, QUERIES, block_sizes, divide, largest_of, raise_to, weigh2
from .sums import clear
from .tiles import pool

LOG2E = 1.4426950408889634
_LOWEST = np.float32(-1e38)  # times log2 e still a float32


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, heads: int, out: np.ndarray, packed: np.ndarray) -> None:
    """out[N, C] = softmax(q_h k_h' / sqrt(C/heads)) v_h for each head h, a slice of C/heads channels.

    q [N, *], k and v [S, *] are views of C columns in float32 arrays whose rows are contiguous; packed: `room(S, C, heads)` floats.
    """
    N, C = out.shape
    S, D = k.shape[0], C // heads
    flat = [np.lib.stride_tricks.as_strided(a, ((a.shape[0] - 1) * (a.strides[0] // 4) + C,), (4,)) for a in (q, k, v)]
    geometry = np.array([N, S, C, D, q.strides[0] // 4, k.strides[0] // 4, v.strides[0] // 4, *block_sizes(D)])
    blocks = -(-S // KEYS)
    pool().run(_pack_tiles, heads * blocks, 0, flat[1], flat[2], packed, geometry)
    scratch = QUERIES * (2 + KEYS + padded(D) + 2)
    pool().run(_attention_tiles, heads * -(-N // QUERIES), scratch, flat[0], packed, out.reshape(-1), geometry)


def room(S: int, C: int, heads: int) -> int:
    """Floats that the packed keys and values take."""
    return heads * -(-S // KEYS) * sum(block_sizes(C // heads))


@kernel
def _pack_tiles(tile0, tile1, scratch, k, v, packed, geometry):
    """A block of keys as panels [D, PANEL] and of values as panels [keys, PANEL], as `gemm` reads them."""
    _, S, _, D, _, lk, lv, keys, values = numbers(geometry, 9)
    for tile in range(tile0, tile1):
        blocks = (S + KEYS - 1) // KEYS
        head, block = tile // blocks, tile % blocks
        first = block * KEYS
        size = min(KEYS, S - first)
        at = tile * (keys + values)
        pack_columns(k, first * lk + head * D, lk, size, D, view(packed, at, keys))
        pack_rows(v, first * lv + head * D, lv, size, D, view(packed, at + keys, values))


@kernel
def _attention_tiles(tile0, tile1, scratch, q, packed, out, geometry):
    """One head and QUERIES rows: for each block of keys scores, running maximum, weights, and their product with the values."""
    N, S, C, D, lq, _, _, keys, values = numbers(geometry, 9)
    for tile in range(tile0, tile1):
        across = (N + QUERIES - 1) // QUERIES
        head, first = tile // across, tile % across * QUERIES
        M = min(QUERIES, N - first)
        blocks = (S + KEYS - 1) // KEYS
        wide = padded_columns(D)
        table = view_as(scratch, 0, QUERIES, np.int64)
        at_scores = 2 * QUERIES
        at_sum = at_scores + QUERIES * KEYS
        top, total = view(scratch, at_sum, QUERIES), view(scratch, at_sum + QUERIES, QUERIES)
        at_result = at_sum + 2 * QUERIES
        scale = np.float32(LOG2E / np.sqrt(np.float64(D)))  # weights are powers of two: e^x = 2^(x log2 e)
        for m in range(M):
            top[m], total[m] = _LOWEST, np.float32(0)
        clear(view(scratch, at_result, M * wide))
        for block in range(blocks):
            size = min(KEYS, S - block * KEYS)
            at_keys = (head * blocks + block) * (keys + values)
            for m in range(M):
                table[m] = (first + m) * lq + head * D
            gemm(q, 0, table, 0, M, packed, at_keys, D, 0, scratch, at_scores, KEYS, size, D, False)
            for m in range(M):
                scores = view(scratch, at_scores + m * KEYS, size)
                highest = max(top[m], largest_of(scores))
                if highest > top[m]:
                    factor = exp2((top[m] - highest) * scale)
                    raise_to(highest, factor, m, top, total, view(scratch, at_result + m * wide, wide))
                total[m] += weigh2(scores, highest, scale)
                table[m] = at_scores + m * KEYS
            gemm(scratch, 0, table, 0, M, packed, at_keys + keys, size, 0, scratch, at_result, wide, D, size, True)
        divide(scratch, at_result, wide, M, D, total, first * C + head * D, C, out)
