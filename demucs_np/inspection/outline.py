"""What a model is made of: the modules of the reference with the shapes of their outputs, parameters and multiply-adds.

Everything follows from the configuration, by the arithmetic of the reference's constructors and forward passes; no weight is read
and nothing runs. Shapes are the reference's for a batch of one, with one exception: modules inside a DConv of a frequency layer work on
(B*F, C, T) there, and are shown as (B, C, F, T), the order of the layer around them (LSTMs keep their own order, and the linear
layers behind them).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from ..models.config import Config, DemucsConfig, HDemucsConfig, HTDemucsConfig, HybridLayer
from ..models.layout import Shape, expected_tensors

TRACED_KINDS = ("HEncLayer", "HDecLayer", "MultiWrap", "MyTransformerEncoderLayer", "CrossTransformerEncoderLayer")


@dataclass(frozen=True)
class Module:
    """One module of the reference that has parameters."""

    path: str  # "" is the model itself
    kind: str  # its class
    shape: Shape | None  # of its output; None for a mere list of modules, and where it never runs
    parameters: int  # its own and those of the modules in it
    multiply_adds: int  # of convolutions, matrix products and attention in it; norms and activations are not counted
    traced: bool  # whether `trace` records its output
    tensors: dict[str, Shape]  # its own parameters, by their full names


@dataclass(frozen=True)
class _Part:
    """A module as the generators below describe it: its weights are multiplied `uses` times each; `extra` is attention's own work."""

    path: str
    kind: str
    shape: Shape | None
    uses: int = 0
    extra: int = 0


Parts = Iterator[_Part]
Place = tuple[int, ...]  # where a layer's values stand: (rows, frames) in the frequency branch, (steps,) in the time branch


def segment_samples(config: Config) -> int:
    """Samples of one segment."""
    return int(config.segment * config.samplerate)


def modules(config: Config, samples: int | None = None) -> list[Module]:
    """Every module with parameters, and what contains it, in the reference's order; the model itself first.

    `samples`: length of the input (default: one segment).
    """
    samples = segment_samples(config) if samples is None else samples
    tensors = expected_tensors(config)
    described = _demucs(config, samples) if isinstance(config, DemucsConfig) else _hybrid(config, samples)
    parts = {part.path: part for part in described}
    root = _Part("", config.klass.rpartition(".")[2], (1, len(config.sources), config.audio_channels, samples))
    paths = dict.fromkeys([""])
    own: dict[str, dict[str, Shape]] = {}
    for name, shape in tensors.items():
        owner = name.rpartition(".")[0]
        own.setdefault(owner, {})[name] = shape
        steps = owner.split(".")
        paths |= dict.fromkeys(".".join(steps[: i + 1]) for i in range(len(steps)))
    parameters, work = dict.fromkeys(paths, 0), dict.fromkeys(paths, 0)
    for path in paths:
        part = parts.get(path)
        matrices = sum(math.prod(shape) for shape in own.get(path, {}).values() if len(shape) > 1)
        count = sum(math.prod(shape) for shape in own.get(path, {}).values())
        cost = part.uses * matrices + part.extra if part else 0
        for above in _chain(path):
            parameters[above] += count
            work[above] += cost
    result = []
    for path in paths:
        part = parts.get(path) or (root if not path else _Part(path, "Sequential" if _is_sequential(path) else "ModuleList", None))
        result.append(
            Module(path, part.kind, part.shape, parameters[path], work[path], _is_traced(path, part.kind, config), own.get(path, {}))
        )
    return result


def extras(config: Config) -> list[str]:
    """What a trace can be asked for beside the modules' outputs (see `tracing`)."""
    paths = []
    for module in modules(config):
        if re.fullmatch(r"t?decoder\.\d+", module.path) and not _is_empty(module.path, config):
            paths.append(f"{module.path}.skip")
        if module.kind == "MultiheadAttention":
            paths += [f"{module.path}.heads", f"{module.path}.weights"]
    return paths


