"""Weights made into what the kernels read: number by number, the twin, and the kernel."""

from dataclasses import replace

import numpy as np
import pytest
from kernel_checks import noise

from demucs_np.kernels import conv, layer, packing, winograd
from demucs_np.kernels.gemm import next_panel, padded

pytestmark = pytest.mark.kernel


def unpacked(packed, K, N):
    """The panels' columns: [1 + K, N], the bias first."""
    out, j = [], 0
    while j < padded(N):
        width = next_panel(padded(N) - j)
        out.append(packed[j * (1 + K) : (j + width) * (1 + K)].reshape(1 + K, width))
        j += width
    whole = np.concatenate(out, axis=1)
    assert not whole[:, N:].any()
    return whole[:, :N]


def in_order(columns, activation, chunk):
    """Where the columns of the layer go: of a GLU values and gates in turn, `chunk` of both together."""
    if activation != "glu":
        return list(range(columns))
    values, gates = list(range(columns // 2)), list(range(columns // 2, columns))
    return [c for at in range(0, columns // 2, chunk // 2) for part in (values, gates) for c in part[at : at + chunk // 2]]


LAYERS = {
    "linear": lambda: layer.linear(noise(70, 20), noise(70)),
    "one column": lambda: layer.linear(noise(1, 1), noise(1)),
    "glu": lambda: layer.linear(noise(1030, 9), noise(1030), "glu"),
    "strided": lambda: layer.convolution(noise(46, 3, 8), noise(46), stride=4, pad=2),
    "3x3, glu": lambda: layer.convolution(noise(48, 5, 3, 3), noise(48), pad=1, activation="glu"),
    "over time": lambda: layer.over_time(noise(6, 48, 3), noise(6), 2),
    "a part of a tensor": lambda: layer.linear(noise(60, 20)[20:40], noise(60)[20:40]),
    "transposed": lambda: layer.transposed(noise(20, 12, 8), noise(12), stride=4, crop=2),
    "transposed, uneven": lambda: layer.transposed(noise(20, 12, 7), noise(12), stride=4, crop=1),
}


@pytest.mark.parametrize("name", LAYERS)
def test_packed_weights(name):
    plain = LAYERS[name]()
    ours = packing.pack_layer(plain, conv.CHUNK)
    assert np.array_equal(ours, np.concatenate(packing.packed_numpy(plain, conv.CHUNK)))
    K, N = plain.width * plain.channels, plain.columns
    order = in_order(N, plain.activation, conv.CHUNK)
    for tap, packed in enumerate(ours.reshape(plain.taps, -1)):
        whole = unpacked(packed, K, N)
        for place, column in enumerate(order):
            assert whole[0, place] == (plain.bias[column % len(plain.bias)] if tap == plain.taps // 2 else 0)
            assert np.array_equal(whole[1:, place], plain.matrix[tap][:, column])


def test_a_transposed_layer_stands_as_its_definition():
    """Output g*stride + phase gets input g - (m-1) + i times the weight at (m-1-i)*stride + phase, where there is one."""
    weight = noise(2, 3, 7)
    matrix = layer.transposed(weight, noise(3), stride=4, crop=0).matrix[0].reshape(2, 2, 4, 3)
    for i in range(2):
        for phase in range(4):
            at = (1 - i) * 4 + phase
            assert np.array_equal(matrix[i, :, phase], weight[:, :, at] if at < 7 else np.zeros((2, 3)))


@pytest.mark.parametrize("activation", ["none", "glu"])
def test_a_norm_goes_into_its_layer(activation):
    N, C = 1028, 7
    plain = replace(layer.linear(noise(N, C), noise(N), activation), norm=(noise(N, seed=3), noise(N, seed=4)))
    ours = packing.pack_layer(plain, conv.CHUNK)
    assert np.array_equal(ours, packing.packed_numpy(plain, conv.CHUNK)[0])
    gamma, beta = plain.norm
    truth = np.concatenate([[beta], plain.matrix[0] * gamma, [plain.bias * gamma], [gamma]])
    assert np.array_equal(unpacked(ours, C + 2, N), truth[:, in_order(N, activation, conv.CHUNK)])


@pytest.mark.parametrize("C", [1, 6, 9])
def test_what_statistics_need_of_a_layer(C):
    plain = layer.linear(noise(50, C), noise(50))
    ours, W, b = packing.projection_of(plain), plain.matrix[0].astype(np.float64), plain.bias.astype(np.float64)
    assert np.allclose(ours, layer.project(W, b), rtol=1e-13, atol=1e-13)
    for i in range(C):
        for d in range(C):
            truth = (W[i] @ W[i + d]) * (2 if d else 1) if i + d < C else 0
            assert abs(ours[2 * C + d * C + i] - truth) < 1e-12


@pytest.mark.parametrize("activation", ["none", "glu", "gelu"])
@pytest.mark.parametrize(
    "build",
    [
        lambda a: layer.convolution(noise(64, 32, 3), noise(64), pad=1, activation=a),
        lambda a: layer.convolution(noise(224, 32, 3, 3), noise(224), pad=1, activation=a),
        lambda a: layer.convolution(noise(64, 8, 8), noise(64), stride=4, pad=2, activation=a),
        lambda a: layer.transposed(noise(32, 8, 8), noise(8), stride=4, crop=2),
    ],
)
def test_transformed_weights(build, activation):
    """Any product of transformed weights is the same sum of the layer's weights as by definition."""
    plain = build(activation)
    assert winograd.suits(plain)
    r, depth, N = plain.width // plain.stride, plain.stride * plain.channels, plain.columns
    along, across = np.array(winograd.WEIGHTS[r], float), np.array(winograd.WEIGHTS[3], float) if plain.taps == 3 else np.ones((1, 1))
    ours = winograd.prepare(plain).packed
    assert np.array_equal(ours, packing.winograd_numpy(plain, winograd.COLUMNS, along, across))
    order, weights = in_order(N, plain.activation, winograd.COLUMNS), plain.matrix.astype(np.float64).reshape(plain.taps, r, depth, N)
    for k, packed in enumerate(ours.reshape(4 * len(across), -1)):
        truth = sum(across[k // 4, t] * along[k % 4, q] * weights[t, q] for t in range(plain.taps) for q in range(r))
        whole = unpacked(packed, depth, N)
        assert np.array_equal(whole[1:], truth.astype(np.float32)[:, order])
        assert np.array_equal(whole[0], np.tile(plain.bias, plain.upsample)[order] if k == (5 if plain.taps == 3 else 1) else np.zeros(N))


@pytest.mark.parametrize("activation", ["none", "glu"])
@pytest.mark.parametrize(
    "build",
    [
        lambda a: layer.convolution(noise(224, 8, 8), noise(224), stride=4, pad=2, activation=a),
        lambda a: layer.transposed(noise(32, 8, 8), noise(8), stride=4, crop=2),
        lambda a: layer.convolution(noise(1024, 512, 8), noise(1024), stride=4, pad=2, activation=a),  # as large as in use
    ],
)
def test_two_of_four_matrices(build, activation, monkeypatch):
    """Of large layers the weights themselves are kept, and give the same bits as the four matrices that are made of them."""
    plain = build(activation)
    depth, N = plain.stride * plain.channels, plain.columns
    if not (large := winograd.paired(plain)):
        monkeypatch.setattr(winograd, "LARGE", 1)
    ours = winograd.prepare(plain)
    assert np.array_equal(ours.packed, packing.winograd_numpy(plain, winograd.COLUMNS, np.eye(2), np.ones((1, 1))))
    order, weights = in_order(N, plain.activation, winograd.COLUMNS), plain.matrix.reshape(2, depth, N)
    assert np.array_equal(ours.packed[-N:], np.tile(plain.bias, plain.upsample)[order])
    for packed, truth in zip(ours.packed[:-N].reshape(2, -1), weights, strict=True):
        whole = unpacked(packed, depth, N)
        assert np.array_equal(whole[1:], truth[:, order])
        assert not whole[0].any()

    def run(prepared):
        x = noise(1, 150 if prepared.upsample == 1 else 37, plain.channels)
        rows, length = prepared.extent(x.shape[1], None, None)
        out = np.empty((1, length, prepared.outputs), np.float32)
        winograd.winograd(x, prepared, out, rows)
        return out.tobytes()

    result = run(ours)
    monkeypatch.setattr(winograd, "LARGE", 2**40)
    four = winograd.prepare(plain)
    assert four.packed.size > 1.9 * ours.packed.size
    assert run(four) == result
    assert large == (plain.channels == 512)


def test_scaled():
    x = noise(300, 300)
    truth = (x.astype(np.float64) * 10 * 0.2).astype(np.float32)
    assert np.array_equal(packing.scaled(x, 10, 0.2), truth)
    assert np.array_equal(packing.scaled_numpy(x, 10, 0.2), truth)


def test_every_half_is_widened():
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    with np.errstate(invalid="ignore"):
        truth = halves.astype(np.float32)
    ours = packing.widened(halves)
    nan = np.isnan(truth)
    assert np.array_equal(ours[~nan].view(np.int32), truth[~nan].view(np.int32))  # also the sign of zero
    assert np.isnan(ours[nan]).all()
    assert packing.widened(halves[:6].reshape(2, 3)).shape == (2, 3)
    assert np.array_equal(packing.widened(halves[15360:15400].astype(">f2")), truth[15360:15400])  # as a file may have them
