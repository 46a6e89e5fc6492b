"""A convolution as the kernels see it: a matrix and its geometry, from the weights as PyTorch stores them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import ModelError
from . import signal
from .tiles import kept

EPS = 1e-5  # of every norm in the models


def project(matrix: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """What the mean and variance of z = y·W + b over all its N columns need to know of W and b, float64 [2C + C*C + 2].

    Σz = Σy·w + n Σb and Σz² = ⟨WW', Σyy'⟩ + 2 Wb·Σy + n Σb²: z itself, wide, need not be stored for its statistics. Here are
    w, the sums of W's rows [C]; Wb [C]; (W W')[i, i + d] at d, i, twice for d > 0, zero where there is none [C, C]; Σb; Σb².
    """
    W, b = matrix.astype(np.float64), bias.astype(np.float64)
    products = W @ W.T
    by_distance = [np.pad(np.diagonal(products, d), (0, d)) * (2 if d else 1) for d in range(len(W))]
    return np.concatenate([W.sum(axis=1), W @ b, *by_distance, [b.sum(), b @ b]])


@dataclass(frozen=True)
class Norm:
    """LayerNorm over C, or GroupNorm of `groups` over all of an array but its C channels, C/groups of which go together."""

    weight: np.ndarray  # [C]
    bias: np.ndarray  # [C]
    groups: int = 1
    path: str = ""  # of the module, upstream


@dataclass(frozen=True)
class Conv:
    """Weights of one layer as a matrix product: row (b, l) of the result is the sum over taps of window · matrix, plus bias.

    The window of tap t starts at (b + (t - taps//2)*dilation, l*stride - pad) and spans `width` positions; what lies outside is zero.
    A transposed convolution is the same product with `upsample` output positions in each row and `crop` of them dropped at the left.
    """

    weights: np.ndarray  # [taps, width, C, upsample, N/upsample], a view of what is stored; empty when packed
    bias: np.ndarray  # [N/upsample]
    channels: int  # C of the input
    width: int = 1
    stride: int = 1
    pad: int = 0
    taps: int = 1
    dilation: int = 1
    upsample: int = 1
    crop: int = 0
    activation: str = "none"
    norm: tuple[np.ndarray, np.ndarray] | None = None  # weight and bias, each [N], of a norm before the activation
    packed: np.ndarray | None = None  # the matrix as the kernel reads it, set by the compiled backend's `prepare`
    winograd: bool = False  # `packed` holds what `winograd` prepared
    projection: np.ndarray | None = None  # of `project`, set by the compiled backend's `prepare` where there is a norm
    path: str = ""  # of the module that has the weights, upstream

    @property
    def matrix(self) -> np.ndarray:
        """[taps, width*C, N]; a view only where the weights lie so."""
        return self.weights.reshape(self.taps, self.width * self.channels, self.columns)

    @property
    def columns(self) -> int:
        """N, the matrix's."""
        return int(self.bias.shape[0]) * self.upsample

    def extent(self, length_in: int, rows: int | None, length: int | None) -> tuple[int, int]:
        """Windows along an input of `length_in` positions, and positions of the result, where they are not given.

        Raises ValueError for a result longer than the windows give, ModelError where there is not one window.
        """
        if rows is None:
            rows = length_in + self.width - 1 if self.upsample > 1 else (length_in + 2 * self.pad - self.width) // self.stride + 1
        longest = rows * self.upsample - self.crop
        if length is not None and length > longest:
            raise ValueError(f"{length} positions asked of {longest}")
        length = longest if length is None else length
        if rows < 1 or length < 1:  # kernels check nothing
            raise ModelError(f"a layer is given {length_in} of the {self.width} positions that its kernel spans: the input is too short")
        return rows, length

    @property
    def pointwise(self) -> bool:
        """Whether a position of the result depends on that of the input alone, and is as many numbers."""
        return self.width == self.stride == self.taps == self.upsample == 1 and self.outputs == self.channels

    @property
    def outputs(self) -> int:
        """Channels of the result."""
        return self.columns // self.upsample // (2 if self.activation == "glu" else 1)


def convolution(weight: np.ndarray, bias: np.ndarray, *, stride: int = 1, pad: int = 0, activation: str = "none") -> Conv:
    """From PyTorch's (N, C, K) or (N, C, K_f, K_t): windows along the first kernel axis, taps along the second."""
    if weight.ndim == 3:
        weight = weight[..., None]
    _, channels, width, taps = weight.shape
    weights = weight.transpose(3, 2, 1, 0)[:, :, :, None]  # [N, C, Kf, Kt] -> [Kt, Kf, C, 1, N]
    return Conv(weights, bias, channels, width, stride, pad, taps, activation=activation)


def over_time(weight: np.ndarray, bias: np.ndarray, dilation: int) -> Conv:
    """From PyTorch's (N, C, K): K taps along B, windows of one."""
    weights = weight.transpose(2, 1, 0)[:, None, :, None]  # [N, C, K] -> [K, 1, C, 1, N]
    return Conv(weights, bias, weight.shape[1], taps=weight.shape[2], dilation=dilation)


def linear(weight: np.ndarray, bias: np.ndarray, activation: str = "none") -> Conv:
    """From PyTorch's (N, C) or (N, C, 1)."""
    return convolution(weight.reshape(*weight.shape[:2], 1), bias, activation=activation)


def transposed(weight: np.ndarray, bias: np.ndarray, *, stride: int, crop: int, activation: str = "none") -> Conv:
    """From PyTorch's (C, N, K), or (C, N, K, 1), of a transposed convolution.

    With m = ceil(K/stride), output positions g*stride ... + stride-1 get inputs g-m+1 ... g: a window of m inputs times a matrix of
    stride*N columns. No overlap-add, and in a channels-last layout a row of the product is a row of the output.
    """
    weight = weight.reshape(*weight.shape[:3])
    channels, outputs, kernel_size = weight.shape
    m = -(-kernel_size // stride)
    if m * stride > kernel_size:
        filled = kept(channels * outputs * m * stride).reshape(channels * outputs, -1)
        signal.pad(weight.reshape(channels * outputs, kernel_size), 0, m * stride - kernel_size, filled)
        weight = filled
    steps = weight.reshape(channels, outputs, m, stride)[:, :, ::-1]  # window position i holds input g-m+1+i
    weights = steps.transpose(2, 0, 3, 1)[None]  # [C, N, m, stride] -> [1, m, C, stride, N]
    return Conv(weights, bias, channels, m, 1, m - 1, upsample=stride, crop=crop, activation=activation)
