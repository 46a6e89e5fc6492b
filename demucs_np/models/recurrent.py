"""The parts of a residual branch that look far along time: BLSTM and LocalState.

Axes: T time, F frequency, C channels; rows of F are independent. Upstream: `demucs.demucs` (BLSTM, LocalState).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..kernels.arena import apart
from ..kernels.layer import linear
from ..operations import Operations
from .taps import ablated, silenced

Array = np.ndarray
Tensors = Mapping[str, Array]

HEADS, DECAYS = 4, 4  # of LocalState


class BLSTM:
    """Bidirectional LSTM layers and a linear layer back to C channels.

    With `window`, longer inputs are cut into windows of that many steps, half a window apart, and each step is taken from the
    window in whose middle it lies. With `skip`, the input is added.
    """

    def __init__(self, ops: Operations, tensors: Tensors, path: str, layers: int, *, window: int | None = None, skip: bool = False) -> None:
        self.path, self.window, self.skip = path, window, skip
        self.layers = []
        for layer in range(layers):
            names = [f"lstm.{{}}_l{layer}{direction}" for direction in ("", "_reverse")]
            weight = _joined([tensors[name.format("weight_ih")] for name in names])  # [8C, C_in]
            bias = np.concatenate([tensors[name.format("bias_ih")] + tensors[name.format("bias_hh")] for name in names])
            recurrent = _joined([tensors[name.format("weight_hh")].T[None] for name in names])  # [2, C, 4C]
            self.layers.append((ops.prepare(linear(weight, bias), f"{path}.lstm.gates"), ops.prepare_recurrent(recurrent)))
            del weight, recurrent  # before the next ones are read
        self.linear = ops.prepare(linear(tensors["linear.weight"], tensors["linear.bias"]), f"{path}.linear")

    def __call__(self, ops: Operations, x: Array) -> Array:
        """x: [T, F, C] -> [T, F, C]; with `skip`, x is consumed."""
        if self.skip and ablated(self.path):
            return x
        T, F, C = x.shape
        steps, stride, windows = T, 0, 1
        y = x
        if self.window is not None and self.window < T:
            steps, stride = self.window, self.window // 2
            windows = -(-T // stride)
            y = ops.pad(x.reshape(1, -1), 0, (stride * (windows + 1) - T) * F * C).reshape(-1, F, C)  # zeros behind the last step
        # A sequence is a row of F in a window. In the first layer, windows that overlap share their projected inputs.
        first, step = (np.arange(windows)[:, None] * stride * F + np.arange(F)).reshape(-1), F
        for project, recurrent in self.layers:
            gates = ops.conv(y.reshape(1, -1, y.shape[2]), project)[0]  # -> [T*F, 8C], then [steps*windows*F, 8C]
            if y is not x:
                ops.free(y)
            y = ops.lstm(gates, recurrent, first, step, steps)  # -> [steps, windows*F, 2C]
            ops.free(gates)
            first, step = np.arange(windows * F), windows * F
        if windows > 1:
            joined = ops.join_windows(y, windows, stride, T)  # [T, F, 2C]
            ops.free(y)
            y = joined
        out = ops.conv(y, self.linear, residual=x if self.skip else None)  # -> [T, F, C]
        ops.free(y)
        return out if self.skip else silenced(self.path, out)


def _joined(parts: list[Array]) -> Array:
    """Arrays one after the other along the first axis, for a moment."""
    return np.concatenate(parts, out=apart((sum(map(len, parts)), *parts[0].shape[1:])))


class LocalState:
    """Attention along time that fades with distance, added to its input."""

    def __init__(self, ops: Operations, tensors: Tensors, path: str) -> None:
        self.path, parts = path, ("query", "key", "content", "query_decay")
        weight = np.concatenate([tensors[f"{part}.weight"] for part in parts])
        self.project = ops.prepare(linear(weight, np.concatenate([tensors[f"{part}.bias"] for part in parts])), f"{path}.project")
        self.back = ops.prepare(linear(tensors["proj.weight"], tensors["proj.bias"]), f"{path}.proj")

    def __call__(self, ops: Operations, x: Array) -> Array:
        """x: [T, F, C], consumed -> [T, F, C]."""
        if ablated(self.path):
            return x
        projected = ops.conv(x, self.project)  # [T, F, C] -> [T, F, 3C + HEADS*DECAYS]
        y = silenced(self.path, ops.local_attention(projected, HEADS, DECAYS), HEADS)  # -> [T, F, C]
        ops.free(projected)
        x = ops.conv(y, self.back, residual=x)
        ops.free(y)
        return x
