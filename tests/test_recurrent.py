"""BLSTM's windows: which steps of which window come out."""

import numpy as np
import pytest

from demucs_np.models.recurrent import BLSTM, LocalState
from demucs_np.operations import operations

C = 6


def blstm_tensors(layers, seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"linear.weight": (C, 2 * C), "linear.bias": (C,)}
    for layer in range(layers):
        for direction in ("", "_reverse"):
            shapes |= {
                f"lstm.weight_ih_l{layer}{direction}": (4 * C, 2 * C if layer else C),
                f"lstm.weight_hh_l{layer}{direction}": (4 * C, C),
            }
            shapes |= {f"lstm.bias_ih_l{layer}{direction}": (4 * C,), f"lstm.bias_hh_l{layer}{direction}": (4 * C,)}
    return {name: (0.5 * rng.standard_normal(shape)).astype(np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize("backend", ["numba", "numpy"])
@pytest.mark.parametrize("T", [1, 7, 8, 9, 12, 13, 16, 17, 30])
@pytest.mark.parametrize("skip", [True, False])
def test_windows_are_joined_in_their_middles(backend, T, skip):
    ops, tensors, width = operations(backend), blstm_tensors(2), 8
    x = np.random.default_rng(1).standard_normal((T, 3, C)).astype(np.float32)
    plain, windowed = BLSTM(ops, tensors, "", 2), BLSTM(ops, tensors, "", 2, window=width, skip=skip)
    if width >= T:
        expected = plain(ops, ops.copy(x))
    else:
        count = -(-T // (width // 2))
        padded = np.concatenate([x, np.zeros((width, 3, C), np.float32)])
        frames = [plain(ops, ops.copy(padded[k * width // 2 : k * width // 2 + width])).copy() for k in range(count)]
        quarter = width // 4
        parts = [frames[0][:-quarter], *(frame[quarter:-quarter] for frame in frames[1:-1]), frames[-1][quarter:]]
        expected = np.concatenate(parts)[:T]
    np.testing.assert_allclose(windowed(ops, ops.copy(x)), expected + x if skip else expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["blstm", "local state"])
def test_rows_of_frequency_are_independent(kind):
    x = np.random.default_rng(2).standard_normal((21, 4, 8 if kind == "local state" else C)).astype(np.float32)
    ops = operations("numba")
    if kind == "blstm":
        part = BLSTM(ops, blstm_tensors(2), "", 2, window=8, skip=True)
    else:
        rng = np.random.default_rng(3)
        names = {"query": 8, "key": 8, "content": 8, "query_decay": 16, "proj": 8}
        shapes = {f"{name}.weight": (n, 8, 1) for name, n in names.items()} | {f"{name}.bias": (n,) for name, n in names.items()}
        part = LocalState(ops, {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}, "")
    together = part(ops, ops.copy(x)).copy()
    assert np.array_equal(together[:, 2:3], part(ops, ops.copy(x[:, 2:3])))
