"""Norms and elementwise operations: naive = twin = compiled."""

import math
from dataclasses import replace

import naive
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_checks import BACKENDS, UNIT, assert_same_bits, assert_within, noise, sized, varied

from demucs_np.kernels.layer import EPS, Norm, linear
from demucs_np.kernels.norm import ROWS
from demucs_np.operations import operations

pytestmark = pytest.mark.kernel

BLOCK = 2**16  # numbers of an elementwise tile


def parameters(C):
    return 1 + noise(C, seed=1) / 4, noise(C, seed=2)


def after_norm(z, activation, scale=1.0):
    """What activation makes of z, and the error allowed: norms are affine with float64 statistics, so a few roundings of each step.

    `scale` is the largest factor by which the input is multiplied relative to its size: inputs far from zero lose digits.
    """
    error = 6 * UNIT * (np.abs(z) + 2 * scale)
    y = naive.activate(z, activation)
    if activation == "glu":
        half = z.shape[-1] // 2
        error = error[..., :half] + np.abs(z[..., :half]) * error[..., half:] / 4 + 4 * UNIT * np.abs(y)
    else:
        error = 1.13 * error + 2 * UNIT * np.abs(z)  # the slope of GELU is at most 1.13
    return y, error


SHAPES = [
    (1, 1, 2, 1, 0, None),
    (1, 7, 12, 3, 0, None),
    (5, 3, 8, 8, 1, 2),
    (3, 20, 6, 2, 4, 11),
    (2, 9, 30, 1, 8, 1),
    (sized(3, 1), sized(ROWS // 2, 9), 4, 2, 0, None),
    (1, sized(2 * ROWS + 5, 12), 10, 5, 2, sized(ROWS + 3, 9)),
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("activation", ["none", "gelu", "glu", "relu"])
@pytest.mark.parametrize(("B", "L", "C", "groups", "crop", "length"), SHAPES)
def test_group_norm(backend, activation, B, L, C, groups, crop, length):
    x = 3 * noise(B, L, C) + 1
    weight, bias = parameters(C)
    before = x.copy()
    z = naive.group_norm(x, groups, weight, bias)[:, crop : crop + (L if length is None else length)]
    ours = operations(backend).group_norm(x, Norm(weight, bias, groups), activation=activation, crop=crop, length=length)
    assert_within(ours, *after_norm(z, activation, np.abs(weight).max() * 2))
    assert np.array_equal(x, before)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("C", [1, 2, 7, 16, 33, 512])
@pytest.mark.parametrize("rows", [1, 5, 128, 300])
def test_layer_norm(backend, C, rows):
    rows = sized(rows, min(rows, 4))
    x = noise(1, rows, C)
    weight, bias = parameters(C)
    before = x.copy()
    z = naive.layer_norm(x, weight, bias)
    # a vector of nearly equal numbers is stretched by the norm, and so is the rounding of its mean
    stretch = np.abs(x).max(axis=-1, keepdims=True) / np.sqrt(x.astype(np.float64).var(axis=-1, keepdims=True) + EPS)
    assert_within(
        operations(backend).layer_norm(x, Norm(weight, bias)), z, 6 * UNIT * (np.abs(z) + np.abs(bias) + stretch * np.abs(weight))
    )
    assert np.array_equal(x, before)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("B", "L", "C"), [(1, 1, 2), (1, 9, 48), (6, 1, 5), (4, 7, 3), (sized(ROWS + 3, 5), 1, 4), (sized(700, 3), sized(17, 4), 6)]
)
def test_norm_gelu(backend, B, L, C):
    x = 2 * noise(B, L, C) + noise(L, 1, seed=9)  # each row has its own mean
    weight, bias = parameters(C)
    z = naive.norm_of_rows(x, weight, bias)
    stretch = np.abs(x).max() / np.sqrt(x.astype(np.float64).var(axis=(0, 2)).min() + EPS)
    given_ = x.copy()
    ops = operations(backend)
    ours = ops.norm_gelu(given_, Norm(weight, bias))
    assert_within(ours, *after_norm(z, "gelu", stretch * np.abs(weight).max()))
    assert ours is given_ if backend == "numba" else np.array_equal(given_, x)


@varied(60)
@given(st.integers(1, 5), st.integers(1, 9), st.integers(1, 6), st.integers(1, 4), st.sampled_from(["none", "gelu", "relu"]))
def test_group_norm_of_any_shape(B, L, width, groups, activation):
    C = width * groups
    x = noise(B, L, C)
    weight, bias = parameters(C)
    z = naive.group_norm(x, groups, weight, bias)
    variance = x.reshape(B * L, groups, width).astype(np.float64).var(axis=(0, 2)).min()  # of few numbers it may be small
    stretch = np.abs(weight).max() * np.abs(x).max() / math.sqrt(variance + EPS)
    for backend in BACKENDS:
        ours = operations(backend).group_norm(x, Norm(weight, bias, groups), activation=activation)
        assert_within(ours, *after_norm(z, activation, stretch))


def projection(C, N):
    conv = linear(noise(N, C, seed=3), noise(N, seed=4))
    return replace(conv, norm=parameters(N))


def naive_stats(x, conv):
    """Of every number of the projection, in float64."""
    z = x.astype(np.float64) @ conv.matrix[0].astype(np.float64) + conv.bias
    return z.mean(axis=(0, 2)), z.std(axis=(0, 2))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("B", "L", "C", "N"), [(1, 1, 1, 2), (5, 3, 6, 24), (sized(ROWS + 9, 7), 1, 5, 8), (sized(900, 4), sized(9, 2), 12, 50)]
)
def test_projected_stats(backend, B, L, C, N):
    x = noise(B, L, C)
    conv = projection(C, N)
    mean, std = naive_stats(x, conv)
    ops = operations(backend)
    ours = ops.projected_stats(x, ops.prepare(conv))
    # the twin rounds every z; statistics of many are as good as their average
    limit = 4 * UNIT * np.stack([np.abs(mean) + std, 2 / np.sqrt(std**2 + EPS)], axis=1)
    assert_within(ours, np.stack([mean, 1 / np.sqrt(std**2 + EPS)], axis=1), limit)


@pytest.mark.parametrize("ratio", [1e2, 1e4])
def test_projected_stats_of_means_far_above_the_deviation(ratio):
    """Mean² and mean² + variance agree in 2 log10(ratio) digits of float64's 16. The twin, which rounds z to float32, cannot."""
    x = (noise(50, 2, 6) + ratio).astype(np.float32)
    conv = replace(projection(6, 20), bias=np.zeros(20, np.float32))
    mean, std = naive_stats(x, conv)
    ops = operations("numba")
    ours = ops.projected_stats(x, ops.prepare(conv))
    within = 1 / np.sqrt(std**2 + EPS)
    limit = np.stack([2 * UNIT * np.abs(mean), (2 * UNIT + 1e-14 * ratio**2) * within], axis=1)
    assert_within(ours, np.stack([mean, within], axis=1), limit)


@pytest.mark.parametrize("ratio", [1e2, 1e4])
def test_norms_of_means_far_above_the_deviation(ratio):
    x = (noise(3, 40, 6) + ratio).astype(np.float32)
    weight, bias = parameters(6)
    limit = 20 * UNIT * ratio  # of the mean itself, as far as float32 knows it
    for backend in BACKENDS:
        ops = operations(backend)
        assert_within(ops.group_norm(x, Norm(weight, bias, 2)), naive.group_norm(x, 2, weight, bias), limit)
        assert_within(ops.layer_norm(x, Norm(weight, bias)), naive.layer_norm(x, weight, bias), limit)
        z = naive.norm_of_rows(x, weight, bias)
        assert_within(ops.norm_gelu(x.copy(), Norm(weight, bias)), naive.gelu(z), limit)


@pytest.mark.parametrize("backend", BACKENDS)
def test_norms_of_silence_are_their_bias(backend):
    ops = operations(backend)
    x = np.zeros((2, 3, 8), np.float32)
    weight, bias = parameters(8)
    assert np.array_equal(ops.group_norm(x, Norm(weight, bias, 4)), np.broadcast_to(bias, x.shape))
    assert np.array_equal(ops.layer_norm(x, Norm(weight, bias)), np.broadcast_to(bias, x.shape))
    assert_within(ops.norm_gelu(x, Norm(weight, bias)), np.broadcast_to(naive.gelu(bias), (2, 3, 8)), 4 * UNIT * np.abs(bias))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(2,), (2, 5), (1, 3, 7), (2, sized(40_000, 10))])
