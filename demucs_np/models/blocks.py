"""The layers of the U-Nets: encoder and decoder layers of both branches, their residual branches, and the split into frequency bands.

Axes: T time, F frequency, C channels. A frequency layer works on (T, F, C) and convolves along F; a time layer works on (1, T, C) and
convolves along T. Upstream: `demucs.hdemucs` (HEncLayer, HDecLayer, MultiWrap) and `demucs.demucs` (DConv).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from ..kernels.layer import Conv, convolution, linear, over_time, transposed
from ..operations.numpy_ops import NumpyOperations
from .recurrent import BLSTM, LocalState
from .taps import tap

Array = np.ndarray
Tensors = Mapping[str, Array]


def scope(tensors: Tensors, prefix: str) -> dict[str, Array]:
    """The tensors whose names begin with `prefix.`, without it."""
    return {name[len(prefix) + 1 :]: tensor for name, tensor in tensors.items() if name.startswith(prefix + ".")}


@dataclass(frozen=True)
class GroupNorm:
    """GroupNorm of `groups` over (B, L, C/groups) of an array [B, L, C]."""

    groups: int
    weight: Array  # [C]
    bias: Array  # [C]

    @staticmethod
    def of(tensors: Tensors, name: str, groups: int) -> GroupNorm | None:
        """The norm stored under `name`, None if there is none."""
        return GroupNorm(groups, tensors[f"{name}.weight"], tensors[f"{name}.bias"]) if f"{name}.weight" in tensors else None

    def __call__(self, ops: NumpyOperations, x: Array, activation: str = "none", crop: int = 0, length: int | None = None) -> Array:
        y = ops.group_norm(x, self.groups, self.weight, self.bias, activation=activation, crop=crop, length=length)
        ops.free(x)
        return y


class DConv:
    """Residual branch over time: per depth a dilated convolution to few channels, norm, GELU, a 1x1 convolution back, norm, GLU, scale.

    Before the 1x1 convolution there may be a BLSTM, then a LocalState. Norms take their statistics over (T, C) of each frequency row
    by itself. Upstream: `demucs.demucs.DConv`.
    """

    def __init__(self, ops: NumpyOperations, tensors: Tensors, path: str, *, depth: int, freq: bool) -> None:
        self.ops, self.path, self.freq = ops, path, freq
        self.layers = []
        for d in range(abs(depth)):
            w = scope(tensors, f"layers.{d}")
            shrink = ops.prepare(over_time(w["0.weight"], w["0.bias"], 2**d if depth > 0 else 1))
            parts: list[BLSTM | LocalState] = []
            if "3.linear.weight" in w:
                parts.append(BLSTM(ops, scope(w, "3"), layers=2, window=200, skip=True))
            if f"{3 + len(parts)}.proj.weight" in w:
                parts.append(LocalState(ops, scope(w, f"{3 + len(parts)}")))
            at = 3 + len(parts)
            expand = linear(w[f"{at}.weight"], w[f"{at}.bias"], "glu")
            expand = ops.prepare(replace(expand, norm=(w[f"{at + 1}.weight"], w[f"{at + 1}.bias"])))
            self.layers.append((shrink, (w["1.weight"], w["1.bias"]), parts, expand, w[f"{at + 3}.scale"]))

    def __call__(self, x: Array) -> Array:
        """x: [T, F, C] or [1, T, C], may be changed in place."""
        ops = self.ops
        for shrink, (weight, bias), parts, expand, scale in self.layers:
            h = ops.conv(x if self.freq else x.swapaxes(0, 1), shrink)  # [T, F, C] -> [T, F, C/compress], F = 1 in a time layer
            h = ops.norm_gelu(h, weight, bias)
            for part in parts:
                h = part(h)
            stats = ops.projected_stats(h, expand)  # [F, 2]
            h = h if self.freq else h.swapaxes(0, 1)  # -> [1, T, C/compress]
            x = ops.conv(h, expand, stats=stats, scale=scale, residual=x)  # -> [T, F, C] or [1, T, C]
            ops.free(h, stats)
        return tap(self.path, x, "TFC" if self.freq else "TC")


def rewrite(tensors: Tensors, context: int, activation: str, single_row: bool) -> Conv:
    """A layer's second convolution. Around a single row of frequency there is only padding: the kernel's middle row does all."""
    weight = tensors["rewrite.weight"]
    if single_row:
        weight = weight[:, :, [weight.shape[2] // 2]]
    return convolution(weight, tensors["rewrite.bias"], pad=context if weight.shape[2] > 1 else 0, activation=activation)


class EncoderLayer:
    """Strided convolution, GELU, DConv, and a 1x1 convolution with GLU ("rewrite"); `empty` has the convolution alone."""

    def __init__(
        self,
        ops: NumpyOperations,
        tensors: Tensors,
        path: str,
        *,
        freq: bool,
        stride: int,
        pad: int,
        groups: int,
        context: int,
        dconv_depth: int,
        empty: bool = False,
        single_row: bool = False,
        activation: str = "gelu",
        gate: str = "glu",
        dconv: str = "dconv",
    ) -> None:
        self.ops, self.freq, self.stride, self.empty = ops, freq, stride, empty
        self.activation, self.gate = activation, gate
        self.norm1, self.norm2 = GroupNorm.of(tensors, "norm1", groups), GroupNorm.of(tensors, "norm2", groups)
        fused = "none" if self.norm1 or self.empty else activation
        self.conv = convolution(tensors["conv.weight"], tensors["conv.bias"], stride=stride, pad=pad, activation=fused)
        self.kernel_size = self.conv.width
        self.conv = ops.prepare(self.conv)
        self.rewrite: Conv | None = None
        if "rewrite.weight" in tensors:
            self.rewrite = ops.prepare(rewrite(tensors, context, "none" if self.norm2 else gate, single_row))
        residual = scope(tensors, dconv)
        self.dconv = DConv(ops, residual, f"{path}.{dconv}", depth=dconv_depth, freq=freq) if residual else None

    def __call__(self, x: Array, inject: Array | None = None) -> Array:
        """x: [T, F, C_in] or [1, T, C_in]; inject: the time branch's output, added before the first norm and GELU."""
        # A time layer's input counts as filled up with zeros to a multiple of the stride.
        rows = None if self.freq else -(-x.shape[1] // self.stride) + (2 * self.conv.pad - self.kernel_size) // self.stride + 1
        return self.run(self.conv, x, rows, inject)

    def run(self, conv: Conv, x: Array, rows: int | None, inject: Array | None = None) -> Array:
        """The layer with `conv` for its convolution, whose padding depends on the band. Frees x only if it is a buffer of the engine."""
        ops = self.ops
        y = ops.conv(x, conv, rows=rows, before=inject)  # [T, F, C_in] -> [T, F/stride, C]
        if self.empty:
            return y
        if self.norm1:
            y = self.norm1(ops, y, self.activation)
        if self.dconv:
            y = self.dconv(y)
        if not self.rewrite:
            return y
        z = ops.conv(y, self.rewrite)  # [T, F, C] -> [T, F, C], or before norm2 and GLU [T, F, 2C]
        ops.free(y)
        return self.norm2(ops, z, self.gate) if self.norm2 else z


class DecoderLayer:
    """Skip added, 3x3 or 3-wide convolution with GLU ("rewrite"), DConv, and the transposed convolution with GELU (not the last layer)."""

    def __init__(
        self,
        ops: NumpyOperations,
        tensors: Tensors,
        path: str,
        *,
        freq: bool,
        stride: int,
        pad: int,
        groups: int,
        context: int,
        dconv_depth: int,
        last: bool,
        empty: bool = False,
        single_row: bool = False,
        activation: str = "gelu",
        gate: str = "glu",
        dconv: str = "dconv",
    ) -> None:
        self.ops, self.freq, self.stride, self.pad, self.empty = ops, freq, stride, pad, empty
        self.activation, self.gate = "none" if last else activation, gate
        self.norm1, self.norm2 = GroupNorm.of(tensors, "norm1", groups), GroupNorm.of(tensors, "norm2", groups)
        self.kernel_size = tensors["conv_tr.weight"].shape[2]
        self.bias = tensors["conv_tr.bias"]
        self.conv_tr = ops.prepare(
            transposed(
                tensors["conv_tr.weight"],
                tensors["conv_tr.bias"],
                stride=stride,
                crop=0 if self.norm2 else pad,
                activation="none" if self.norm2 else self.activation,
            )
        )
        self.rewrite: Conv | None = None
        if "rewrite.weight" in tensors:
            self.rewrite = ops.prepare(rewrite(tensors, context, "none" if self.norm1 else gate, single_row))
        residual = scope(tensors, dconv)
        self.dconv = DConv(ops, residual, f"{path}.{dconv}", depth=dconv_depth, freq=freq) if residual else None

    def before_upsampling(self, x: Array | None, skip: Array | None) -> Array:
        """All but the transposed convolution. x None stands for zeros. Frees skip, and x unless it is returned."""
        ops = self.ops
        if x is None:
            x, skip = skip, None
        assert x is not None
        if self.rewrite:
            y = ops.conv(x, self.rewrite, skip=skip)  # [T, F, C] -> [T, F, C], or before norm1 and GLU [T, F, 2C]
            ops.free(x, skip)
            if self.norm1:
                y = self.norm1(ops, y, self.gate)
        else:
            y = x
            if skip is not None:
                y = ops.add_table(x, skip)
                ops.free(skip)
        if self.dconv:
            y = self.dconv(y)
        return y

    def upsample(self, y: Array, length: int) -> Array:
        """The transposed convolution, its norm, crop to `length` steps of time or rows of frequency, and GELU."""
        full = (y.shape[1] - 1) * self.stride + self.kernel_size
        if not self.norm2:
            return self.ops.conv(y, self.conv_tr, length=length)  # [T, F, C] -> [T, F*stride, C_out]
        z = self.ops.conv(y, self.conv_tr, length=full)  # [T, F, C] -> [T, (F-1)*stride + kernel_size, C_out]
        return self.norm2(self.ops, z, self.activation, crop=self.pad, length=length)


class BandedEncoder:
    """An encoder layer of its own for each of several frequency bands. Upstream: `demucs.hdemucs.MultiWrap`."""

    freq = True

    def __init__(self, layers: list[EncoderLayer], ratios: tuple[float, ...]) -> None:
        self.layers, self.ratios = layers, (*ratios, 1)

    def __call__(self, x: Array, inject: Array | None = None) -> Array:
        F, start, bands = x.shape[1], 0, []
        for ratio, layer in zip(self.ratios, self.layers, strict=True):
            kernel_size, stride, pad = layer.kernel_size, layer.stride, layer.kernel_size // 4
            left, right = pad if start == 0 else 0, pad if ratio == 1 else 0
            limit = F
            if ratio != 1:
                size = round(F * ratio) - start + left
                frames = round((size - kernel_size) / stride + 1)
                limit = start + (frames - 1) * stride + kernel_size - left
            rows = (limit - start + left + right - kernel_size) // stride + 1
            bands.append(layer.run(replace(layer.conv, pad=left), np.ascontiguousarray(x[:, start:limit]), rows))
            start = limit - kernel_size + stride
        y = np.concatenate(bands, axis=1)  # [T, F/stride, C]
        layer.ops.free(*bands)
        return y


class BandedDecoder:
    """A decoder layer for each frequency band; bands overlap by a stride where they meet. Upstream: `demucs.hdemucs.MultiWrap`."""

    freq = True

    def __init__(self, layers: list[DecoderLayer], ratios: tuple[float, ...], last: bool) -> None:
        self.layers, self.ratios, self.last = layers, (*ratios, 1), last

    def before_upsampling(self, x: Array | None, skip: Array) -> Array:
        F, start, bands = skip.shape[1], 0, []
        for ratio, layer in zip(self.ratios, self.layers, strict=True):
            limit = F if ratio == 1 else round(F * ratio)
            part = None if x is None else np.ascontiguousarray(x[:, start:limit])
            bands.append(layer.before_upsampling(part, np.ascontiguousarray(skip[:, start:limit])))
            start = limit
        y = np.concatenate(bands, axis=1)  # [T, F, C]
        layer.ops.free(x, skip, *bands)
        return y

    def upsample(self, y: Array, length: int) -> Array:
        F, start, first = y.shape[1], 0, self.layers[0]
        stride, crop = first.stride, first.stride // 2
        total = np.zeros((y.shape[0], (F - 1) * stride + first.kernel_size, first.bias.size), np.float32)
        for ratio, layer in zip(self.ratios, self.layers, strict=True):
            limit = F if ratio == 1 else round(F * ratio)
            rows = (limit - start - 1) * stride + first.kernel_size
            z = layer.upsample(np.ascontiguousarray(y[:, start:limit]), rows)  # uncropped
            at = start * stride
            total[:, at : at + rows] += z
            if start:
                total[:, at : at + stride] -= layer.bias  # it counts twice where the bands meet
            layer.ops.free(z)
            start = limit
        total = np.ascontiguousarray(total[:, crop : crop + length])
        return total if self.last else first.ops.activate(total, "gelu")
