"""The cross-domain transformer between encoder and decoder: self- and cross-attention layers in turn, for both branches at once.

Axes: N tokens (time, or time and frequency: token t*F + f), C channels. Upstream: `demucs.transformer`.
"""

from __future__ import annotations

import math

import numpy as np

from ..errors import UsageError
from ..kernels.layer import Norm, linear
from ..kernels.tables import table
from ..operations import Operations
from .blocks import Array, Tensors, norm_of, scope
from .config import HTDemucsConfig
from .taps import ablated, asked, silenced, tap


@table
def positions_2d(T: int, F: int, C: int, max_period: float, weight: float) -> Array:
    """Sines and cosines of time in the first half of the channels, of frequency in the second -> [T*F, C]."""
    half = C // 2
    rate = np.exp(np.arange(0.0, half, 2) * -(math.log(max_period) / half))  # [C/4]
    table = np.zeros((T, F, C))
    time, frequency = np.arange(T)[:, None] * rate, np.arange(F)[:, None] * rate
    table[:, :, 0:half:2], table[:, :, 1:half:2] = np.sin(time)[:, None], np.cos(time)[:, None]
    table[:, :, half::2], table[:, :, half + 1 :: 2] = np.sin(frequency), np.cos(frequency)
    return (weight * table).reshape(T * F, C).astype(np.float32)


@table
def positions_1d(T: int, C: int, max_period: float, centered: bool, weight: float) -> Array:
    """Cosines, then sines, of time; `centered` counts it from the middle ("cape" in evaluation) -> [T, C]."""
    half = C // 2
    time = np.arange(T) - (T - 1) / 2 if centered else np.arange(float(T))
    with np.errstate(invalid="ignore", divide="ignore"):  # two channels divide by half - 1 = 0, as upstream does
        phase = time[:, None] / max_period ** (np.arange(half) / (half - 1) if half > 1 else np.full(half, np.nan))
    return (weight * np.concatenate([np.cos(phase), np.sin(phase)], axis=1)).astype(np.float32)


def normed(ops: Operations, x: Array, norm: Norm | None) -> Array:
    """LayerNorm of each token of x [1, N, C], or GroupNorm over all tokens where the norm has groups."""
    assert norm is not None
    return ops.group_norm(x, norm) if norm.groups else ops.layer_norm(x, norm)


class TransformerLayer:
    """Attention and feed-forward, each with norm, scale and residual. With `cross`, keys and values come from the other branch.

    Upstream: MyTransformerEncoderLayer and CrossTransformerEncoderLayer.
    """

    def __init__(self, ops: Operations, tensors: Tensors, path: str, config: HTDemucsConfig, *, cross: bool) -> None:
        self.norm_first, self.heads = config.t_norm_first, config.t_heads
        name = "cross_attn" if cross else "self_attn"
        self.path, attention = f"{path}.{name}", scope(tensors, name)
        weight, bias = attention["in_proj_weight"], attention["in_proj_bias"]
        C = weight.shape[1]
        if cross:
            self.query = ops.prepare(linear(weight[:C], bias[:C]), f"{self.path}.query")
            self.key_value = ops.prepare(linear(weight[C:], bias[C:]), f"{self.path}.key_value")
        else:
            self.query_key_value = ops.prepare(linear(weight, bias), f"{self.path}.query_key_value")
        self.project = ops.prepare(linear(attention["out_proj.weight"], attention["out_proj.bias"]), f"{self.path}.out_proj")
        activation = "gelu" if config.t_gelu else "relu"
        self.widen = ops.prepare(linear(tensors["linear1.weight"], tensors["linear1.bias"], activation), f"{path}.linear1")
        self.narrow = ops.prepare(linear(tensors["linear2.weight"], tensors["linear2.bias"]), f"{path}.linear2")
        groups = int(config.t_group_norm)
        self.norm1, self.norm2, norm3 = (norm_of(tensors, f"norm{n}", f"{path}.norm{n}", groups) for n in (1, 2, 3))
        # The norm before the feed-forward: with cross-attention, norm2 is for the other branch's tokens.
        self.norm3 = norm3 if cross else self.norm2
        self.norm_out = norm_of(tensors, "norm_out", f"{path}.norm_out", int(config.t_norm_out))
        self.scale1, self.scale2 = tensors.get("gamma_1.scale"), tensors.get("gamma_2.scale")

    def __call__(self, ops: Operations, x: Array, other: Array | None = None) -> Array:
        """x: [1, N, C], consumed; other: [1, S, C] of the other branch, for cross-attention."""
        if self.norm_first:
            y = normed(ops, x, self.norm1)
            context = None if other is None else normed(ops, other, self.norm2)
            x = self.attend(ops, x, y, context)
            ops.free(y, context)
            y = normed(ops, x, self.norm3)
            x = self.widened(ops, x, y)
            ops.free(y)
            return replaced(ops, normed(ops, x, self.norm_out), x) if self.norm_out else x
        y = self.attend(ops, ops.copy(x), x, other)
        x = replaced(ops, normed(ops, y, self.norm1), x, y)
        y = self.widened(ops, ops.copy(x), x)
        return replaced(ops, normed(ops, y, self.norm2), x, y)

    def attend(self, ops: Operations, x: Array, y: Array, context: Array | None) -> Array:
        """x + scale1 * attention from the tokens y to `context`, or to y itself. Consumes x."""
        C = y.shape[2]
        if context is None:
            qkv = ops.conv(y, self.query_key_value)  # [1, N, C] -> [1, N, 3C]
            q, k, v = qkv[0, :, :C], qkv[0, :, C : 2 * C], qkv[0, :, 2 * C :]
            projections = [qkv]
        else:
            queries, kv = ops.conv(y, self.query), ops.conv(context, self.key_value)  # [1, N, C], [1, S, 2C]
            q, k, v = queries[0], kv[0, :, :C], kv[0, :, C:]
            projections = [queries, kv]
        z = silenced(self.path, ops.attention(q, k, v, self.heads), self.heads)  # [N, C]
        if asked(f"{self.path}.weights"):
            tap(f"{self.path}.weights", attention_weights(q, k, self.heads), "CT", extra=True)
        ops.free(*projections)
        tap(f"{self.path}.heads", z.reshape(len(z), self.heads, -1), "NHC", extra=True)
        if not ablated(self.path):
            x = ops.conv(z[None], self.project, scale=self.scale1, residual=x)  # [1, N, C]
        ops.free(z)
        return x

    def widened(self, ops: Operations, x: Array, y: Array) -> Array:
        """x + scale2 * the feed-forward of the tokens y. Consumes x."""
        if ablated(self.narrow.path):
            return x
        return ops.feed_forward(x, y, self.widen, self.narrow, self.scale2)  # [1, N, C] -> [1, N, 4C] -> [1, N, C]