def test_normalize(backend, shape):
    x = 0.2 * noise(*shape) + np.float32(0.05)
    numbers = [float(v) for v in x.reshape(-1)]
    mean = math.fsum(numbers) / len(numbers)
    std = math.sqrt(math.fsum((v - mean) ** 2 for v in numbers) / (len(numbers) - 1))
    ours, moments = operations(backend).normalize(x.copy())
    assert moments.dtype == np.float64
    assert moments.tolist() == pytest.approx([mean, std], rel=1e-11, abs=1e-14)
    truth = (x.astype(np.float64) - mean) / (1e-5 + std)
    assert_within(ours, truth, 4 * UNIT * (np.abs(truth) + np.abs(x).max() / std))


@pytest.mark.filterwarnings("ignore:invalid value encountered in scalar:RuntimeWarning")  # kernels as plain Python say so
@pytest.mark.parametrize("backend", BACKENDS)
def test_normalize_of_silence_and_of_one_number(backend):
    ours, moments = operations(backend).normalize(np.zeros((2, 9), np.float32))
    assert not ours.any()
    assert moments.tolist() == [0, 0]
    ours, moments = operations(backend).normalize(np.full((1, 1), 0.5, np.float32))
    assert moments[0] == 0.5
    assert math.isnan(moments[1])  # as upstream's: the deviation of one number is not known
    assert np.isnan(ours[0, 0])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("B", "shape"), [(1, (1,)), (3, (7, 5)), (2, (sized(BLOCK + 3, 9),)), (4, (sized(300, 3), 256))])
