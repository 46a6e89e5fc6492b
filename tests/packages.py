"""Small models and files of them, written without PyTorch and without the code under test."""

from __future__ import annotations

import json
import struct
import zipfile
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from demucs_np.models.config import config_from_arguments
from demucs_np.models.layout import expected_tensors

KLASS = "demucs.demucs.Demucs"
KWARGS: dict[str, Any] = {"sources": ["a", "b"], "channels": 4, "depth": 2, "dconv_mode": 0, "segment": Fraction(3, 2)}


def draw(klass: str = KLASS, kwargs: dict[str, Any] = KWARGS, dtype: Any = np.float32, seed: int = 0) -> dict[str, np.ndarray]:
    """Random tensors for a model."""
    rng = np.random.default_rng(seed)
    shapes = expected_tensors(config_from_arguments(klass, (), kwargs))
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}


def metadata(klass: str = KLASS, kwargs: dict[str, Any] = KWARGS, **more: str) -> dict[str, str]:
    def encode(value: Any) -> Any:
        assert isinstance(value, Fraction)
        return {"_type": "fraction", "numerator": value.numerator, "denominator": value.denominator}

    return {"klass": klass, "args": "[]", "kwargs": json.dumps(kwargs, default=encode), **more}


def write(path: Path, tensors: dict[str, np.ndarray], meta: dict[str, str] | None = None) -> Path:
    save_file(tensors, path, metadata() if meta is None else meta)
    return path


@dataclass(frozen=True)
class Global:
    """A name that the pickle refers to."""

    module: str
    name: str


@dataclass(frozen=True)
class Call:
    """What the pickle has called on loading; `state` is given to the result's __setstate__."""

    function: Any
    args: tuple[Any, ...]
    state: Any = None


@dataclass(frozen=True)
class Persistent:
    identity: tuple[Any, ...]


def pickled(value: Any) -> bytes:
    """Protocol 2, as PyTorch writes it."""
    return b"\x80\x02" + _code(value) + b"."


def _code(value: Any) -> bytes:
    if value is None:
        return b"N"
    if isinstance(value, bool):
        return b"\x88" if value else b"\x89"
    if isinstance(value, int):
        if -(2**31) <= value < 2**31:
            return b"J" + struct.pack("<i", value)
        data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        return b"\x8a" + bytes([len(data)]) + data
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, str):
        data = value.encode()
        return b"X" + struct.pack("<I", len(data)) + data
    if isinstance(value, bytes):
        return _code(Call(Global("_codecs", "encode"), (value.decode("latin1"), "latin1")))
    if isinstance(value, tuple):
        return b"(" + b"".join(map(_code, value)) + b"t"
    if isinstance(value, list):
        return b"](" + b"".join(map(_code, value)) + b"e"
    if isinstance(value, dict):
        return b"}(" + b"".join(_code(item) for pair in value.items() for item in pair) + b"u"
    if isinstance(value, Fraction):
        return _code(Call(Global("fractions", "Fraction"), (str(value),)))
    if isinstance(value, Global):
        return b"c" + f"{value.module}\n{value.name}\n".encode()
    if isinstance(value, Persistent):
        return _code(value.identity) + b"Q"
    if isinstance(value, Call):
        return _code(value.function) + _code(value.args) + b"R" + (b"" if value.state is None else _code(value.state) + b"b")
    raise TypeError(type(value))


STORAGE = {"f2": "Half", "f4": "Float", "f8": "Double", "i8": "Long", "i4": "Int", "i2": "Short", "i1": "Char", "u1": "Byte", "b1": "Bool"}


class Archive:
    """A PyTorch archive in the making: `tensor` stores an array and gives what the pickle says of it."""

    def __init__(self, byteorder: str = "little", root: str = "package") -> None:
        self.members: dict[str, bytes] = {}
        self.root, self.order = root, byteorder

    def store(self, array: np.ndarray) -> Persistent:
        key = str(len(self.members))
        self.members[key] = np.ascontiguousarray(array, array.dtype.newbyteorder("<" if self.order == "little" else ">")).tobytes()
        return Persistent(("storage", Global("torch", STORAGE[array.dtype.str[1:]] + "Storage"), key, "cpu", array.size))

    def tensor(self, array: np.ndarray) -> Call:
        strides = tuple(step // array.itemsize for step in np.empty(array.shape, array.dtype).strides)
        return self.view(self.store(array), 0, array.shape, strides)

    @staticmethod
    def view(storage: Persistent, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> Call:
        hooks = Call(Global("collections", "OrderedDict"), ())
        return Call(Global("torch._utils", "_rebuild_tensor_v2"), (storage, offset, shape, strides, False, hooks))

    def write(self, path: Path, package: Any, **more: bytes) -> Path:
        """`more`: further members by name."""
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(f"{self.root}/data.pkl", package if isinstance(package, bytes) else pickled(package))
            archive.writestr(f"{self.root}/byteorder", self.order)
            for key, data in self.members.items():
                info = zipfile.ZipInfo(f"{self.root}/data/{key}")
                # As PyTorch does, so that numbers lie at multiples of 64 bytes.
                padding = -(archive.fp.tell() + 30 + len(info.filename) + 4) % 64  # type: ignore[union-attr]
                info.extra = b"FB" + struct.pack("<H", padding) + b"Z" * padding
                archive.writestr(info, data)
            archive.writestr(f"{self.root}/version", "3\n")
            for name, data in more.items():
                archive.writestr(name, data)
        return path


def package(archive: Archive, tensors: dict[str, np.ndarray], klass: str = KLASS, kwargs: dict[str, Any] = KWARGS) -> dict[str, Any]:
    """What demucs pickles."""
    module, name = klass.rsplit(".", 1)
    state = {key: archive.tensor(value) for key, value in tensors.items()}
    training = {"optim": {"lr": 3e-4, "betas": [0.9, 0.999]}, "seed": 42, "resume": None}
    return {"klass": Global(module, name), "args": (), "kwargs": dict(kwargs), "state": state, "training_args": training}
