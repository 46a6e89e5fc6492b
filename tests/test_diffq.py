"""Quantised states: packed here from the format's description, unpacked by the package."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import packages
import pytest

from demucs_np.errors import WeightsError
from demucs_np.models.config import config_from_arguments
from demucs_np.models.layout import expected_tensors
from demucs_np.weights.formats.diffq import restore, unpack
from demucs_np.weights.formats.stored import ClassName, Stored
from demucs_np.weights.resolve import read_model

GROUP = 4
MIN_SIZE = 100 * 4 / 2**20  # MiB: parameters of up to 100 values stay plain
KWARGS = {"sources": ["a", "b"], "channels": 8, "depth": 2, "norm_starts": 1, "dconv_lstm": 1, "dconv_comp": 2, "lstm_layers": 1}


def pack64(levels: np.ndarray, planes: int) -> Stored:
    """int64 (lines, planes, 32): number line*2048 + j*32 + k has bit b at `(packed[line, b, k] >> j) & 1`."""
    lines = -(-len(levels) // 2048)
    numbers = np.zeros(lines * 2048, np.uint64)
    numbers[: len(levels)] = levels
    cube = numbers.reshape(lines, 64, 32)
    packed = np.zeros((lines, planes, 32), np.uint64)
    for plane in range(planes):
        for j in range(64):
            packed[:, plane] |= (cube[:, j] >> np.uint64(plane) & np.uint64(1)) << np.uint64(j)
    return Stored("I64", packed.view(np.int64))


def pack16(levels: np.ndarray, planes: int) -> Stored:
    """int16 (planes, groups): number j*groups + g has bit b at `(packed[b, g] >> j) & 1`."""
    groups = -(-len(levels) // 16)
    numbers = np.zeros(groups * 16, np.uint16)
    numbers[: len(levels)] = levels
    packed = np.zeros((planes, groups), np.uint16)
    for plane in range(planes):
        for j in range(16):
            packed[plane] |= (numbers.reshape(16, groups)[j] >> np.uint16(plane) & np.uint16(1)) << np.uint16(j)
    return Stored("I16", packed.view(np.int16))


PACKINGS = {"64-bit words": pack64, "16-bit words": pack16}


def value(level: int, bits: int, low: float, high: float) -> np.float32:
    """One value at a time, every step rounded to float32."""
    step = np.float32(np.float32(level) * np.float32(1 / (2**bits - 1)))
    return np.float32(np.float32(step * np.float32(high - low)) + np.float32(low))


def quantise(shapes: dict[str, tuple[int, ...]], pack: Any, uniform: bool, half: bool, seed: int = 0) -> tuple[dict, dict]:
    """A random quantised state and the tensors it stands for."""
    rng = np.random.default_rng(seed)
    plain, quantised, expected = [], [], {}
    for name, shape in shapes.items():
        count = int(np.prod(shape))
        if count <= 100:
            array = rng.standard_normal(shape).astype(np.float16 if half else np.float32)
            plain.append(Stored("F16" if half else "F32", array))
            expected[name] = array.astype(np.float32)
            continue
        low, high = float(np.float32(-rng.random())), float(np.float32(rng.random()))
        if uniform:
            levels = rng.integers(0, 2**5, count)
            quantised.append((pack(levels, 5), (low, high)))
            expected[name] = np.array([value(level, 5, low, high) for level in levels], np.float32).reshape(shape)
            continue
        widths = rng.choice([2, 3, 8, 14], count // GROUP)
        levels = rng.integers(0, 2 ** widths[:, None], (count // GROUP, GROUP))
        by_width = [pack(levels[widths == width].reshape(-1), width) if width in widths else None for width in range(1, 15)]
        quantised.append((by_width, (low, high), pack(widths - 2, 4), 0))
        values = [value(level, width, low, high) for row, width in zip(levels, widths, strict=True) for level in row]
        expected[name] = np.array(values, np.float32).reshape(shape)
    kwargs: dict[str, Any] = {"min_size": MIN_SIZE}
    kwargs |= {"bits": 5} if uniform else {"group_size": GROUP}
    klass = ClassName("diffq.uniform.UniformQuantizer" if uniform else "diffq.diffq.DiffQuantizer")
    state = {"quantized": quantised, "others": [] if half else plain, "float16": plain if half else [], "__quantized": True}
    return {**state, "meta": {"klass": klass, "init_kwargs": kwargs}}, expected


def shapes() -> dict[str, tuple[int, ...]]:
    return expected_tensors(config_from_arguments(packages.KLASS, (), KWARGS))


def same(tensors: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert list(tensors) == list(shapes())
    for name, tensor in expected.items():
        np.testing.assert_array_equal(tensors[name], tensor, err_msg=name)


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("count", [1, 16, 17, 2048, 2049, 5000])
@pytest.mark.parametrize("planes", [1, 2, 14])
def test_packed_bits(packing: str, count: int, planes: int) -> None:
    levels = np.random.default_rng(count).integers(0, 2**planes, count)
    np.testing.assert_array_equal(unpack(PACKINGS[packing](levels, planes), count), levels)


@pytest.mark.parametrize("packing", PACKINGS)
def test_no_planes_are_zeros(packing: str) -> None:
    np.testing.assert_array_equal(unpack(PACKINGS[packing](np.zeros(50, int), 0), 50), np.zeros(50))


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("uniform", [False, True])
@pytest.mark.parametrize("half", [False, True])
def test_state_round_trip(packing: str, uniform: bool, half: bool) -> None:
    state, expected = quantise(shapes(), PACKINGS[packing], uniform, half)
    same(restore(state, shapes()), expected)


def flattened(value: Any, tensors: dict[str, np.ndarray]) -> Any:
    """The JSON `structure` of a nested state."""
    if isinstance(value, Stored):
        tensors[str(len(tensors))] = value.array
        return {"_tensor": str(len(tensors) - 1)}
    if isinstance(value, dict):
        return {"_dict": [[key, flattened(item, tensors)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return {"_list" if isinstance(value, list) else "_tuple": [flattened(item, tensors) for item in value]}
    return {"_class": value.name} if isinstance(value, ClassName) else value


def test_quantised_safetensors(tmp_path: Path) -> None:
    state, expected = quantise(shapes(), pack64, uniform=False, half=True)
    tensors: dict[str, np.ndarray] = {}
    meta = packages.metadata(kwargs=KWARGS, structure=json.dumps(flattened(state, tensors)))
    same(read_model(packages.write(tmp_path / "q.safetensors", tensors, meta)).tensors, expected)


@pytest.mark.parametrize("packing", PACKINGS)
def test_quantised_package(tmp_path: Path, packing: str) -> None:
    def pickled(value: Any) -> Any:
        if isinstance(value, Stored):
            return archive.tensor(value.array)
        if isinstance(value, ClassName):
            return packages.Global(*value.name.rsplit(".", 1))
        if isinstance(value, dict):
            return {key: pickled(item) for key, item in value.items()}
        return type(value)(map(pickled, value)) if isinstance(value, (list, tuple)) else value

    archive = packages.Archive()
    state, expected = quantise(shapes(), PACKINGS[packing], uniform=False, half=False)
    package = {"klass": packages.Global("demucs.demucs", "Demucs"), "args": (), "kwargs": KWARGS, "state": pickled(state)}
    same(read_model(archive.write(tmp_path / "q.th", package)).tensors, expected)


def test_refused_with_the_parameter_named() -> None:
    good, _ = quantise(shapes(), pack64, uniform=False, half=False)

    def refused(change: Any) -> str:
        state = copy.deepcopy(good)
        change(state)
        with pytest.raises(WeightsError) as error:
            restore(state, shapes())
        return str(error.value)

    first = next(name for name, shape in shapes().items() if np.prod(shape) > 100)
    assert "no meta.init_kwargs" in refused(lambda state: state.pop("meta"))
    assert "'min_size' is None, not a number" in refused(lambda state: state["meta"]["init_kwargs"].pop("min_size"))
    assert "quantised and" in refused(lambda state: state["others"].pop())
    assert "quantised and" in refused(lambda state: state["quantized"].pop())
    assert "needs floats" in refused(lambda state: state["others"].reverse())
    assert f"tensor {first} is badly quantised" in refused(lambda state: state["quantized"].__setitem__(0, None))
    levels, bounds, widths, extra = good["quantized"][0]
    for entry, text in (
        (([None] * 14, bounds, widths, extra), "packed levels are not a tensor"),
        ((levels[:2], bounds, widths, extra), "of its groups have no levels"),
        ((levels, bounds, Stored("F32", np.zeros((1, 1, 32), np.float32)), extra), "packed levels are F32"),
        ((levels, bounds, Stored("I64", np.zeros((0, 4, 32), np.int64)), extra), "0 packed levels where"),
        ((levels, bounds, Stored("I64", np.zeros((1, 40, 32), np.int64)), extra), "40 bits a level"),
        ((levels, (1.0,), widths, extra), "badly quantised"),
    ):
        assert text in refused(lambda state, entry=entry: state["quantized"].__setitem__(0, entry))
    assert "do not divide into groups of 7" in refused(lambda state: state["meta"]["init_kwargs"].update(group_size=7))
