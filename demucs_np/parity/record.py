"""The golden file: what upstream computed, small enough to commit, exact enough to judge the last digits by.

For every traced layer and the output it holds a fingerprint of the activation of upstream run in float64 (shape, mean,
Euclidean norm, a sketch, the values at positions drawn from a seed) and the error that PyTorch's own float32 run made.
The file is a safetensors file: sketch and values are float64 tensors named `sketch/<path>` and `values/<path>`, a recorded
input is `input`, everything else is JSON in the metadata. The same run gives the same bytes.

A sketch is `size` sums over all values, each value with a random sign: sum k takes the values k, k + size, k + 2 size, ...
Since signs are independent, the squared difference of two sketches is on average the squared difference of the two
activations, to within `sqrt(2 / size)`: 0.4 dB for 251. `size` is a prime: with 256, all channels of one place could fall into
one sum, and their errors, which have causes in common, were once taken for 4 dB more than they were. Sampled values alone would
measure an error badly (few large values carry most of it: two correct programs then differ by up to 10 dB) and miss one that lies
between them.
"""

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from numpy.typing import NDArray
from safetensors.numpy import save

from ..errors import ModelError
from ..models.config import Config, config_from_arguments
from ..weights.files import open_plain, written_whole
from .recipe import draw_mix, stream

VERSION = 1
KEY = "demucs_np.golden"  # the only entry of the metadata: with two, their order in the file would be random
SAMPLES = 4096  # values kept of each activation
SKETCH = 1021  # sums kept of each activation, a prime
CHUNK = 1 << 20  # elements converted to float64 at a time


@dataclasses.dataclass(frozen=True)
class Layer:
    """The fingerprint of one activation, from upstream in float64."""

    name: str  # upstream module path, or "output"
    shape: tuple[int, ...]
    mean: float
    norm: float  # Euclidean
    error: float  # Euclidean norm of PyTorch float32's error
    sketch: NDArray[np.float64]  # `sketch(name, activation, size)`
    values: NDArray[np.float64]  # (samples,) at `positions(name, size, samples)`

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def positions(self) -> NDArray[np.int64]:
        return positions(self.name, self.size, self.values.size)