def _chain(path: str) -> list[str]:
    """The path, all that contain it, and the model."""
    steps = path.split(".")
    return [".".join(steps[:i]) for i in range(len(steps) + 1)] if path else [""]


def _is_sequential(path: str) -> bool:
    return bool(re.search(r"\.layers\.\d+$", path))


def _is_empty(path: str, config: Config) -> bool:
    """The decoder layer in which the branches part takes no skip."""
    if isinstance(config, DemucsConfig) or not path.startswith("tdecoder."):
        return False
    times = [layer for layer in config.layers() if layer.time]
    return times[len(times) - 1 - int(path.rpartition(".")[2])].last_freq


def _is_traced(path: str, kind: str, config: Config) -> bool:
    if kind == "DConv" or path == "lstm":
        return True
    if path.count(".") == 0 and path.startswith("channel_"):
        return bool(getattr(config, "t_layers", 0))
    if path in ("crosstransformer.norm_in", "crosstransformer.norm_in_t"):
        return True
    if kind == "Sequential" and isinstance(config, DemucsConfig):
        return path.count(".") == 1
    return kind in TRACED_KINDS and (path.count(".") == 1 or path.startswith("crosstransformer."))


def _at(channels: int, place: Place) -> Shape:
    return (1, channels, *place)


def _dims(place: Place) -> str:
    return f"{len(place)}d"


