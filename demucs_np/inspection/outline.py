"""What a model is made of: upstream's modules with the shapes of their outputs, parameters and multiply-adds.

Names and sizes of the parameters follow from the configuration (`models/layout.py`). The rest is recorded: the model itself runs one
segment on operations that compute nothing (`operations/shapes.py`). Shapes are upstream's for a batch of one, with one exception: modules
inside a DConv of a frequency layer work on (B*F, C, T) there, and are shown as (B, C, F, T), the order of the layer around them (LSTMs
keep their own order, and the linear layers behind them).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from ..models import taps
from ..models.config import Config, DemucsConfig, HTDemucsConfig
from ..models.layout import Shape, expected_tensors
from ..operations.recording import Call, recording
from ..operations.shapes import nothing
from ..weights.formats.checkpoint import Checkpoint
from ..weights.resolve import build


@dataclass(frozen=True)
class Module:
    """One module of upstream's that has parameters."""

    path: str  # "" is the model itself
    kind: str  # its class
    shape: Shape | None  # of its output; None for a mere list of modules, and where it never runs
    parameters: int  # its own and those of the modules in it
    multiply_adds: int  # of convolutions, matrix products and attention in it; norms and activations are not counted
    traced: bool  # whether `trace` records its output
    tensors: dict[str, Shape]  # its own parameters, by their full names


def segment_samples(config: Config) -> int:
    """Samples of one segment."""
    return int(config.segment * config.samplerate)


def modules(config: Config, samples: int | None = None) -> list[Module]:
    """Every module with parameters, and what contains it, in upstream's order; the model itself first.

    `samples`: length of the input (default: one segment).
    """
    return list(_outline(config, segment_samples(config) if samples is None else samples)[0])


def extras(config: Config) -> list[str]:
    """What a trace can be asked for beside the modules' outputs (see `models/taps.py`)."""
    return list(_outline(config, segment_samples(config))[1])


def parts(config: Config) -> dict[str, int]:
    """What a trace can switch off, with the number of its heads (see `models/ablation.py`), in the order of the modules."""
    return dict(_outline(config, segment_samples(config))[2])


@lru_cache(maxsize=8)
def _outline(config: Config, samples: int) -> tuple[list[Module], list[str], dict[str, int]]:
    tensors = expected_tensors(config)
    own: dict[str, dict[str, Shape]] = {"": {}}
    for name, shape in tensors.items():
        steps = name.split(".")[:-1]
        for count in range(1, len(steps) + 1):
            own.setdefault(".".join(steps[:count]), {})
        own[".".join(steps)][name] = shape
    run = _run(config, samples, tensors)
    tree = _Tree(config, own, run)
    found = []
    for path, its in own.items():
        inside = [other for other in own if other == path or not path or other.startswith(path + ".")]
        parameters = sum(math.prod(shape) for other in inside for shape in own[other].values())
        work = sum(tree.multiply_adds(other) for other in inside)
        whole = (1, len(config.sources), config.audio_channels, samples)
        found.append(Module(path, tree.kind(path), tree.shape(path) if path else whole, parameters, work, path in run.outputs, its))
    weights = [path.replace(".heads", ".weights") for path in run.extras if path.endswith(".heads")]
    places = {path: place for place, path in enumerate(own)}
    extra = sorted([*run.extras, *weights], key=lambda path: (places[path.rpartition(".")[0]], path))
    parts = sorted(run.parts, key=lambda path: places.get(path, places[path.rpartition(".")[0]]))
    return found, extra, {path: run.parts[path] for path in parts}


@dataclass
class _Run:
    """What one segment showed."""

    calls: dict[str, list[Call]] = field(default_factory=dict)  # module -> the operations under its path
    outputs: dict[str, Shape] = field(default_factory=dict)  # module -> of what a trace records
    extras: dict[str, Shape] = field(default_factory=dict)
    parts: dict[str, int] = field(default_factory=dict)  # what can be switched off -> its heads


def _run(config: Config, samples: int, tensors: Mapping[str, Shape]) -> _Run:
    model = build(Checkpoint(Path(), config, {name: nothing(*shape) for name, shape in tensors.items()}), "shapes")
    run = _Run()
    with taps.shapes() as (run.outputs, run.extras, run.parts), recording(model) as calls:
        model(nothing(1, model.audio_channels, samples))
    for call in calls:
        run.calls.setdefault(call.path, []).append(call)
        if call.name == "feed_forward":
            run.calls.setdefault(call.args[3].path, []).append(call)
    return run


