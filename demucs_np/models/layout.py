"""Which tensors a model has: every parameter's name and shape, from the configuration alone.

The order is PyTorch's registration order (a module's own parameters before its children's), because quantised
checkpoints store parameters as lists without names. Names are the module paths of upstream.
"""

from __future__ import annotations

from collections.abc import Iterator

from .config import Config, DemucsConfig, HDemucsConfig, HTDemucsConfig, HybridLayer

Shape = tuple[int, ...]
Tensors = Iterator[tuple[str, Shape]]


def expected_tensors(config: Config) -> dict[str, Shape]:
    """Name -> shape of every tensor of the model, in registration order."""
    return dict(_demucs(config) if isinstance(config, DemucsConfig) else _hybrid(config))


def _weight_bias(name: str, out: int, *rest: int) -> Tensors:
    """A convolution or linear layer: weight (out, *rest) and bias (out)."""
    yield f"{name}.weight", (out, *rest)
    yield f"{name}.bias", (out,)


def _transposed(name: str, channels_in: int, channels_out: int, *kernel: int) -> Tensors:
    yield f"{name}.weight", (channels_in, channels_out, *kernel)
    yield f"{name}.bias", (channels_out,)


def _norm(name: str, channels: int, present: bool = True) -> Tensors:
    if present:
        yield from _weight_bias(name, channels)


def _blstm(name: str, dim: int, layers: int) -> Tensors:
    for layer in range(layers):
        width = dim if layer == 0 else 2 * dim
        for direction in ("", "_reverse"):
            yield f"{name}.lstm.weight_ih_l{layer}{direction}", (4 * dim, width)
            yield f"{name}.lstm.weight_hh_l{layer}{direction}", (4 * dim, dim)
            yield f"{name}.lstm.bias_ih_l{layer}{direction}", (4 * dim,)
            yield f"{name}.lstm.bias_hh_l{layer}{direction}", (4 * dim,)
    yield from _weight_bias(f"{name}.linear", dim, 2 * dim)


def _local_state(name: str, channels: int, heads: int = 4, ndecay: int = 4) -> Tensors:
    for part in ("content", "query", "key"):
        yield from _weight_bias(f"{name}.{part}", channels, channels, 1)
    yield from _weight_bias(f"{name}.query_decay", heads * ndecay, channels, 1)
    yield from _weight_bias(f"{name}.proj", channels, channels, 1)


def _dconv(name: str, channels: int, compress: float, depth: int, lstm: bool, attention: bool) -> Tensors:
    hidden = int(channels / compress)
    for level in range(abs(depth)):
        at = f"{name}.layers.{level}"
        yield from _weight_bias(f"{at}.0", hidden, channels, 3)
        yield from _norm(f"{at}.1", hidden)
        place = 3  # 2 is the GELU
        if lstm:
            yield from _blstm(f"{at}.{place}", hidden, layers=2)
            place += 1
        if attention:
            yield from _local_state(f"{at}.{place}", hidden)
            place += 1
        yield from _weight_bias(f"{at}.{place}", 2 * channels, hidden, 1)
        yield from _norm(f"{at}.{place + 1}", 2 * channels)
        yield f"{at}.{place + 3}.scale", (channels,)  # after the GLU


HybridConfig = HTDemucsConfig | HDemucsConfig


def _hybrid(config: HybridConfig) -> Tensors:
    layers = config.layers()
    times = [layer.time for layer in layers if layer.time]
    for branch, inwards in (("", layers), ("t", times)):
        for place, layer in enumerate(inwards):
            for name in _bands(f"{branch}encoder.{place}", layer):
                yield from _encoder_layer(name, config, layer)
        for place, layer in enumerate(reversed(inwards)):
            for name in _bands(f"{branch}decoder.{place}", layer):
                yield from _decoder_layer(name, config, layer)
    if config.freq_emb:
        yield "freq_emb.embedding.weight", (config.embedded, layers[0].channels_out)
    if isinstance(config, HTDemucsConfig):
        yield from _bottom(config)
        if config.t_layers:
            yield from _transformer("crosstransformer", config)


def _bands(name: str, layer: HybridLayer) -> list[str]:
    return [f"{name}.layers.{band}" for band in range(layer.bands)] if layer.bands else [name]


def _kernel(layer: HybridLayer, *size: int) -> Shape:
    """Along frequency a kernel has two axes, (rows, frames)."""
    return size if layer.freq else size[-1:]


def _encoder_layer(name: str, config: HybridConfig, layer: HybridLayer) -> Tensors:
    channels, context = layer.channels_out, 1 + 2 * config.context_enc
    kernel = (layer.kernel_size, 1) if layer.freq else (layer.kernel_size,)
    yield from _weight_bias(f"{name}.conv", channels, layer.channels_in, *kernel)
    if layer.empty:
        return
    yield from _norm(f"{name}.norm1", channels, layer.norm)
    if config.rewrite:
        yield from _weight_bias(f"{name}.rewrite", 2 * channels, channels, *_kernel(layer, context, context))
        yield from _norm(f"{name}.norm2", 2 * channels, layer.norm)
    if config.dconv_mode & 1:
        yield from _dconv(f"{name}.dconv", channels, config.dconv_comp, config.dconv_depth, layer.lstm, layer.attention)