@dataclasses.dataclass(frozen=True)
class Golden:
    """A run of upstream: which model, which input, what each layer gave.

    `weights` is {"sha256": digest of the tensors} and, where the weights can be drawn again, {"seed": n}. `source` says
    where the input came from: {"seed": n, "channels": c, "length": samples} to draw it again, else a description of the
    recorded `audio`.
    """

    klass: str  # dotted upstream name, "demucs.htdemucs.HTDemucs"
    arguments: Mapping[str, Any]  # keyword arguments of upstream's constructor
    weights: Mapping[str, Any]
    source: Mapping[str, Any]
    made_with: Mapping[str, str]  # versions of torch, demucs, numpy
    layers: Mapping[str, Layer]  # in order of execution; the last is "output"
    audio: NDArray[np.float32] | None = None  # (channels, samples) when it cannot be drawn
    version: int = VERSION

    @cached_property
    def config(self) -> Config:
        """The constructor arguments, checked. Raises ModelError for a model this package cannot run."""
        return config_from_arguments(self.klass, (), self.arguments)

    @cached_property
    def mix(self) -> NDArray[np.float32]:
        """The input of the run, (1, channels, samples)."""
        if self.audio is not None:
            return self.audio[None]
        source = self.source
        return draw_mix(source["seed"], source["channels"], source["length"], self.config.samplerate)[None]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file, whole or not at all. Raises DemucsError where it cannot be written."""
        fields = {"version": self.version, "klass": self.klass, "arguments": self.arguments, "weights": self.weights}
        fields |= {"source": self.source, "made_with": self.made_with}
        fields["layers"] = [
            {key: getattr(layer, key) for key in ("name", "shape", "mean", "norm", "error")} for layer in self.layers.values()
        ]
        arrays = {f"values/{name}": layer.values for name, layer in self.layers.items()}
        arrays |= {f"sketch/{name}": layer.sketch for name, layer in self.layers.items()}
        if self.audio is not None:
            arrays["input"] = np.ascontiguousarray(self.audio, np.float32)
        text = json.dumps(fields, default=_encode, separators=(",", ":"))
        with written_whole(Path(path)) as file:
            file.write(save(arrays, metadata={KEY: text}))


def load_golden(path: str | os.PathLike[str]) -> Golden:
    """Read a golden file.

    Raises ModelError when it is missing, truncated, not a golden file, or of a format newer than this program knows.
    """
    if not os.path.exists(path):
        raise ModelError(f"{os.fspath(path)}: no such file; `demucs-np golden MODEL -o FILE` makes golden files")
    try:
        open_plain(Path(path)).close()
        with safetensors.safe_open(os.fspath(path), framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
    except (OSError, safetensors.SafetensorError) as error:
        raise ModelError(f"{os.fspath(path)}: not a readable golden file ({error}); make it again with `demucs-np golden`") from error
    if KEY not in metadata:
        raise ModelError(f"{os.fspath(path)}: a safetensors file, but not a golden file; `demucs-np golden` makes those")
    try:
        fields = json.loads(metadata[KEY], object_hook=_decode)
        if not isinstance(fields, dict) or not isinstance(fields.get("version"), int):
            raise TypeError("no version")
        for key in ("source", "weights", "arguments"):
            if not isinstance(fields.get(key), dict):
                raise TypeError(f"its {key} are no table")
        if fields["version"] > VERSION:
            raise ModelError(f"{os.fspath(path)}: golden format {fields['version']}, this program knows up to {VERSION}; update demucs_np")
        layers = {}
        for entry in fields.pop("layers"):
            name = entry["name"]
            entry |= {"shape": tuple(entry["shape"]), "sketch": arrays[f"sketch/{name}"], "values": arrays[f"values/{name}"]}
            layers[name] = Layer(**entry)
        return Golden(**fields, layers=layers, audio=arrays.get("input"))
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, IndexError, RecursionError) as error:
        what = f"{type(error).__name__}: {str(error)[:100]}"
        raise ModelError(f"{os.fspath(path)}: a damaged golden file ({what}); make it again with `demucs-np golden`") from error


def positions(name: str, size: int, count: int) -> NDArray[np.int64]:
    """Where an activation of `size` values is sampled: one place in each of `count` equal stretches, drawn by the layer's name.

    Ascending indices into the C-ordered activation; all of them when there are no more than `count`.
    """
    if size <= count:
        return np.arange(size)
    edges = np.arange(count + 1) * size // count
    words = stream("positions", name, size).random_raw(count)
    return edges[:-1] + (words % np.diff(edges).astype(np.uint64)).astype(np.int64)


def sketch(name: str, activation: NDArray, size: int) -> NDArray[np.float64]:
    """The signed sums that stand for a whole activation; the signs are drawn by the layer's name."""
    flat = activation.reshape(-1)
    bits = stream("signs", name, flat.size)
    sums = np.zeros(size)
    chunk = CHUNK - CHUNK % (64 * size)  # whole words of signs and whole rows of sums
    for start in range(0, flat.size, chunk):
        part = flat[start : start + chunk]
        words = bits.random_raw(-(-part.size // 64)).astype("<u8")
        signs = np.unpackbits(words.view(np.uint8), bitorder="little")[: part.size]
        signed = np.where(signs, part, -part).astype(np.float64)
        rows = signed.size // size
        sums += signed[: rows * size].reshape(rows, size).sum(axis=0)
        sums[: signed.size - rows * size] += signed[rows * size :]
    return sums


def total(activation: NDArray) -> tuple[float, float]:
    """Sum and Euclidean norm in float64, without a float64 copy of the whole."""
    flat = activation.reshape(-1)
    parts = [flat[start : start + CHUNK].astype(np.float64) for start in range(0, flat.size, CHUNK)]
    return math.fsum(float(part.sum()) for part in parts), math.sqrt(math.fsum(float(part @ part) for part in parts))


def _encode(value: object) -> object:
    if isinstance(value, Fraction):
        return {"_type": "fraction", "numerator": value.numerator, "denominator": value.denominator}
    raise TypeError(f"a golden file cannot hold {value!r} of type {type(value).__name__}")


def _decode(value: dict[str, Any]) -> Any:
    return Fraction(value["numerator"], value["denominator"]) if value.get("_type") == "fraction" else value


def decibels(signal: float, error: float) -> float:
    """Signal-to-noise ratio in dB of two Euclidean norms: infinite without an error, NaN if the error is."""
    if error == 0:
        return math.inf
    return 20 * math.log10(signal / error) if signal else -math.inf