class _Tree:
    """Kinds, shapes and costs of modules, from their parameters and from what ran."""

    def __init__(self, config: Config, own: Mapping[str, dict[str, Shape]], run: _Run) -> None:
        self._config, self._own, self._run = config, own, run
        self._children: dict[str, list[str]] = {path: [] for path in own}
        for path in own:
            if path:
                self._children[path.rpartition(".")[0]].append(path.rpartition(".")[2])

    def kind(self, path: str) -> str:
        """The class of a module."""
        parameters = {name.rpartition(".")[2]: shape for name, shape in self._own[path].items()}
        if not path:
            return self._config.klass.rpartition(".")[2]
        if "in_proj_weight" in parameters:
            return "MultiheadAttention"
        if "weight_ih_l0" in parameters:
            return "LSTM"
        if "scale" in parameters:
            return "LayerScale"
        if "weight" not in parameters:
            return self._container(path)
        axes = len(parameters["weight"])
        if axes == 1:
            return self._norm(path)
        if axes == 2:
            return "Embedding" if path.endswith(".embedding") else "Linear"
        return f"Conv{'Transpose' if self._transposed(path) else ''}{axes - 2}d"

    def _container(self, path: str) -> str:
        inside, time_domain = set(self._children[path]), isinstance(self._config, DemucsConfig)
        if inside == {"layers"}:
            return "MultiWrap" if not time_domain and re.fullmatch(r"(en|de)coder\.\d+", path) else "DConv"
        for name, kind in (
            ("conv", "HEncLayer"), ("conv_tr", "HDecLayer"), ("query_decay", "LocalState"), ("lstm", "BLSTM"),
            ("self_attn", "MyTransformerEncoderLayer"), ("cross_attn", "CrossTransformerEncoderLayer"), ("embedding", "ScaledEmbedding"),
        ):  # fmt: skip
            if name in inside:
                return kind
        if path == "crosstransformer":
            return "CrossTransformerEncoder"
        layer = re.search(r"\.layers\.\d+$", path) or (time_domain and re.fullmatch(r"(en|de)coder\.\d+", path))
        return "Sequential" if layer else "ModuleList"

    def _norm(self, path: str) -> str:
        if not path.startswith("crosstransformer."):
            return "GroupNorm"
        assert isinstance(self._config, HTDemucsConfig)
        name = path.rpartition(".")[2]
        plain = self._config.t_norm_in if name.startswith("norm_in") else not self._config.t_group_norm and name != "norm_out"
        return "LayerNorm" if plain else "MyGroupNorm"

    def _transposed(self, path: str) -> bool:
        """Whether a convolution is a decoder layer's last."""
        rewrite = getattr(self._config, "rewrite", True)
        return path.endswith(".conv_tr") or bool(re.fullmatch(r"decoder\.\d+\.[1-9]\d*" if rewrite else r"decoder\.\d+\.\d+", path))

    def shape(self, path: str) -> Shape | None:
        """Of a module's output."""
        if path in self._run.outputs:
            return self._run.outputs[path]
        kind, calls = self.kind(path), self._run.calls.get(path, [])
        if kind in ("ModuleList", "Embedding", "ScaledEmbedding"):
            tables = [call.args[1].shape for call in self._run.calls.get(path.removesuffix(".embedding"), [])]
            return tables[0] if tables else None
        if kind == "CrossTransformerEncoder":
            return self._grid()
        if kind in ("HEncLayer", "HDecLayer"):  # of one band; the others are traced
            return self.shape(f"{path}.{'conv' if kind == 'HEncLayer' else 'conv_tr'}")
        if kind.startswith("Conv"):
            return self._convolved(path, kind)
        if kind == "LSTM":
            return tuple(calls[0].result.shape)
        if kind == "Linear" and path.endswith(".linear"):  # of a BLSTM
            steps, sequences, _ = self._lstm(path).result.shape
            return steps, sequences, self._width(path)
        if path.startswith("crosstransformer."):
            return self._of_tokens(path, kind)
        return self._as_before(path, kind)

    def _convolved(self, path: str, kind: str) -> Shape | None:
        positions = self._positions(path)
        if positions is None:
            return None
        weight = self._own[path][f"{path}.weight"]
        channels = weight[1] if "Transpose" in kind else weight[0]
        B, L = positions
        if "Transpose" in kind:
            (call,) = self._run.calls[path]
            L = (L - 1) * call.args[1].upsample + weight[2]
        return (1, channels, L, B) if self._over_frequency(path) else (1, channels, B * L)

    def _positions(self, path: str) -> tuple[int, int] | None:
        """(B, L): how often a convolution's weights are multiplied, once for each; of a transposed one, for each input."""
        calls = self._run.calls.get(path) or self._run.calls.get(f"{path.rpartition('.')[0]}.project")  # LocalState's are one
        if not calls:
            return None
        x, layer = calls[0].args[:2]
        if self._transposed(path):
            return x.shape[0], x.shape[1]
        return x.shape[0], layer.extent(x.shape[1], calls[0].kwargs.get("rows"), calls[0].kwargs.get("length"))[0]

    def _over_frequency(self, path: str) -> bool:
        """Whether a module stands in a layer of the frequency branch: that layer's convolution has two axes."""
        layer = re.match(r"[a-z]+\.\d+(\.layers\.\d+(?=\.(conv|rewrite|norm|dconv)))?", path)
        conv = next((f"{layer[0]}.{name}.weight" for name in ("conv", "conv_tr") if layer and f"{layer[0]}.{name}" in self._own), None)
        return conv is not None and layer is not None and len(self._own[conv.removesuffix(".weight")][conv]) == 4

    def _as_before(self, path: str, kind: str) -> Shape | None:
        """Norms, scales and parts of a residual branch leave everything where the module before them in their layer has it."""
        above, _, name = path.rpartition(".")
        if kind == "Sequential":
            return self._run.outputs[path.rpartition(".layers.")[0]]
        before = self._children[above][: self._children[above].index(name)]
        for other in reversed(before):
            shape = self.shape(f"{above}.{other}")
            if shape is not None:
                sizes = list(self._own[path].values())
                return (1, sizes[0][0] if sizes else shape[1], *shape[2:])
        return None

    def _of_tokens(self, path: str, kind: str) -> Shape | None:
        """In the transformer: (1, N, width)."""
        if kind == "MultiheadAttention":
            (call,) = self._attentions(path)
            return (1, *call.result.shape)
        if kind == "Linear":
            calls = self._run.calls[path]
            return (1, calls[0].args[0].shape[1], self._width(path))
        if kind == "LayerScale":
            return self._run.outputs[path.rpartition(".")[0]]
        calls = self._run.calls.get(path, [])
        return tuple(calls[0].result.shape) if calls else None  # a norm; norm3 is never called where norms come last

    def _width(self, path: str) -> int:
        return self._own[path][f"{path}.weight"][0]

    def _lstm(self, linear: str) -> Call:
        return next(call for call in self._run.calls[f"{linear.rpartition('.')[0]}.lstm"] if call.name == "lstm")

    def _attentions(self, path: str) -> list[Call]:
        return [call for call in self._run.calls.get(path, []) if call.name == "attention"]

    def _grid(self) -> Shape:
        """(1, width, F, T): the frequency branch's tokens where they come from and go to."""
        assert isinstance(self._config, HTDemucsConfig)
        _, _, *place = self._run.outputs[f"encoder.{self._config.depth - 1}"]
        F, T = place if len(place) == 2 else (1, place[0])
        return 1, self._config.transformer_channels, F, T

    def multiply_adds(self, path: str) -> int:
        """Of a module's own weights, and of what its attention does without weights."""
        kind, matrices = self.kind(path), sum(math.prod(shape) for shape in self._own[path].values() if len(shape) > 1)
        if kind.startswith("Conv"):
            return math.prod(self._positions(path) or (0,)) * matrices
        if kind == "LSTM":
            return int(math.prod(self._run.calls[path][0].result.shape[:2])) * matrices
        if kind == "Linear":
            shape = self.shape(path)
            return 0 if shape is None else math.prod(shape[:2]) * matrices
        if kind == "LocalState":
            (call,) = [call for call in self._run.calls[path] if call.name == "local_attention"]
            T, F, C = call.result.shape
            return int(2 * F * T * T * C)
        if kind == "MultiheadAttention":
            projections = [call for name in ("query", "key_value", "query_key_value") for call in self._run.calls.get(f"{path}.{name}", [])]
            products = sum(call.args[0].shape[1] * call.args[1].channels * call.args[1].columns for call in projections)
            return int(products + sum(2 * call.result.size * call.args[1].shape[0] for call in self._attentions(path)))
        return 0
