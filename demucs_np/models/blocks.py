"""The layers of the U-Nets: encoder and decoder layers of both branches, their residual branches, and the split into frequency bands.

Axes: T time, F frequency, C channels. A frequency layer works on (T, F, C) and convolves along F; a time layer works on (1, T, C) and
convolves along T. Upstream: `demucs.hdemucs` (HEncLayer, HDecLayer, MultiWrap) and `demucs.demucs` (DConv).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ..errors import ModelError
from ..kernels.layer import Conv, Norm, convolution, linear, over_time, transposed
from ..operations import Operations
from .bands import decoder_bands, encoder_bands
from .recurrent import BLSTM, LocalState
from .taps import ablated, tap, tracing

Array = np.ndarray
Tensors = Mapping[str, Array]


def scope(tensors: Tensors, prefix: str) -> Tensors:
    """The tensors whose names begin with `prefix.`, without it."""
    return _Scope(tensors, prefix)


class _Scope(Mapping[str, Array]):
    """See `scope`. A file's tensors are made when they are asked for, so it asks for none that it is not asked for."""

    def __init__(self, tensors: Tensors, prefix: str) -> None:
        self._tensors, self._prefix = tensors, prefix + "."

    def __getitem__(self, name: str) -> Array:
        return self._tensors[self._prefix + name]

    def __contains__(self, name: object) -> bool:
        return f"{self._prefix}{name}" in self._tensors

    def __iter__(self) -> Iterator[str]:
        return (name[len(self._prefix) :] for name in self._tensors if name.startswith(self._prefix))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def norm_of(tensors: Tensors, name: str, path: str, groups: int = 1) -> Norm | None:
    """The norm stored under `name`, None if there is none."""
    return Norm(tensors[f"{name}.weight"], tensors[f"{name}.bias"], groups, path) if f"{name}.weight" in tensors else None


@dataclass(frozen=True)
class LayerSpec:
    """What an encoder or decoder layer is, beside its weights."""

    path: str  # upstream
    freq: bool  # convolves along F; else along T
    stride: int
    pad: int  # of the strided convolution; what the transposed one is cropped by
    groups: int  # of its norms
    context: int  # of the second convolution: positions on each side
    dconv_depth: int
    last: bool = False  # the outermost decoder layer: no activation at its end
    empty: bool = False  # a time layer that is only its strided or transposed convolution
    single_row: bool = False  # leaves one row of frequency
    activation: str = "gelu"
    gate: str = "glu"  # of the second convolution
    names: Mapping[str, str] = field(default_factory=dict)  # what a part is called upstream, where it is not by its own name

    def name(self, part: str) -> str:
        """Of conv, norm1, rewrite, norm2, dconv, conv_tr among the layer's tensors."""
        return self.names.get(part, part)

    def where(self, part: str) -> str:
        """The module's path."""
        return f"{self.path}.{self.name(part)}"

    def norm(self, tensors: Tensors, part: str) -> Norm | None:
        """A norm, if the layer has it."""
        return norm_of(tensors, self.name(part), self.where(part), self.groups)

    def rewrite(self, ops: Operations, tensors: Tensors, activation: str) -> Conv | None:
        """The second convolution, if there is one. Around a single row of frequency there is only padding: the kernel's middle row
        does all."""
        name = self.name("rewrite")
        if f"{name}.weight" not in tensors:
            return None
        weight = tensors[f"{name}.weight"]
        if self.single_row:
            middle = weight.shape[2] // 2
            weight = weight[:, :, middle : middle + 1]
        pad = self.context if weight.shape[2] > 1 else 0
        return ops.prepare(convolution(weight, tensors[f"{name}.bias"], pad=pad, activation=activation), self.where("rewrite"))

    def dconv(self, ops: Operations, tensors: Tensors) -> DConv | None:
        """The residual branch, if there is one."""
        residual = scope(tensors, self.name("dconv"))
        return DConv(ops, residual, self.where("dconv"), depth=self.dconv_depth, freq=self.freq) if residual else None


