"""What the tests of the kernels share."""

import numpy as np
from hypothesis import settings

from demucs_np.kernels._jit import DISABLED
from demucs_np.threads import use_threads

BACKENDS = ["numpy", "numba"]
UNIT = 2.0**-24  # the largest relative error of rounding to float32


def sized(usual, tiny):
    """`usual`, or `tiny` where kernels run as Python, some ten microseconds per number."""
    return tiny if DISABLED else usual


def varied(examples):
    """Settings of a hypothesis test: the same examples in every run, and no time limit, for the first one compiles."""
    return settings(max_examples=sized(examples, max(3, examples // 10)), deadline=None, derandomize=True, database=None)


def noise(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def assert_within(ours, truth, limit):
    """float32, C-contiguous, of the shape of `truth`, and no further from it than `limit`: a number or an array."""
    assert ours.dtype == np.float32
    assert ours.flags.c_contiguous
    assert ours.shape == truth.shape
    limit = np.broadcast_to(limit, truth.shape)
    excess = np.abs(ours - truth) - limit
    worst = np.unravel_index(np.argmax(excess), truth.shape)
    assert np.all(excess <= 0), f"{np.sum(~(excess <= 0))} numbers; at {worst} {ours[worst]} for {truth[worst]}, allowed {limit[worst]:.3g}"


def assert_same_bits(run):
    """`run()` gives the same bits with 1, 2 and 4 threads, and once more with 1."""
    results = []
    for threads in (1, 2, 4, 1):
        with use_threads(threads):
            results.append(np.array(run()))
    assert np.all(np.isfinite(results[0]))
    for other in results[1:]:
        assert results[0].tobytes() == other.tobytes()
