"""The matrix product: naive = compiled for every remainder of rows, columns and depth, and for rows that overlap."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_checks import UNIT, assert_within, noise, varied

from demucs_np.kernels._jit import DISABLED, kernel
from demucs_np.kernels.gemm import DEPTH, HALF, LANES, PANEL, ROWS, gemm, pack, packed_size, padded

pytestmark = pytest.mark.kernel


@kernel
def multiply(A, a, rows, r, M, B, b, height, top, C, c, ldc, N, K, accumulate):
    gemm(A, a, rows, r, M, B, b, height, top, C, c, ldc, N, K, accumulate)


def product(A, rows, matrix, C, *, bias=None, top=0, depth=None, accumulate=False, a=0, b=0, c=0, ldc=None):
    """C[m, :N] = bias +, or += the rows of A times rows top ... top + depth of matrix, written by `gemm` at offset c of a flat array."""
    height, N = matrix.shape
    depth = height if depth is None else depth
    packed = np.concatenate([np.full(b, np.nan, np.float32), pack(matrix, bias)])
    ldc = padded(N) if ldc is None else ldc
    flat = np.full(c + len(rows) * ldc, np.nan, np.float32)
    inside = flat[c:].reshape(len(rows), ldc)
    inside[:, : padded(N)] = 0
    inside[:, :N] = C
    offsets = np.concatenate([[-(2**40)] * 3, rows]).astype(np.int64)
    multiply(A, a, offsets, 3, len(rows), packed, b, height, top, flat, c, ldc, N, depth, accumulate)
    assert np.all(np.isnan(flat[:c]))
    assert np.all(np.isnan(inside[:, padded(N) :]))  # nothing is written beyond the last vector
    return np.ascontiguousarray(inside[:, :N])


def check(A, rows, matrix, *, top=0, depth=None, accumulate=False, a=0, b=0, c=0, ldc=None):
    depth = matrix.shape[0] if depth is None else depth
    C, bias = noise(len(rows), matrix.shape[1], seed=3), noise(matrix.shape[1], seed=4)
    before = A.copy()
    ours = product(A, rows, matrix, C, bias=bias, top=top, depth=depth, accumulate=accumulate, a=a, b=b, c=c, ldc=ldc)
    left = np.stack([A[a + row : a + row + depth] for row in rows]).astype(np.float64)
    right = matrix[top : top + depth].astype(np.float64)
    truth = left @ right + (C if accumulate else bias)
    # one rounding for each term, against the sum of magnitudes; they wander: sqrt(depth) of them, not all
    limit = 2 * UNIT * np.sqrt(depth + 1) * (np.abs(left) @ np.abs(right) + np.abs(C if accumulate else bias))
    assert_within(ours, truth, limit)
    assert np.array_equal(A, before)


WIDTHS = [1, HALF, HALF + 1, LANES - 1, LANES, LANES + 1, LANES + HALF, PANEL - 1, PANEL, PANEL + 1, 3 * PANEL - 1, 2 * PANEL + LANES]


@pytest.mark.parametrize("N", WIDTHS)
@pytest.mark.parametrize("accumulate", [False, True])
def test_every_remainder_of_rows(N, accumulate):
    matrix = noise(5, N)
    for M in range(1, 2 * ROWS[0] + ROWS[1] + 2):
        check(noise(M * 5, seed=1), np.arange(M) * 5, matrix, accumulate=accumulate)


@pytest.mark.parametrize("K", [1, 2, DEPTH - 1, DEPTH, DEPTH + 1, 2 * DEPTH, 2 * DEPTH + 3])
@pytest.mark.parametrize("accumulate", [False, True])
def test_depth_below_and_above_a_block(K, accumulate):
    M = ROWS[0] + ROWS[1] + 1
    check(noise(M * K, seed=1), np.arange(M) * K, noise(K, PANEL + 3), accumulate=accumulate)


def test_rows_may_overlap_skip_and_come_in_any_order():
    A, matrix = noise(100, seed=1), noise(17, 9)
    check(A, np.arange(30) * 2, matrix)  # windows, two numbers apart
    check(A, np.full(9, 33), matrix)
    check(A, np.random.default_rng(0).integers(0, 84, 25), matrix)
    check(A, np.arange(14) * 5 - 20, matrix, a=20)


@pytest.mark.parametrize(("top", "depth"), [(0, 7), (3, 20), (DEPTH + 1, DEPTH), (1, DEPTH + 5), (2 * DEPTH, 0)])
def test_some_rows_of_a_matrix(top, depth):
    matrix = noise(2 * DEPTH + 9, 2 * PANEL + 5)
    check(noise(9 * (depth + 1), seed=1), np.arange(9) * (depth + 1), matrix, top=top, depth=depth, accumulate=True)


def test_offsets_of_everything():
    check(noise(200, seed=1), np.arange(8) * 12, noise(11, PANEL + 1), a=31, b=24, c=7, ldc=3 * PANEL + 5, accumulate=True)


@varied(60)
@given(st.integers(1, 40), st.integers(1, 70), st.integers(1, 40), st.integers(0, 50), st.booleans(), st.integers(0, 9))
def test_any_shape(M, N, K, step, accumulate, extra):
    check(noise(M * step + K, seed=1), np.arange(M) * step, noise(K, N), accumulate=accumulate, c=extra, ldc=padded(N) + extra)


def test_what_is_not_finite_stays_in_its_row():
    A = noise(10 * 6, seed=1)
    A[24:30], A[43], A[50] = np.inf, np.nan, -np.inf
    with np.errstate(invalid="ignore"):  # the point of it
        ours = product(A, np.arange(10) * 6, np.abs(noise(6, 20)), noise(10, 20))
    assert np.all(np.isposinf(ours[4]))
    assert np.all(np.isnan(ours[7]))
    assert np.all(np.isneginf(ours[8]))
    assert np.all(np.isfinite(np.delete(ours, [4, 7, 8], axis=0)))


@pytest.mark.skipif(DISABLED, reason="as Python the product is NumPy's, which orders its sums as it likes")
def test_a_number_does_not_depend_on_its_place():
    """One chain of sums each: the same bits wherever row and column fall in blocks and panels."""
    K = 3 * DEPTH + 5
    A, matrix = noise(K, seed=1), noise(K, PANEL + 3)
    M = 2 * ROWS[0] + ROWS[1] + 1
    whole = product(A, np.zeros(M, np.int64), matrix, np.zeros((M, PANEL + 3), np.float32))
    assert np.all(whole == whole[0])
    for n in range(PANEL + 3):
        alone = product(A, np.zeros(1, np.int64), matrix[:, n : n + 1], np.zeros((1, 1), np.float32))
        assert alone[0, 0] == whole[0, n]


def test_pack_keeps_every_number_and_fills_with_zeros():
    matrix, bias = noise(7, PANEL + LANES + 1), noise(PANEL + LANES + 1, seed=1)
    packed = pack(matrix, bias)
    assert packed.dtype == np.float32
    assert packed.flags.c_contiguous
    at, parts = 0, []
    for width in (PANEL, LANES, HALF):
        parts.append(packed[8 * at : 8 * (at + width)].reshape(8, width))
        at += width
    assert packed.size == 8 * at == packed_size(*matrix.shape)
    unpacked = np.concatenate(parts, axis=1)
    assert np.array_equal(unpacked[:, : matrix.shape[1]], np.vstack([bias, matrix]))
    assert not np.any(unpacked[:, matrix.shape[1] :])
    assert [padded(n) for n in (1, HALF, HALF + 1, LANES + 1)] == [HALF, HALF, LANES, LANES + HALF]
