"""Convolutions: naive = twin = compiled, for every geometry and every step that a tile does after the product."""

import math
from dataclasses import dataclass, replace

import naive
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_checks import BACKENDS, UNIT, assert_same_bits, assert_within, noise, sized, varied

from demucs_np.kernels import layer
from demucs_np.kernels.conv import CHUNK
from demucs_np.operations import operations

pytestmark = pytest.mark.kernel

ACTIVATIONS = ["none", "gelu", "relu", "glu"]


@dataclass(frozen=True)
class Case:
    """A layer of any kind, its input, and what comes after the product."""

    B: int  # batches: time steps of a frequency layer
    L: int  # positions
    C: int  # channels
    N: int  # columns of the product; twice the channels of the result for a GLU
    K: int = 1  # width of the window
    taps: int = 1
    stride: int = 1
    pad: int = 0
    dilation: int = 1
    activation: str = "none"
    rows: int | None = None
    before: bool = False
    norm: bool = False
    alike: bool = False  # the same statistics for every position
    scale: bool = False
    residual: bool = False
    spent: bool = False  # the input is consumed
    transposed: bool = False
    crop: int = 0
    length: int | None = None

    def __str__(self):
        return " ".join(f"{name}={value}" for name, value in vars(self).items() if value not in (None, False, "none"))


def arrays(case):
    """Weights in PyTorch's layout and everything `conv` takes, by name."""
    C, N = case.C, case.N
    w = {"weight": noise(C, N, case.K) if case.transposed else noise(N, C, case.K, case.taps), "bias": noise(N)}
    x = noise(case.B, case.L, C, seed=1)
    options = {}
    plain = product(case, x, w, {})[0]  # for its shape
    outputs = N // 2 if case.activation == "glu" else N
    if case.before:
        options["before"] = noise(1, plain.shape[0] * plain.shape[1], outputs, seed=3)  # other axes, same order
    if case.norm:
        w["norm"] = (1 + noise(N, seed=4) / 4, noise(N, seed=5))
        positions = 1 if case.alike else plain.shape[1]
        options["stats"] = np.stack([noise(positions, seed=6), 1 + noise(positions, seed=7) ** 2], axis=1)
    if case.scale:
        options["scale"] = noise(outputs, seed=8)
    if case.residual:
        options["residual"] = noise(*plain.shape[:2], outputs, seed=9)
    return x, w, options


