"""One convolution three ways, the last one direct and in Winograd's form, checked against each other and timed: see docs/kernels.md."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable

import numba
import numpy as np

from demucs_np.kernels.conv import conv_, prepare
from demucs_np.kernels.gemm import FMA, LANES, ROWS
from demucs_np.kernels.layer import convolution
from demucs_np.operations import operations
from demucs_np.threads import default_threads, use_threads

Array = np.ndarray


def naive(x: Array, weight: Array, bias: Array, stride: int, pad: int) -> Array:
    """x [T, F, C], weight [N, C, K] along F -> [T, F/stride, N], one multiplication at a time."""
    T, F, C = x.shape
    N, _, K = weight.shape
    rows = (F + 2 * pad - K) // stride + 1
    out = np.zeros((T, rows, N), np.float32)
    for t in range(T):
        for f in range(rows):
            for n in range(N):
                total = float(bias[n])
                for k in range(K):
                    at = f * stride + k - pad
                    if 0 <= at < F:  # beyond the edges there is silence
                        for c in range(C):
                            total += float(x[t, at, c]) * float(weight[n, c, k])
                out[t, f, n] = total
    return out


def main() -> None:
    T, F, C, N, K, stride, pad = 336, 512, 48, 96, 8, 4, 2  # encoder.1.conv of the published models
    rng = np.random.default_rng(0)
    x = rng.standard_normal((T, F, C)).astype(np.float32)
    weight, bias = rng.standard_normal((N, C, K)).astype(np.float32) / 20, rng.standard_normal(N).astype(np.float32)
    layer = convolution(weight, bias, stride=stride, pad=pad)
    numpy, numba_ = operations("numpy"), operations("numba")
    twin, packed = numpy.prepare(layer), numba_.prepare(layer)

    direct, result = prepare(layer), np.empty((T, F // stride, N), np.float32)

    def compiled_direct() -> None:
        conv_(x, direct, result, F // stride)

    def compiled() -> Array:
        y = numba_.conv(x, packed)
        numba_.free(y)  # the next call finds its buffer again
        return y

    small = x[:1, : F // 16]
    expected = naive(small, weight, bias, stride, pad)
    for ops, conv in ((numpy, twin), (numba_, packed)):
        np.testing.assert_allclose(ops.conv(small, conv), expected, rtol=1e-4, atol=1e-4)
    compiled_direct()
    for ours in (result, compiled()):
        np.testing.assert_allclose(ours, numpy.conv(x, twin), rtol=1e-4, atol=1e-4)

    cpu = f"{LANES} lanes, {'FMA' if FMA else 'no FMA'}, {ROWS[0]} x 2 accumulators"
    print(f"{time.strftime('%Y-%m-%d')}, {platform.machine()} ({cpu}), Python {platform.python_version()}, ", end="")
    print(f"NumPy {np.__version__}, Numba {numba.__version__}: python docs/one_layer.py\n")
    print("|  | multiply-adds | time | GFLOP/s |\n|---|---|---|---|")
    whole, part = T * (F // stride) * N * C * K, (F // 16 // stride) * N * C * K
    row("naive loops, 1/5376 of the layer", part, lambda: naive(small, weight, bias, stride, pad), 1)
    with use_threads(1):
        row("NumPy twin", whole, lambda: numpy.conv(x, twin), 5)
        row("compiled, direct, 1 thread", whole, compiled_direct, 15)
        row("compiled, Winograd, 1 thread", whole, compiled, 15)
    threads = default_threads()
    with use_threads(threads):
        row(f"compiled, direct, {threads} threads", whole, compiled_direct, 15)
        row(f"compiled, Winograd, {threads} threads", whole, compiled, 15)


def row(name: str, work: int, call: Callable[[], object], repeats: int) -> None:
    """A line of the table, with the shortest of the times."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    best = min(times)
    print(f"| {name} | {work / 1e6:,.1f} M | {best * 1e3:,.1f} ms | {2 * work / best / 1e9:.3g} |")


if __name__ == "__main__":
    main()