def replaced(ops: Operations, result: Array, *used: Array) -> Array:
    """`result`; what it was made of is freed."""
    ops.free(*used)
    return result


def attention_weights(q: Array, k: Array, heads: int) -> Array:
    """softmax(q_h k_h' / sqrt(C/heads)) of each head: q [N, C], k [S, C] -> [heads, N, S]. For traces: `ops.attention` never stores it."""
    qh, kh = (a.reshape(len(a), heads, -1).transpose(1, 0, 2) for a in (q, k))  # [N, C] -> [heads, N, C/heads]
    scores: Array = np.matmul(qh, kh.transpose(0, 2, 1))
    scores *= np.float32(1 / math.sqrt(qh.shape[2]))
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)  # in place: of a segment they are hundreds of megabytes
    scores /= scores.sum(axis=-1, keepdims=True)
    return scores


class CrossTransformer:
    """Both branches' layers. Upstream: `crosstransformer`, CrossTransformerEncoder."""

    def __init__(self, ops: Operations, tensors: Tensors, config: HTDemucsConfig) -> None:
        self.config = config
        groups = 0 if config.t_norm_in else int(config.t_norm_in_group)
        self.norm_in, self.norm_in_t = (norm_of(tensors, name, f"crosstransformer.{name}", groups) for name in ("norm_in", "norm_in_t"))
        self.layers, self.layers_t = (
            [
                TransformerLayer(ops, scope(tensors, f"{branch}.{i}"), f"crosstransformer.{branch}.{i}", config, cross=config.is_cross(i))
                for i in range(config.t_layers)
            ]
            for branch in ("layers", "layers_t")
        )
        self.embedding = tensors.get("position_embeddings.embedding.weight")

    def __call__(self, ops: Operations, x: Array, xt: Array) -> tuple[Array, Array]:
        """x: [T, F, C], xt: [1, T', C], consumed -> the same shapes."""
        config, (T, F, C) = self.config, x.shape
        weight = float(config.t_weight_pos_embed)
        tokens = x.reshape(1, T * F, C)  # already in the order t*F + f
        x = self.enter(ops, tokens, "norm_in", self.norm_in, positions_2d(T, F, C, float(config.t_max_period), weight))
        xt = self.enter(ops, xt, "norm_in_t", self.norm_in_t, self.positions_t(xt.shape[1], C, weight))
        for index, (layer, layer_t) in enumerate(zip(self.layers, self.layers_t, strict=True)):
            if config.is_cross(index):
                before = ops.copy(x)  # the time branch attends to the frequency branch as it was
                x = layer(ops, x, xt)
                xt = layer_t(ops, xt, before)
                ops.free(before)
            else:
                x, xt = layer(ops, x), layer_t(ops, xt)
            x = tap(f"crosstransformer.layers.{index}", x[0], "NC")[None]
            xt = tap(f"crosstransformer.layers_t.{index}", xt[0], "NC")[None]
        return x.reshape(T, F, C), xt

    def enter(self, ops: Operations, x: Array, name: str, norm: Norm | None, positions: Array) -> Array:
        if norm:
            x = replaced(ops, normed(ops, x, norm), x)
            x = tap(f"crosstransformer.{name}", x[0], "NC")[None]
        return ops.add_table(x, positions, path="crosstransformer" + (".position_embeddings" if name == "norm_in_t" else ""))

    def positions_t(self, T: int, C: int, weight: float) -> Array:
        if self.config.t_emb == "scaled":
            if self.embedding is None or len(self.embedding) < T:
                raise UsageError(
                    f"the segment is too long: its {T} steps in the transformer are more than t_max_positions={self.config.t_max_positions}"
                )
            return np.asarray(np.float32(weight) * (self.embedding[:T] * np.float32(3)), np.float32)
        centered = self.config.t_emb == "cape" and self.config.t_cape_mean_normalize
        return positions_1d(T, C, float(self.config.t_max_period), centered, weight)