def product(case, x, w, options):
    """The truth before norm and activation, and what its rounding errors are measured against: the sum of all terms' magnitudes."""
    x = x.astype(np.float64)
    results = []
    for f in (np.asarray, np.abs):
        if case.transposed:
            strides = case.L - 1 + -(-case.K // case.stride)  # all results there are, to a whole stride
            full = strides * case.stride if case.length is None else case.crop + case.length
            results.append(naive.conv_transposed(f(x), f(w["weight"]), f(w["bias"]), stride=case.stride, length=full)[:, case.crop :])
        else:
            geometry = {"stride": case.stride, "pad": case.pad, "dilation": case.dilation, "rows": case.rows}
            results.append(naive.conv(f(x), f(w["weight"]), f(w["bias"]), **geometry)[:, : case.length])
    return results


def expected(case, x, w, options):
    """The truth and the error that float32 may make of it.

    The errors of a sum of n terms wander: about sqrt(n) roundings of its largest partial sum, which the sum of magnitudes bounds. They
    are then carried through each further step, which rounds once or twice itself.
    """
    z, magnitude = product(case, x, w, options)
    error = 2 * UNIT * math.sqrt(case.C * case.K * case.taps + 4) * magnitude
    if case.norm:
        gamma, beta = (a.astype(np.float64) for a in w["norm"])
        mean, inverse = (options["stats"][:, i : i + 1].astype(np.float64) for i in (0, 1))
        error = np.abs(inverse * gamma) * (error + 3 * UNIT * (np.abs(z) + np.abs(mean))) + UNIT * np.abs(beta)
        z = (z - mean) * inverse * gamma + beta
        error += 2 * UNIT * np.abs(z)
    if case.before:
        z = z + options["before"].reshape(z.shape)
        error = error + UNIT * np.abs(z)
    y = naive.activate(z, case.activation)
    if case.activation == "glu":
        half = case.N // 2
        error = error[..., :half] + np.abs(z[..., :half]) * error[..., half:] / 4 + 4 * UNIT * np.abs(y)
    else:
        error = 1.13 * error + 2 * UNIT * np.abs(z)  # the slope of GELU is at most 1.13
    if case.residual:
        y = y * options.get("scale", 1)
        error = error * np.abs(options.get("scale", 1)) + 2 * UNIT * (np.abs(y) + np.abs(options["residual"]))
        y = y + options["residual"]
    return y, error + 1e-30


def build(case, w):
    if case.transposed:
        conv = layer.transposed(w["weight"], w["bias"], stride=case.stride, crop=case.crop, activation=case.activation)
    elif case.taps > 1 and case.K == 1:
        conv = layer.over_time(w["weight"][:, :, 0], w["bias"], case.dilation)
    elif case.K == 1:
        conv = layer.linear(w["weight"][..., 0], w["bias"])
    else:
        weight = w["weight"][..., 0] if case.taps == 1 else w["weight"]
        conv = replace(layer.convolution(weight, w["bias"], stride=case.stride, pad=case.pad), dilation=case.dilation)
    return replace(conv, activation=case.activation, norm=w.get("norm"))


def check(case, backend):
    x, w, options = arrays(case)
    truth, limit = expected(case, x, w, options)
    before = {name: array.copy() for name, array in (options | {"x": x}).items()}
    ops = operations(backend)
    conv = ops.prepare(build(case, w))
    given = ops.copy(x) if case.spent else x
    taken = ops.arena.taken if backend == "numba" else 0
    ours = ops.conv(given, conv, rows=case.rows, length=case.length, spent=case.spent, **options)
    assert_within(ours, truth, limit)
    if backend == "numba" and case.spent:
        assert np.shares_memory(ours, given) == (conv.pointwise and not case.residual)
        assert ops.arena.taken == taken - case.residual
        ops.free(None if case.residual else ours)
    if backend == "numba" and case.residual:
        assert ours is options.pop("residual")
    for name, array in (options | {"x": x}).items():
        assert np.array_equal(array, before[name]), f"{name} has changed"


CASES = [
    # Linear layers: columns that fill vectors and that do not, more of them than CHUNK, sums longer than a block.
    Case(1, 1, 1, 1),
    Case(1, 5, 6, 96, activation="gelu"),
    Case(1, 97, 7, 5, activation="relu"),
    Case(2, 3, 300, 33),
    Case(1, 3, 5, CHUNK + 9, activation="gelu"),
    Case(2, sized(50, 2), 4, CHUNK + 16),
    Case(1, 4, 3, 2 * CHUNK, activation="glu"),
    Case(3, 2, 3, 2 * (CHUNK // 2 + 7), activation="glu"),
    Case(3, 2, 4, CHUNK + 26, activation="glu", scale=True, residual=True, norm=True),
    # Windows along L: strides, padding, windows that end before or beyond the input.
    Case(3, 16, 4, 8, K=8, stride=4, pad=2, activation="gelu"),
    Case(2, 19, 3, 10, K=8, stride=4, pad=2),
    Case(2, 13, 2, 6, K=8, stride=4, pad=2, rows=4, activation="gelu"),
    Case(1, 5, 2, 3, K=8, stride=4, pad=2, rows=2),
    Case(2, 1, 2, 3, K=8, stride=4, pad=4, rows=1),
    Case(2, 9, 5, 4, K=3, stride=5),
    Case(2, 9, 5, 4, K=2, stride=3, rows=2, length=1),
    Case(4, 8, 5, 16, K=8, stride=8, activation="gelu"),
    Case(1, 40, 6, 12, K=3, pad=1, activation="glu"),
    Case(1, sized(2100, 30), 4, 16, K=5, stride=2, pad=2, activation="gelu"),
    # Taps along B: a 3x3 convolution, and a dilated one over time.
    Case(5, 7, 4, 12, K=3, taps=3, pad=1, activation="glu"),
    Case(sized(70, 4), sized(40, 5), 3, 6, K=3, taps=3, pad=1),
    Case(sized(9, 2), sized(130, 70), 5, 32, K=3, taps=3, pad=1, activation="gelu"),
    Case(200, 2, 2, CHUNK - 8, K=3, taps=3, pad=1),  # tiles along B with neighbours on both sides
    Case(1, 6, 2, 4, K=3, taps=3, pad=1),
    Case(2, 6, 2, 4, K=5, taps=5, pad=2, dilation=2),
    Case(11, 3, 4, 5, taps=3, dilation=2),
    Case(sized(900, 40), 1, 4, 3, taps=3, dilation=4),
    Case(3, 4, 4, 5, taps=3, dilation=4),
    Case(sized(40, 6), sized(30, 3), 6, 16, taps=5, dilation=3, activation="gelu"),
    Case(7, 2, 3, 4, taps=2),
    # Of width 3 with channels enough for Winograd's form: even and odd sizes, several tiles and chunks of columns, sums of several blocks.
    Case(6, 4, 32, 32, K=3, taps=3, pad=1, activation="glu"),
    Case(sized(13, 3), sized(45, 5), 48, 96, K=3, taps=3, pad=1, activation="glu"),
    Case(sized(7, 2), sized(8, 3), 208, sized(224, 32), K=3, taps=3, pad=1),
    Case(1, 1, 32, 64, K=3, taps=3, pad=1),
    Case(1, sized(399, 7), 32, 128, K=3, pad=1, activation="glu"),
    Case(3, sized(120, 4), sized(208, 32), 32, K=3, pad=1),
    # The same for filters with two weights: strided and transposed.
    Case(sized(9, 2), sized(44, 16), 16, 32, K=8, stride=4, pad=2, activation="gelu"),
    Case(1, sized(2001, 15), 16, sized(224, 32), K=8, stride=4, pad=2, rows=sized(500, 4), activation="relu"),
    Case(1, sized(3000, 40), 48, 32, K=8, stride=4),
    Case(2, sized(40, 12), 16, 32, K=8, stride=4, pad=2, before=True, activation="gelu"),
    Case(2, sized(90, 6), 32, 64, K=4, stride=2, activation="glu"),
    Case(sized(5, 2), sized(33, 4), 64, 16, K=8, stride=4, transposed=True, crop=2, length=sized(132, 16), activation="gelu"),
    Case(1, sized(301, 5), 64, 8, K=8, stride=4, transposed=True, crop=2, length=sized(1201, 17)),
    Case(1, 1, 64, 16, K=16, stride=8, transposed=True, crop=4, length=8, activation="relu"),
    # After the product.
    Case(3, 8, 4, 16, K=8, stride=4, pad=2, before=True, activation="gelu"),
    Case(1, 6, 4, 5, before=True),
    Case(4, 9, 3, 20, norm=True, activation="glu", scale=True, residual=True),
    Case(4, 9, 3, 7, norm=True, activation="gelu"),
    Case(2, 3, 3, 16, norm=True, before=True),
    Case(1, sized(900, 7), 6, 26, norm=True, alike=True, activation="glu", scale=True, residual=True),
    Case(3, 5, 4, 9, norm=True, alike=True),
    Case(2, sized(400, 9), 8, 16, scale=True, residual=True),
    Case(2, 30, 8, 5, residual=True, activation="relu"),
    Case(1, 9, 8, 6, residual=True, activation="glu"),
    Case(3, 7, 4, 10, K=3, pad=1, scale=True, residual=True, activation="glu"),
    # Where the input was: of a GLU in one chunk of columns and in several, and of what is stored without a copy.
    Case(3, sized(300, 20), 24, 48, activation="glu", spent=True),
    Case(1, sized(300, 20), CHUNK // 2 + 32, CHUNK + 64, activation="glu", spent=True),
    Case(2, sized(300, 20), 224, 224, activation="relu", spent=True),
    Case(2, sized(300, 20), 2 * CHUNK + 7, 2 * CHUNK + 7, spent=True),
    Case(2, 9, 5, 12, activation="glu", spent=True),
    Case(2, 9, 5, 5, K=3, pad=1, spent=True),
    Case(2, 9, 4, 8, activation="glu", residual=True, scale=True, spent=True),
    # Transposed: the usual kernel, others than a multiple of the stride, crops, shorter and longer results.
    Case(3, 5, 4, 6, K=8, stride=4, transposed=True),
    Case(3, 5, 4, 6, K=8, stride=4, transposed=True, crop=2, length=20, activation="gelu"),
    Case(2, 7, 3, 5, K=8, stride=4, transposed=True, crop=2, length=25),
    Case(2, 7, 3, 16, K=5, stride=3, transposed=True, crop=1, length=19, activation="relu"),
    Case(2, 7, 3, 4, K=7, stride=2, transposed=True, crop=5, length=6),
    Case(2, 4, 3, 4, K=3, stride=4, transposed=True),
    Case(2, 6, 3, 4, K=4, stride=4, transposed=True, crop=7, length=16),
    Case(1, 5, 3, 4, K=6, stride=4, transposed=True, length=23),
    Case(1, 1, 3, 2, K=16, stride=8, transposed=True, crop=4, length=8),
    Case(1, 3, 2, 90, K=16, stride=8, transposed=True, crop=4, length=28, activation="gelu"),
    Case(sized(20, 2), sized(33, 4), 6, 8, K=8, stride=4, transposed=True, crop=2, length=sized(132, 16), activation="gelu"),
    # Added to what is there, also in Winograd's form.
    Case(2, 7, 3, 16, K=5, stride=3, transposed=True, crop=1, length=19, activation="relu", residual=True),
    Case(
        3, sized(200, 5), 4, CHUNK // 2 + 6, K=8, stride=4, transposed=True, crop=2, length=sized(790, 17), activation="gelu", residual=True
    ),
    Case(
        sized(5, 2), sized(33, 4), 64, 48, K=8, stride=4, transposed=True, crop=2, length=sized(130, 15), activation="gelu", residual=True
    ),
    Case(1, 4, 64, 8, K=8, stride=4, transposed=True, residual=True),
    Case(4, 9, 32, 64, K=3, taps=3, pad=1, activation="glu", residual=True, scale=True),
    Case(1, sized(399, 7), 32, 128, K=3, pad=1, residual=True),
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_naive_is_twin_is_compiled(case, backend):
    check(case, backend)


@st.composite
def cases(draw):
    """Any layer of these models' kinds, small."""
    one_of = lambda *values: draw(st.sampled_from(values))  # noqa: E731
    number = lambda low, high: draw(st.integers(low, high))  # noqa: E731
    B, L, C = number(1, 7), number(1, 24), number(1, 9)
    activation, K, stride = one_of(*ACTIVATIONS), number(1, 9), number(1, 5)
    if draw(st.booleans()) and activation != "glu":
        full = (L - 1) * stride + K
        crop = number(0, full - 1)
        kept = {"crop": crop, "length": number(1, full - crop)}
        return Case(B, L, C, number(1, 20), K, stride=stride, transposed=True, activation=activation, **kept)
    N = number(1, 20) * 2
    pad = number(0, K - 1)
    inside = (L + 2 * pad - K) // stride + 1
    rows = number(1, max(inside, 0) + 2) if inside < 1 or draw(st.booleans()) else None
    taps = one_of(1, 3) if K == 1 or stride == 1 else 1
    if taps > 1 and K == 1:
        pad, stride, rows = 0, 1, None
    if taps == 1 and K == 1:
        stride, pad, rows = 1, 0, None
    dilation = number(1, 3) if taps > 1 else 1
    case = Case(B, L, C, N, K, taps, stride, pad, dilation, activation, rows)
    if taps == K == 1 and draw(st.booleans()):
        case = replace(case, norm=True, alike=draw(st.booleans()))
    if draw(st.booleans()) and activation != "glu":
        case = replace(case, before=True)
    if draw(st.booleans()):
        case = replace(case, residual=True, scale=draw(st.booleans()))
    return case


@varied(200)
@given(cases())
def test_any_layer(case):
    for backend in BACKENDS:
        check(case, backend)


@pytest.mark.parametrize(
    "case",
    [
        Case(sized(40, 5), sized(64, 6), 6, 24, K=8, stride=4, pad=2, activation="gelu"),
        Case(sized(37, 5), sized(40, 5), 6, 24, K=3, taps=3, pad=1, activation="glu"),
        Case(sized(37, 3), sized(41, 3), 32, 64, K=3, taps=3, pad=1, activation="glu"),
        Case(1, sized(999, 9), 32, 64, K=3, pad=1, activation="glu"),
        Case(sized(9, 2), sized(128, 8), 32, 32, K=8, stride=4, pad=2, activation="gelu"),
        Case(sized(9, 2), sized(33, 4), 64, 16, K=8, stride=4, transposed=True, crop=2, activation="gelu"),
        Case(sized(700, 5), 1, 12, 6, taps=3, dilation=2),
        Case(sized(90, 3), sized(17, 3), 6, 50, norm=True, scale=True, residual=True, activation="glu"),
        Case(1, sized(1500, 20), 6, 7, K=8, stride=4, transposed=True, crop=2, activation="gelu"),
        Case(1, sized(300, 3), 16, CHUNK + 20, activation="gelu"),
    ],
    ids=str,
)
def test_same_bits_for_any_number_of_threads(case):
    def run():
        x, w, options = arrays(case)
        return ops.conv(x, ops.prepare(build(case, w)), **options)

    ops = operations("numba")
    assert_same_bits(run)


def test_a_batch_does_not_depend_on_its_neighbours():
    """Every number is one chain of sums, wherever it lies in a tile."""
    case = Case(sized(50, 4), 13, 6, 20, K=8, stride=4, pad=2, activation="gelu")
    x, w, _ = arrays(case)
    ops = operations("numba")
    conv = ops.prepare(build(case, w))
    together = ops.conv(x, conv)
    for b in (0, 1, case.B - 1):
        assert np.array_equal(ops.conv(x[b : b + 1], conv)[0], together[b])


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_not_finite_stays_where_its_windows_reach(backend):
    case = Case(3, 12, 2, 5, K=4, stride=2, pad=1, activation="gelu")
    x, w, _ = arrays(case)
    x[1, 5, 0] = np.nan
    ops = operations(backend)
    ours = ops.conv(x, ops.prepare(build(case, w)))
    touched = np.zeros(ours.shape, bool)
    touched[1, 2:4] = True  # windows begin at -1, 1, 3, 5, ... and take four
    assert np.array_equal(np.isnan(ours), touched)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_result_longer_than_its_rows_is_refused(backend):
    ops = operations(backend)
    conv = ops.prepare(layer.transposed(noise(2, 3, 8), noise(3), stride=4, crop=2))
    with pytest.raises(ValueError, match=r"^23 positions asked of 22$"):
        ops.conv(noise(1, 5, 2), conv, length=23)


@pytest.mark.parametrize("shape", [sized((40, 32, 64, 128), (2, 8, 64, 4)), sized((1, 1200, 200, 64), (1, 8, 200, 4))])
def test_sums_of_both_backends_are_as_accurate(shape):
    """BLAS adds small products up in one chain over all of K, whose error is 2.6 dB larger than that of the compiled blocks."""
    B, L, C, N = shape
    x, plain = noise(B, L, C), layer.convolution(noise(N, C, 8, 1), np.zeros(N, np.float32), stride=4)
    windows = np.lib.stride_tricks.sliding_window_view(x.astype(np.float64), 8, axis=1)[:, ::4]  # [B, L, C] -> [B, rows, C, 8]
    truth = windows.transpose(0, 1, 3, 2).reshape(B, -1, 8 * C) @ plain.matrix[0].astype(np.float64)
    errors = {}
    for backend in BACKENDS:
        ops = operations(backend)
        errors[backend] = np.sqrt(np.mean((ops.conv(x, ops.prepare(plain)) - truth) ** 2))
    assert errors["numpy"] < sized(1.12, 1.5) * errors["numba"]  # 1 dB; few numbers scatter more
