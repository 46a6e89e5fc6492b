"""A convolution as the kernels see it: a matrix and its geometry, from the weights as PyTorch stores them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import ModelError

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

    matrix: np.ndarray  # [taps, width*C, N], or packed for the kernel
    bias: np.ndarray  # [N]
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
    winograd: bool = False  # `matrix` holds the weights that `winograd` prepared
    projection: np.ndarray | None = None  # of `project`, set by the compiled backend's `prepare` where there is a norm
    path: str = ""  # of the module that has the weights, upstream

    @property
    def columns(self) -> int:
        return int(self.bias.shape[0])

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
    def outputs(self) -> int:
        """Channels of the result."""
        return self.columns // self.upsample // (2 if self.activation == "glu" else 1)


def convolution(weight: np.ndarray, bias: np.ndarray, *, stride: int = 1, pad: int = 0, activation: str = "none") -> Conv:
    """From PyTorch's (N, C, K) or (N, C, K_f, K_t): windows along the first kernel axis, taps along the second."""
    if weight.ndim == 3:
        weight = weight[..., None]
    outputs, channels, width, taps = weight.shape
    matrix = weight.transpose(3, 2, 1, 0).reshape(taps, width * channels, outputs)  # [N, C, Kf, Kt] -> [Kt, Kf*C, N]
    return Conv(matrix, bias, channels, width, stride, pad, taps, activation=activation)


def over_time(weight: np.ndarray, bias: np.ndarray, dilation: int) -> Conv:
    """From PyTorch's (N, C, K): K taps along B, windows of one."""
    return Conv(np.ascontiguousarray(weight.transpose(2, 1, 0)), bias, weight.shape[1], taps=weight.shape[2], dilation=dilation)


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
    full = np.zeros((channels, outputs, m, stride), np.float32)
    full.reshape(channels, outputs, m * stride)[..., :kernel_size] = weight
    matrix = full[:, :, ::-1].transpose(2, 0, 3, 1).reshape(1, m * channels, stride * outputs)  # window position i holds input g-m+1+i
    return Conv(matrix, np.tile(bias, stride), channels, m, 1, m - 1, upsample=stride, crop=crop, activation=activation)