def _dconv(path: str, channels: int, place: Place, config: Config, lstm: bool, attention: bool) -> Parts:
    hidden, rows, steps = int(channels / config.dconv_comp), math.prod(place[:-1]), place[-1]
    positions = rows * steps
    yield _Part(path, "DConv", _at(channels, place))
    for depth in range(abs(config.dconv_depth)):
        at, number = f"{path}.layers.{depth}", 3
        yield _Part(at, "Sequential", _at(channels, place))
        yield _Part(f"{at}.0", "Conv1d", _at(hidden, place), positions)
        yield _Part(f"{at}.1", "GroupNorm", _at(hidden, place))
        if lstm:
            windows = -(-steps // 100) if steps > 200 else 1
            yield from _blstm(f"{at}.{number}", hidden, _at(hidden, place), min(steps, 200), windows * rows)
            number += 1
        if attention:
            yield _Part(f"{at}.{number}", "LocalState", _at(hidden, place), extra=2 * rows * steps * steps * hidden)
            for name in ("content", "query", "key", "proj"):
                yield _Part(f"{at}.{number}.{name}", "Conv1d", _at(hidden, place), positions)
            yield _Part(f"{at}.{number}.query_decay", "Conv1d", _at(16, place), positions)  # 4 heads, 4 decays
            number += 1
        yield _Part(f"{at}.{number}", "Conv1d", _at(2 * channels, place), positions)
        yield _Part(f"{at}.{number + 1}", "GroupNorm", _at(2 * channels, place))
        yield _Part(f"{at}.{number + 3}", "LayerScale", _at(channels, place))


def _blstm(path: str, width: int, shape: Shape, steps: int, sequences: int) -> Parts:
    yield _Part(path, "BLSTM", shape)
    yield _Part(f"{path}.lstm", "LSTM", (steps, sequences, 2 * width), steps * sequences)
    yield _Part(f"{path}.linear", "Linear", (steps, sequences, width), steps * sequences)


@dataclass(frozen=True)
class _Side:
    """One layer of the U-Nets: channels in and out, and where its input and its output stand."""

    channels_in: int
    channels_out: int
    place_in: Place
    place_out: Place
    level: HybridLayer
    empty: bool = False


def _encoder(path: str, side: _Side, config: HTDemucsConfig | HDemucsConfig) -> Parts:
    channels, place, level = side.channels_out, side.place_out, side.level
    yield _Part(path, "HEncLayer", _at(channels, place))
    yield _Part(f"{path}.conv", f"Conv{_dims(place)}", _at(channels, place), math.prod(place))
    if side.empty:
        return
    yield _Part(f"{path}.norm1", "GroupNorm", _at(channels, place))
    yield _Part(f"{path}.rewrite", f"Conv{_dims(place)}", _at(2 * channels, place), math.prod(place))
    yield _Part(f"{path}.norm2", "GroupNorm", _at(2 * channels, place))
    yield from _dconv(f"{path}.dconv", channels, place, config, level.lstm, level.attention)


def _decoder(path: str, side: _Side, full: Place, config: HTDemucsConfig | HDemucsConfig) -> Parts:
    """`full`: where the transposed convolution's output stands, before it is cropped."""
    channels, place, level = side.channels_in, side.place_in, side.level
    yield _Part(path, "HDecLayer", _at(side.channels_out, side.place_out))
    yield _Part(f"{path}.conv_tr", f"ConvTranspose{_dims(place)}", _at(side.channels_out, full), math.prod(place))
    yield _Part(f"{path}.norm2", "GroupNorm", _at(side.channels_out, full))
    if side.empty:
        return
    yield _Part(f"{path}.rewrite", f"Conv{_dims(place)}", _at(2 * channels, place), math.prod(place))
    yield _Part(f"{path}.norm1", "GroupNorm", _at(2 * channels, place))
    yield from _dconv(f"{path}.dconv", channels, place, config, level.lstm, level.attention)


def _hybrid(config: HTDemucsConfig | HDemucsConfig, samples: int) -> Parts:
    hop = config.nfft // 4
    centred = isinstance(config, HDemucsConfig) and not config.hybrid
    frames = 1 + samples // hop if centred else -(-samples // hop)
    plan = config.layers()
    times = sum(level.time for level in plan)
    steps, length = samples, frames  # of the time branch, and of the frequency branch's frames
    for level in plan:
        back = len(plan) - 1 - level.index
        kernel, stride = level.kernel_size, level.stride
        if level.freq:
            rows = (level.rows + 2 * level.pad - kernel) // stride + 1
            outer: Place = (level.rows, length)
            inner: Place = (rows, length)
            full: Place = ((rows - 1) * stride + kernel, length)
        else:
            outer, inner, full = _along_time(length, kernel, stride, level.pad)
        down = _Side(level.channels_in, level.channels_out, outer, inner, level)
        up = _Side(level.channels_out, level.decoder_out, inner, outer, level)
        if level.bands:
            yield _Part(f"encoder.{level.index}", "MultiWrap", _at(level.channels_out, inner))
            yield from _encoder_bands(f"encoder.{level.index}", down, config)
            yield _Part(f"decoder.{back}", "MultiWrap", _at(level.decoder_out, outer))
            yield from _decoder_bands(f"decoder.{back}", up, config)
        else:
            yield from _encoder(f"encoder.{level.index}", down, config)
            yield from _decoder(f"decoder.{back}", up, full, config)
        length = inner[-1]
        if level.time:
            kernel, stride = config.kernel_size, config.stride
            outer, inner, full = _along_time(steps, kernel, stride, kernel // 4)
            down = _Side(level.time_channels_in, level.time_channels_out, outer, inner, level, empty=level.last_freq)
            up = _Side(level.time_channels_out, level.time_decoder_out, inner, outer, level, empty=level.last_freq)
            yield from _encoder(f"tencoder.{level.index}", down, config)
            yield from _decoder(f"tdecoder.{times - 1 - level.index}", up, full, config)
            (steps,) = inner
    if config.freq_emb:
        rows = 1 if plan[0].last_freq else plan[0].rows // config.stride
        yield _Part("freq_emb", "ScaledEmbedding", (rows, plan[0].channels_out))
        yield _Part("freq_emb.embedding", "Embedding", (rows, plan[0].channels_out))
    if isinstance(config, HTDemucsConfig):
        last = plan[-1]
        rows = (last.rows + 2 * last.pad - last.kernel_size) // last.stride + 1 if last.freq else 1
        yield from _bottom(config, rows, length, steps)


def _along_time(length: int, kernel: int, stride: int, pad: int) -> tuple[Place, Place, Place]:
    """Where input, output and uncropped way back of a time layer stand: the input is first filled up to whole strides."""
    steps = (-(-length // stride) * stride + 2 * pad - kernel) // stride + 1
    return (length,), (steps,), ((steps - 1) * stride + kernel,)


def _encoder_bands(path: str, side: _Side, config: HTDemucsConfig | HDemucsConfig) -> Parts:
    level, start = side.level, 0
    rows_in, frames = side.place_in
    for band, ratio in enumerate((*(config.multi_freqs or ()), 1)):
        pad = level.kernel_size // 4
        left, right, limit = pad if start == 0 else 0, pad if ratio == 1 else 0, rows_in
        if ratio != 1:
            windows = round((round(rows_in * ratio) - start + left - level.kernel_size) / level.stride + 1)
            limit = start + (windows - 1) * level.stride + level.kernel_size - left
        rows = (limit - start + left + right - level.kernel_size) // level.stride + 1
        one = _Side(side.channels_in, side.channels_out, (limit - start, frames), (rows, frames), level)
        yield from _encoder(f"{path}.layers.{band}", one, config)
        start = limit - level.kernel_size + level.stride


def _decoder_bands(path: str, side: _Side, config: HTDemucsConfig | HDemucsConfig) -> Parts:
    level, start = side.level, 0
    rows_in, frames = side.place_in
    for band, ratio in enumerate((*(config.multi_freqs or ()), 1)):
        limit = rows_in if ratio == 1 else round(rows_in * ratio)
        full = ((limit - start - 1) * level.stride + level.kernel_size, frames)  # bands are cropped when they are joined
        one = _Side(side.channels_in, side.channels_out, (limit - start, frames), full, level)
        yield from _decoder(f"{path}.layers.{band}", one, full, config)
        start = limit


def _bottom(config: HTDemucsConfig, rows: int, frames: int, steps: int) -> Parts:
    inner, width = config.layers()[-1].channels_out, config.transformer_channels
    if config.bottom_channels:
        for branch, positions in (("", rows * frames), ("_t", steps)):
            runs = bool(config.t_layers)  # without a transformer between them they are there, but never called
            uses = positions if runs else 0
            yield _Part(f"channel_upsampler{branch}", "Conv1d", (1, width, positions) if runs else None, uses)
            yield _Part(f"channel_downsampler{branch}", "Conv1d", (1, inner, positions) if runs else None, uses)
    if not config.t_layers:
        return
    yield _Part("crosstransformer", "CrossTransformerEncoder", (1, width, rows, frames))
    yield _Part("crosstransformer.position_embeddings", "ScaledEmbedding", (steps, width))
    yield _Part("crosstransformer.position_embeddings.embedding", "Embedding", (steps, width))
    for branch, tokens, others in (("", rows * frames, steps), ("_t", steps, rows * frames)):
        yield _Part(f"crosstransformer.norm_in{branch}", "LayerNorm" if config.t_norm_in else "MyGroupNorm", (1, tokens, width))
        for index in range(config.t_layers):
            cross = (index % 2 == 1) != config.t_cross_first
            yield from _transformer_layer(f"crosstransformer.layers{branch}.{index}", config, tokens, others if cross else None)


def _transformer_layer(path: str, config: HTDemucsConfig, tokens: int, others: int | None) -> Parts:
    """`others`: the other branch's tokens, for a cross-attention layer."""
    width = config.transformer_channels
    shape, keys = (1, tokens, width), tokens if others is None else others
    yield _Part(path, "MyTransformerEncoderLayer" if others is None else "CrossTransformerEncoderLayer", shape)
    work = width * width * (tokens + 2 * keys) + 2 * tokens * keys * width  # q, k and v; then scores and weighted sum
    attention = f"{path}.self_attn" if others is None else f"{path}.cross_attn"
    yield _Part(attention, "MultiheadAttention", shape, extra=work)
    yield _Part(f"{attention}.out_proj", "Linear", shape, tokens)
    yield _Part(f"{path}.linear1", "Linear", (1, tokens, int(width * config.t_hidden_scale)), tokens)
    yield _Part(f"{path}.linear2", "Linear", shape, tokens)
    norm = "MyGroupNorm" if config.t_group_norm else "LayerNorm"
    yield _Part(f"{path}.norm1", norm, shape)
    yield _Part(f"{path}.norm2", norm, (1, keys, width) if config.t_norm_first else shape)
    yield _Part(f"{path}.norm3", norm, shape if config.t_norm_first else None)  # else it is never called
    yield _Part(f"{path}.norm_out", "MyGroupNorm", shape)
    yield _Part(f"{path}.gamma_1", "LayerScale", shape)
    yield _Part(f"{path}.gamma_2", "LayerScale", shape)


def _demucs(config: DemucsConfig, samples: int) -> Parts:
    plan, kernel, stride = config.layers(), config.kernel_size, config.stride
    doubled = 2 if config.glu else 1
    steps = samples * (2 if config.resample else 1)
    for _ in plan:
        steps = max(1, -(-(steps - kernel) // stride) + 1)
    inner = [steps]  # from the innermost layer's output outwards: the input is padded until every convolution comes out even
    for _ in plan:
        inner.append((inner[-1] - 1) * stride + kernel)
    for level in plan:
        at, place = f"encoder.{level.index}", (inner[config.depth - 1 - level.index],)
        yield from _demucs_layer(at, 3, level.channels_out, place, level.lstm, level.attention, config, config.dconv_mode & 1)
        yield _Part(f"{at}.0", "Conv1d", _at(level.channels_out, place), place[0])
        yield _Part(f"{at}.1", "GroupNorm", _at(level.channels_out, place))
        rewrite = 4 if config.dconv_mode & 1 else 3
        shape = _at(doubled * level.channels_out, place)
        if config.rewrite:
            yield _Part(f"{at}.{rewrite}", "Conv1d", shape, place[0])
            yield _Part(f"{at}.{rewrite + 1}", "GroupNorm", shape)
        yield _Part(at, "Sequential", _at(level.channels_out, place))
    for outwards, level in enumerate(reversed(plan)):
        at, place, full = f"decoder.{outwards}", (inner[outwards],), (inner[outwards + 1],)
        residual = 3 if config.rewrite else 0
        yield from _demucs_layer(at, residual, level.channels_out, place, level.lstm, level.attention, config, config.dconv_mode & 2)
        if config.rewrite:
            shape = _at(doubled * level.channels_out, place)
            yield _Part(f"{at}.0", "Conv1d", shape, place[0])
            yield _Part(f"{at}.1", "GroupNorm", shape)
        after = residual + 1 if config.dconv_mode & 2 else residual
        yield _Part(f"{at}.{after}", "ConvTranspose1d", _at(level.decoder_out, full), place[0])
        yield _Part(f"{at}.{after + 1}", "GroupNorm", _at(level.decoder_out, full))
        yield _Part(at, "Sequential", _at(level.decoder_out, full))
    if config.lstm_layers:
        yield from _blstm("lstm", plan[-1].channels_out, _at(plan[-1].channels_out, (steps,)), steps, 1)


def _demucs_layer(
    at: str, number: int, channels: int, place: Place, lstm: bool, attention: bool, config: DemucsConfig, present: int
) -> Parts:
    if present:
        yield from _dconv(f"{at}.{number}", channels, place, config, lstm, attention)
