"""Model files in safetensors: exact both ways, and one clear line for everything else."""

from __future__ import annotations

import json
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import packages
import pytest

from demucs_np.errors import WeightsError
from demucs_np.models.config import DemucsConfig
from demucs_np.weights.formats import read_model_file
from demucs_np.weights.resolve import read_model


def raw(path: Path, header: Any, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def refused(path: Path) -> str:
    with pytest.raises(WeightsError) as error:
        read_model(path)
    text = str(error.value)
    assert text.startswith(str(path))
    assert "\n" not in text
    return text


def test_reads_exactly_what_was_written(tmp_path: Path) -> None:
    tensors = packages.draw()
    checkpoint = read_model(packages.write(tmp_path / "m.safetensors", tensors))
    assert checkpoint.config == DemucsConfig(("a", "b"), channels=4, depth=2, dconv_mode=0, segment=Fraction(3, 2))
    assert list(checkpoint.tensors) == list(tensors)
    for name, tensor in tensors.items():
        assert checkpoint.tensors[name].dtype == np.float32
        np.testing.assert_array_equal(checkpoint.tensors[name], tensor)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floats_become_float32(tmp_path: Path, dtype: Any) -> None:
    tensors = packages.draw(dtype=dtype)
    checkpoint = read_model(packages.write(tmp_path / "m.safetensors", tensors))
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(checkpoint.tensors[name], tensor.astype(np.float32))


def test_bfloat16(tmp_path: Path) -> None:
    tensors = packages.draw()
    header: dict[str, Any] = {"__metadata__": packages.metadata()}
    data = b""
    for name, tensor in tensors.items():
        upper = (tensor.view(np.uint32) >> 16).astype("<u2").tobytes()
        header[name] = {"dtype": "BF16", "shape": tensor.shape, "data_offsets": [len(data), len(data) + len(upper)]}
        data += upper
    checkpoint = read_model(raw(tmp_path / "m.safetensors", header, data))
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(checkpoint.tensors[name].view(np.uint32), tensor.view(np.uint32) & 0xFFFF0000)


def test_large_float32_is_mapped_and_small_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("demucs_np.weights.formats.checkpoint.SMALL", 64)
    tensors = read_model_file(packages.write(tmp_path / "m.safetensors", packages.draw())).checkpoint().tensors
    assert {tensor.size > 64 for tensor in tensors.values()} == {True, False}
    for tensor in tensors.values():
        assert tensor.flags.owndata == tensor.flags.writeable == (tensor.size <= 64)


def test_names_of_former_demucs(tmp_path: Path) -> None:
    tensors = packages.draw()
    former = {name.replace(".3.", ".2."): tensor for name, tensor in tensors.items()}
    assert former.keys() != tensors.keys()
    checkpoint = read_model(packages.write(tmp_path / "m.safetensors", former))
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(checkpoint.tensors[name], tensor)
    # Only if the new name is absent.
    assert "encoder.0.2.weight is unknown" in refused(
        packages.write(tmp_path / "both.safetensors", {**tensors, "encoder.0.2.weight": tensors["encoder.0.3.weight"]})
    )


def test_tensors_must_be_exactly_the_model_s(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    tensors = packages.draw()
    missing = {name: tensor for name, tensor in tensors.items() if name != "encoder.1.0.bias"}
    assert "tensor encoder.1.0.bias is missing" in refused(packages.write(path, missing))
    few = {name: tensor for name, tensor in tensors.items() if not name.startswith("decoder")}
    assert "and 5 more are missing" in refused(packages.write(path, few))
    assert "tensor extra is unknown to the model" in refused(packages.write(path, {**tensors, "extra": np.zeros(3, np.float32)}))
    turned = {**tensors, "encoder.0.0.weight": tensors["encoder.0.0.weight"].swapaxes(0, 1).copy()}
    assert "tensor encoder.0.0.weight has shape (2, 4, 8), the model needs (4, 2, 8)" in refused(packages.write(path, turned))
    whole = {**tensors, "encoder.0.0.bias": np.zeros(4, np.int64)}
    assert "tensor encoder.0.0.bias holds I64, not floating-point numbers" in refused(packages.write(path, whole))


def test_metadata_that_do_not_describe_a_model(tmp_path: Path) -> None:
    path, tensors = tmp_path / "m.safetensors", packages.draw()
    assert "tensors alone, which nothing describes" in refused(packages.write(path, tensors, {"format": "pt"}))
    assert "its metadata has no 'args'" in refused(packages.write(path, tensors, {"klass": packages.KLASS}))
    assert "'kwargs' is no valid JSON" in refused(packages.write(path, tensors, {**packages.metadata(), "kwargs": "{"}))
    assert "'args' is not a JSON list" in refused(packages.write(path, tensors, {**packages.metadata(), "args": "{}"}))
    assert "unknown model class 'os.system'" in refused(packages.write(path, tensors, packages.metadata("os.system")))
    kwargs = {**packages.KWARGS, "surprise": 1}
    assert "no argument 'surprise'" in refused(packages.write(path, tensors, packages.metadata(kwargs=kwargs)))
    broken = packages.metadata() | {"kwargs": '{"segment": {"_type": "fraction", "numerator": 1, "denominator": 0}}'}
    assert "bad fraction 1/0" in refused(packages.write(path, tensors, broken))


def test_files_that_are_not_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    assert "no such file" in refused(path)
    (tmp_path / "folder.safetensors").mkdir()
    assert "cannot be read: Is a directory" in refused(tmp_path / "folder.safetensors")
    path.write_bytes(b"")
    assert "it has 0 bytes" in refused(path)
    path.write_text("this is a text file, not a model at all")
    assert "not a safetensors file" in refused(path)
    assert "no valid JSON" in refused(raw(path, b"{nonsense}"))
    assert "no JSON object" in refused(raw(path, [1]))
    assert "no valid JSON" in refused(raw(path, b'{"a":1,"a":2}'))
    assert "metadata are not texts" in refused(raw(path, {"__metadata__": {"klass": 1}}))
    meta = {"__metadata__": packages.metadata()}
    for entry in ({}, 3, {"dtype": "F32", "shape": [1], "data_offsets": [0]}, {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}):
        assert "bad header entry 'x'" in refused(raw(path, {**meta, "x": entry}, bytes(4)))
    assert "unknown type 'F7'" in refused(raw(path, {**meta, "x": {"dtype": "F7", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)))
    one = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    assert "do not fit" in refused(raw(path, {**meta, "x": {**one, "shape": [2]}}, bytes(4)))
    assert "gap or overlap before tensor y" in refused(raw(path, {**meta, "x": one, "y": one}, bytes(4)))
    assert "4 bytes too many" in refused(raw(path, {**meta, "x": one}, bytes(8)))
    assert "truncated: 2 bytes of tensors where at least 4 belong" in refused(raw(path, {**meta, "x": one}, bytes(2)))


def test_every_truncation_is_one_clear_error(tmp_path: Path) -> None:
    whole = packages.write(tmp_path / "m.safetensors", packages.draw()).read_bytes()
    path = tmp_path / "cut.safetensors"
    for size in range(0, len(whole), 97):
        path.write_bytes(whole[:size])
        refused(path)


def test_structure_of_a_nested_state_is_checked(tmp_path: Path) -> None:
    for node in (3, {"_tensor": "nowhere"}, {"_dict": 3}, {"_import": "os"}, {"_list": []}, {"_dict": [["a", {"_list": 5}]]}):
        meta = packages.metadata(structure=json.dumps(node))
        assert "'structure'" in refused(packages.write(tmp_path / "m.safetensors", packages.draw(), meta))


def test_large_files_open_fast(tmp_path: Path) -> None:
    """Measured 5 to 30 ms for 168 MB; the limit leaves room for a busy machine."""
    kwargs = {"sources": ["a", "b", "c", "d"], "bottom_channels": 512, "dconv_mode": 3, "segment": Fraction(39, 5)}
    klass = "demucs.htdemucs.HTDemucs"
    path = packages.write(tmp_path / "m.safetensors", packages.draw(klass, kwargs), packages.metadata(klass, kwargs))
    start = time.perf_counter()
    checkpoint = read_model(path)
    assert time.perf_counter() - start < 0.4
    assert sum(tensor.nbytes for tensor in checkpoint.tensors.values()) == 4 * 41_984_456