class DConv:
    """Residual branch over time: per depth a dilated convolution to few channels, norm, GELU, a 1x1 convolution back, norm, GLU, scale.

    Before the 1x1 convolution there may be a BLSTM, then a LocalState. Norms take their statistics over (T, C) of each frequency row
    by itself. Upstream: `demucs.demucs.DConv`.
    """

    def __init__(self, ops: Operations, tensors: Tensors, path: str, *, depth: int, freq: bool) -> None:
        self.path, self.freq = path, freq
        self.layers = []
        for d in range(abs(depth)):
            w, at, place = scope(tensors, f"layers.{d}"), f"{path}.layers.{d}", 3
            shrink = ops.prepare(over_time(w["0.weight"], w["0.bias"], 2**d if depth > 0 else 1), f"{at}.0")
            parts: list[BLSTM | LocalState] = []
            if "3.linear.weight" in w:
                parts.append(BLSTM(ops, scope(w, "3"), f"{at}.3", layers=2, window=200, skip=True))
                place += 1
            if f"{place}.proj.weight" in w:
                parts.append(LocalState(ops, scope(w, str(place)), f"{at}.{place}"))
                place += 1
            expand = linear(w[f"{place}.weight"], w[f"{place}.bias"], "glu")
            expand = replace(expand, norm=(w[f"{place + 1}.weight"], w[f"{place + 1}.bias"]))
            norm = Norm(w["1.weight"], w["1.bias"], path=f"{at}.1")
            self.layers.append((shrink, norm, parts, ops.prepare(expand, f"{at}.{place}"), w[f"{place + 3}.scale"]))

    def __call__(self, ops: Operations, x: Array) -> Array:
        """x: [T, F, C] or [1, T, C], consumed."""
        for depth, (shrink, norm, parts, expand, scale) in enumerate(self.layers):
            if ablated(self.path) or ablated(f"{self.path}.layers.{depth}"):
                continue
            h = ops.conv(x if self.freq else x.swapaxes(0, 1), shrink)  # [T, F, C] -> [T, F, C/compress], F = 1 in a time layer
            h = ops.norm_gelu(h, norm)
            for part in parts:
                h = part(ops, h)
            stats = ops.projected_stats(h, expand)  # [F, 2]
            h = h if self.freq else h.swapaxes(0, 1)  # -> [1, T, C/compress]
            x = ops.conv(h, expand, stats=stats, scale=scale, residual=x)  # -> [T, F, C] or [1, T, C]
            ops.free(h, stats)
        return tap(self.path, x, "TFC" if self.freq else "TC")


def normed(ops: Operations, x: Array, norm: Norm, activation: str) -> Array:
    """activation(norm(x)); consumes x."""
    return ops.group_norm(x, norm, activation=activation, spent=True)