def _decoder_layer(name: str, config: HybridConfig, layer: HybridLayer) -> Tensors:
    channels, context = layer.channels_out, 1 + 2 * config.context
    kernel = (layer.kernel_size, 1) if layer.freq else (layer.kernel_size,)
    yield from _transposed(f"{name}.conv_tr", channels, layer.decoder_out, *kernel)
    yield from _norm(f"{name}.norm2", layer.decoder_out, layer.norm)
    if layer.empty:
        return
    if config.rewrite:
        # A band sees no rows but its own.
        rewrite = _kernel(layer, 1 if layer.bands else context, context)
        yield from _weight_bias(f"{name}.rewrite", 2 * channels, channels, *rewrite)
        yield from _norm(f"{name}.norm1", 2 * channels, layer.norm)
    if config.dconv_mode & 2:
        yield from _dconv(f"{name}.dconv", channels, config.dconv_comp, config.dconv_depth, layer.lstm, layer.attention)


def _bottom(config: HTDemucsConfig) -> Tensors:
    if config.bottom_channels:
        inner, bottom = int(config.channels * config.growth ** (config.depth - 1)), config.bottom_channels
        for branch in ("", "_t"):
            yield from _weight_bias(f"channel_upsampler{branch}", bottom, inner, 1)
            yield from _weight_bias(f"channel_downsampler{branch}", inner, bottom, 1)


def _transformer(name: str, config: HTDemucsConfig) -> Tensors:
    width = config.transformer_channels
    if config.t_emb == "scaled":
        yield f"{name}.position_embeddings.embedding.weight", (config.t_max_positions, width)
    for branch in ("", "_t"):
        yield from _norm(f"{name}.norm_in{branch}", width, bool(config.t_norm_in or config.t_norm_in_group))
    for branch in ("", "_t"):
        for index in range(config.t_layers):
            yield from _transformer_layer(f"{name}.layers{branch}.{index}", config, cross=config.is_cross(index))


def _transformer_layer(name: str, config: HTDemucsConfig, cross: bool) -> Tensors:
    width = config.transformer_channels
    hidden = int(width * config.t_hidden_scale)
    attention = f"{name}.cross_attn" if cross else f"{name}.self_attn"
    yield f"{attention}.in_proj_weight", (3 * width, width)  # queries, keys, values
    yield f"{attention}.in_proj_bias", (3 * width,)
    yield from _weight_bias(f"{attention}.out_proj", width, width)
    yield from _weight_bias(f"{name}.linear1", hidden, width)
    yield from _weight_bias(f"{name}.linear2", width, hidden)
    for index in range(1, 4 if cross else 3):
        yield from _norm(f"{name}.norm{index}", width)
    yield from _norm(f"{name}.norm_out", width, bool(config.t_norm_first & config.t_norm_out))
    if config.t_layer_scale:
        yield f"{name}.gamma_1.scale", (width,)
        yield f"{name}.gamma_2.scale", (width,)


def _demucs(config: DemucsConfig) -> Tensors:
    layers = config.layers()
    doubled = 2 if config.glu else 1
    for layer in layers:
        at, place, channels = f"encoder.{layer.index}", config.second, layer.channels_out
        yield from _weight_bias(f"{at}.0", channels, layer.channels_in, config.kernel_size)
        yield from _norm(f"{at}.1", channels, layer.norm)
        if config.dconv_mode & 1:
            yield from _dconv(f"{at}.{place}", channels, config.dconv_comp, config.dconv_depth, layer.lstm, layer.attention)
            place += 1
        if config.rewrite:
            yield from _weight_bias(f"{at}.{place}", doubled * channels, channels, 1)
            yield from _norm(f"{at}.{place + 1}", doubled * channels, layer.norm)
    for outwards, layer in enumerate(reversed(layers)):
        at, place, channels = f"decoder.{outwards}", 0, layer.channels_out
        if config.rewrite:
            yield from _weight_bias(f"{at}.0", doubled * channels, channels, 2 * config.context + 1)
            yield from _norm(f"{at}.1", doubled * channels, layer.norm)
            place = config.second
        if config.dconv_mode & 2:
            yield from _dconv(f"{at}.{place}", channels, config.dconv_comp, config.dconv_depth, layer.lstm, layer.attention)
            place += 1
        yield from _transposed(f"{at}.{place}", channels, layer.decoder_out, config.kernel_size)
        yield from _norm(f"{at}.{place + 1}", layer.decoder_out, layer.norm and layer.index > 0)
    if config.lstm_layers:
        yield from _blstm("lstm", layers[-1].channels_out, config.lstm_layers)