def test_add_table(backend, B, shape):
    x, table = noise(B, *shape), noise(*shape, seed=1)
    given_ = x.copy()
    ours = operations(backend).add_table(given_, table)
    assert np.array_equal(ours, x + table)  # one rounding each: the same bits
    assert ours.dtype == np.float32
    assert ours is given_ if backend == "numba" else np.array_equal(given_, x)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["gelu", "none"])
@pytest.mark.parametrize("size", [1, 17, BLOCK - 1, BLOCK + 17])
def test_activate(backend, name, size):
    x = 4 * noise(1, 1, sized(size, min(size, 17)))
    given_ = x.copy()
    ours = operations(backend).activate(given_, name)
    assert_within(ours, naive.activate(x.astype(np.float64), name), 2 * UNIT * np.abs(x))
    assert ours is given_ if backend == "numba" or name == "none" else np.array_equal(given_, x)


def test_activate_knows_its_names():
    with pytest.raises(ValueError, match=r"^activation 'swish'$"):
        operations("numba").activate(noise(1, 1, 3), "swish")


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_stays_in_its_group(backend):
    ops = operations(backend)
    weight, bias = parameters(6)
    x = noise(2, 5, 6)
    x[1, 3, 2] = np.nan
    ours = np.isnan(ops.group_norm(x, Norm(weight, bias, 3)))
    assert ours[:, :, 2:4].all()
    assert ours.sum() == 2 * 5 * 2
    assert np.array_equal(np.isnan(ops.layer_norm(x, Norm(weight, bias))).any(axis=2), np.isnan(x).any(axis=2))
    assert np.array_equal(np.isnan(ops.norm_gelu(x, Norm(weight, bias))).any(axis=(0, 2)), np.isnan(x).any(axis=(0, 2)))


def threaded(name):
    """A run of the operation over several tiles."""
    ops = operations("numba")
    B, L, C = sized((9, 1501, 6), (2, 5, 6))
    x = noise(B, L, C)
    weight, bias = parameters(C)
    return {
        "group_norm": lambda: ops.group_norm(x, Norm(weight, bias, 2), activation="gelu", crop=1, length=L - 2),
        "layer_norm": lambda: ops.layer_norm(x, Norm(weight, bias)),
        "norm_gelu": lambda: ops.norm_gelu(x.copy(), Norm(weight, bias)),
        "projected_stats": lambda: ops.projected_stats(x, ops.prepare(projection(C, 12))),
        "normalize": lambda: ops.normalize(x.copy())[0],
        "add_table": lambda: ops.add_table(x.copy(), x[0]),
        "activate": lambda: ops.activate(x.copy(), "gelu"),
    }[name]


@pytest.mark.parametrize("name", ["group_norm", "layer_norm", "norm_gelu", "projected_stats", "normalize", "add_table", "activate"])
def test_same_bits_for_any_number_of_threads(name):
    assert_same_bits(threaded(name))