class EncoderLayer:
    """Strided convolution, GELU, DConv, and a 1x1 convolution with GLU ("rewrite"); `empty` has the convolution alone."""

    def __init__(self, ops: Operations, tensors: Tensors, spec: LayerSpec) -> None:
        self.spec, self.freq, self.empty = spec, spec.freq, spec.empty
        self.norm1, self.norm2 = spec.norm(tensors, "norm1"), spec.norm(tensors, "norm2")
        name = spec.name("conv")
        fused = "none" if self.norm1 or spec.empty else spec.activation
        conv = convolution(tensors[f"{name}.weight"], tensors[f"{name}.bias"], stride=spec.stride, pad=spec.pad, activation=fused)
        self.kernel_size = conv.width
        self.conv = ops.prepare(conv, spec.where("conv"))
        self.rewrite = spec.rewrite(ops, tensors, "none" if self.norm2 else spec.gate)
        self.dconv = spec.dconv(ops, tensors)

    def __call__(self, ops: Operations, x: Array, inject: Array | None = None) -> Array:
        """x: [T, F, C_in] or [1, T, C_in]; inject: the time branch's output, added before the first norm and GELU."""
        # A time layer's input counts as filled up with zeros to a multiple of the stride.
        rows = None
        if not self.freq:
            rows = -(-x.shape[1] // self.spec.stride) + (2 * self.conv.pad - self.kernel_size) // self.spec.stride + 1
        return self.run(ops, self.conv, x, rows, inject)

    def run(self, ops: Operations, conv: Conv, x: Array, rows: int | None, inject: Array | None = None) -> Array:
        """The layer with `conv` for its convolution, whose padding depends on the band."""
        y = ops.conv(x, conv, rows=rows, before=inject)  # [T, F, C_in] -> [T, F/stride, C]
        if self.empty:
            return y
        if self.norm1:
            y = normed(ops, y, self.norm1, self.spec.activation)
        if self.dconv:
            y = self.dconv(ops, y)
        if not self.rewrite:
            return y
        z = ops.conv(y, self.rewrite, spent=True)  # [T, F, C] -> [T, F, C], or before norm2 and GLU [T, F, 2C]
        return normed(ops, z, self.norm2, self.spec.gate) if self.norm2 else z


class DecoderLayer:
    """3x3 or 3-wide convolution with GLU ("rewrite") of the sum of input and skip, DConv, and the transposed convolution with GELU (not
    the last layer)."""

    def __init__(self, ops: Operations, tensors: Tensors, spec: LayerSpec) -> None:
        self.spec, self.freq, self.empty = spec, spec.freq, spec.empty
        self.activation = "none" if spec.last else spec.activation
        self.norm1, self.norm2 = spec.norm(tensors, "norm1"), spec.norm(tensors, "norm2")
        weight, self.bias = (tensors[f"{spec.name('conv_tr')}.{kind}"] for kind in ("weight", "bias"))
        self.kernel_size = weight.shape[2]
        crop, fused = (0, "none") if self.norm2 else (spec.pad, self.activation)
        self.conv_tr = ops.prepare(transposed(weight, self.bias, stride=spec.stride, crop=crop, activation=fused), spec.where("conv_tr"))
        self.rewrite = spec.rewrite(ops, tensors, "none" if self.norm1 else spec.gate)
        self.dconv = spec.dconv(ops, tensors)

    def before_upsampling(self, ops: Operations, x: Array) -> Array:
        """All but the transposed convolution. Consumes x."""
        if self.rewrite:
            x = ops.conv(x, self.rewrite, spent=True)  # [T, F, C] -> [T, F, C], or before norm1 and GLU [T, F, 2C]
            if self.norm1:
                x = normed(ops, x, self.norm1, self.spec.gate)
        return self.dconv(ops, x) if self.dconv else x

    def upsample(self, ops: Operations, y: Array, length: int, onto: Array | None = None) -> Array:
        """The transposed convolution, its norm, crop to `length` steps of time or rows of frequency, and GELU; added to `onto`,
        which it consumes, in a layer without norm."""
        if self.spec.pad + length > (y.shape[1] - 1) * self.spec.stride + self.kernel_size:  # as upstream, where the skip does not fit
            raise ModelError(f"{self.spec.path} gives fewer than {length} positions: its stride and kernel do not lead back to its input")
        if not self.norm2:
            return ops.conv(y, self.conv_tr, length=length, residual=onto)  # [T, F, C] -> [T, F*stride, C_out]
        full = (y.shape[1] - 1) * self.spec.stride + self.kernel_size
        z = ops.conv(y, self.conv_tr, length=full)  # [T, F, C] -> [T, (F-1)*stride + kernel_size, C_out]
        return ops.group_norm(z, self.norm2, activation=self.activation, crop=self.spec.pad, length=length, spent=True)


class BandedEncoder:
    """An encoder layer of its own for each of several frequency bands. Upstream: `demucs.hdemucs.MultiWrap`."""

    freq = True

    def __init__(self, layers: list[EncoderLayer], ratios: Sequence[float]) -> None:
        self.layers, self.ratios = layers, ratios

    def __call__(self, ops: Operations, x: Array, inject: Array | None = None) -> Array:
        first, results = self.layers[0], []
        for layer, band in zip(self.layers, encoder_bands(x.shape[1], self.ratios, first.kernel_size, first.spec.stride), strict=True):
            part = ops.copy(x[:, band.start : band.limit])
            results.append(layer.run(ops, replace(layer.conv, pad=band.pad), part, band.rows))
            ops.free(part)
        y = ops.join(results)  # [T, F/stride, C]
        ops.free(*results)
        return y


class BandedDecoder:
    """A decoder layer for each frequency band; bands overlap by a stride where they meet. Upstream: `demucs.hdemucs.MultiWrap`."""

    freq = True

    def __init__(self, layers: list[DecoderLayer], ratios: Sequence[float], last: bool) -> None:
        self.layers, self.ratios, self.last = layers, ratios, last

    def before_upsampling(self, ops: Operations, x: Array) -> Array:
        results = []
        for layer, (start, limit) in zip(self.layers, decoder_bands(x.shape[1], self.ratios), strict=True):
            results.append(layer.before_upsampling(ops, ops.copy(x[:, start:limit])))
        y = ops.join(results)  # [T, F, C]
        ops.free(x, *results)
        return y

    def upsample(self, ops: Operations, y: Array, length: int) -> Array:
        kernel_size, stride = self.layers[0].kernel_size, self.layers[0].spec.stride
        results = []
        for layer, (start, limit) in zip(self.layers, decoder_bands(y.shape[1], self.ratios), strict=True):
            part = ops.copy(y[:, start:limit])
            results.append(layer.upsample(ops, part, (limit - start - 1) * stride + kernel_size))  # uncropped
            ops.free(part)
        total = ops.join_bands(results, [layer.bias for layer in self.layers], stride, kernel_size - stride, stride // 2, length)
        ops.free(*results)
        return total if self.last else ops.activate(total, "gelu")


def with_skip(ops: Operations, x: Array | None, skip: Array, path: str) -> Array:
    """x + skip; x None stands for zeros. Consumes both. `path` is the skip's."""
    if x is None:
        return skip
    x = ops.add_table(x.reshape(skip.shape), skip, path=path)  # where the branches part, [1, T, C] -> [T, 1, C]
    ops.free(skip)
    return x


def outwards(ops: Operations, decode: DecoderLayer | BandedDecoder, y: Array, length: int, skips: list[Array]) -> Array | None:
    """What a decoder layer makes of y [T, F, C]: [T, length, C']. Or None: it was added to the last of the skips, the next layer's.

    That is one array less to hold, and to read again; a trace wants to see both.
    """
    if not skips or not isinstance(decode, DecoderLayer) or decode.norm2 or tracing():
        return decode.upsample(ops, y, length)
    shape = y.shape[0], length, decode.conv_tr.outputs
    if math.prod(shape) != skips[-1].size:
        return decode.upsample(ops, y, length)
    skips[-1] = decode.upsample(ops, y, length, skips[-1].reshape(shape)).reshape(skips[-1].shape)
    return None
