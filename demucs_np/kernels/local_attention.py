"""Attention over time whose scores fall with the distance, at rates that each query chooses; the matrix of scores is never stored.

Source: `demucs.demucs.LocalState`; Dao et al. 2022 (FlashAttention), section 3.1, for the running maximum and sum.
"""

from __future__ import annotations

import numpy as np

from ._jit import exact, inline, kernel, numbers, view, view_as
from .activation import exp, sigmoid
from .gemm import gemm, pack_columns, pack_rows, padded, padded_columns
from .softmax import KEYS, QUERIES, block_sizes, divide, largest_of, raise_to, weigh
from .sums import clear
from .tiles import pool

_LOWEST = np.float32(-3e38)
_ITSELF = np.float32(-100)  # score of a query and its own position


def local_attention(x: np.ndarray, heads: int, decays: int, out: np.ndarray) -> None:
    """out[T, F, C] = attention over T for each row of F and each head, a slice of C/heads channels.

    x [T, F, 3C + heads*decays]: queries, keys, values, and for each head and query the logits p of `decays` rates. The score of query s
    and key t is q·k / sqrt(C/heads) - |s - t| / sqrt(decays) * Σ_n n sigmoid(p_n) / 2, with n = 1 ... decays, but -100 where s = t.
    """
    T, F, C = out.shape
    D = C // heads
    wide = padded(D)
    scratch = QUERIES * (2 + KEYS + wide + 3) + sum(block_sizes(D))
    tiles = F * heads * -(-T // QUERIES)
    pool().run(_local_attention_tiles, tiles, scratch, x.reshape(-1), out.reshape(-1), np.array([T, F, C, heads, decays, *block_sizes(D)]))


@kernel
def _local_attention_tiles(tile0, tile1, scratch, x, out, geometry):
    """QUERIES queries of one head and row: for each block of keys scores, running maximum, weights, and their product with the values."""
    T, F, C, heads, decays, keys, values = numbers(geometry, 7)
    for tile in range(tile0, tile1):
        D = C // heads
        wide = padded_columns(D)
        across = (T + QUERIES - 1) // QUERIES
        first = tile % across * QUERIES
        head, f = tile // across % heads, tile // across // heads
        M = min(QUERIES, T - first)
        lx = F * (3 * C + heads * decays)
        query = f * (3 * C + heads * decays) + head * D
        table = view_as(scratch, 0, QUERIES, np.int64)
        at_scores = 2 * QUERIES
        at_sums = at_scores + QUERIES * KEYS
        top, total, rate = view(scratch, at_sums, M), view(scratch, at_sums + M, M), view(scratch, at_sums + 2 * M, M)
        at_result = at_sums + 3 * QUERIES
        at_keys = at_result + QUERIES * wide
        at_values = at_keys + keys
        scale = np.float32(1 / np.sqrt(np.float64(D)))
        for m in range(M):
            logits = f * (3 * C + heads * decays) + 3 * C + head * decays + (first + m) * lx
            top[m], total[m], rate[m] = _LOWEST, np.float32(0), _rate(view(x, logits, decays))
        clear(view(scratch, at_result, M * wide))
        for begin in range(0, T, KEYS):
            size = min(KEYS, T - begin)
            pack_columns(x, query + C + begin * lx, lx, size, D, view(scratch, at_keys, keys))
            pack_rows(x, query + 2 * C + begin * lx, lx, size, D, view(scratch, at_values, values))
            for m in range(M):
                table[m] = query + (first + m) * lx
            gemm(x, 0, table, 0, M, scratch, at_keys, D, 0, scratch, at_scores, KEYS, size, D, False)
            for m in range(M):
                scores = view(scratch, at_scores + m * KEYS, size)
                here = first + m - begin  # the query's own place among the keys
                _fade(scores, scale, rate[m], here)
                if 0 <= here < size:
                    scores[here] = _ITSELF
                highest = max(top[m], largest_of(scores))
                if highest > top[m]:
                    factor = exp(top[m] - highest)
                    raise_to(highest, factor, m, top, total, view(scratch, at_result + m * wide, wide))
                total[m] += weigh(scores, highest)
                table[m] = at_scores + m * KEYS
            gemm(scratch, 0, table, 0, M, scratch, at_values, size, 0, scratch, at_result, wide, D, size, True)
        divide(scratch, at_result, wide, M, D, total, (first * F + f) * C + head * D, F * C, out)


@exact
def _rate(logits):
    """How fast the scores fall: Σ n sigmoid(p_n) / (2 sqrt(decays))."""
    total = np.float32(0)
    for n in range(logits.size):
        total += np.float32(n + 1) * sigmoid(logits[n])
    return total * np.float32(0.5 / np.sqrt(np.float64(logits.size)))


@inline
def _fade(scores, scale, rate, here):
    for i in range(scores.size):
        scores[i] = scores[i] * scale - rate * np.float32(abs(np.int32(i) - np.int32(here)))
