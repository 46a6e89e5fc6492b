"""Conversion of `.th` packages to safetensors."""

from __future__ import annotations

import hashlib
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import packages
import pytest
from click.testing import CliRunner
from packages import Archive, package
from safetensors import safe_open

from demucs_np.commands.main import main
from demucs_np.errors import DemucsError, ModelError, UsageError, WeightsError
from demucs_np.weights.convert import convert_directory, convert_file
from demucs_np.weights.formats import read_model_file
from demucs_np.weights.resolve import read_model

DATA = Path(__file__).parent / "data"


def write(path: Path, dtype: Any = np.float16, **extra: Any) -> Path:
    archive = Archive()
    content = package(archive, packages.draw(dtype=dtype))
    content["kwargs"] |= extra
    return archive.write(path, content)


def named(path: Path, signature: str) -> Path:
    """Renamed as published, with the start of its checksum."""
    return path.rename(path.with_name(f"{signature}-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}.th"))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_types_and_bits_are_kept(tmp_path: Path, dtype: Any) -> None:
    target = convert_file(write(tmp_path / "m.th", dtype), tmp_path / "m.safetensors")
    with safe_open(target, "numpy") as file:
        stored = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    for name, tensor in packages.draw(dtype=dtype).items():
        assert stored[name].dtype == dtype
        np.testing.assert_array_equal(stored[name], tensor)
    assert metadata["klass"] == "demucs.demucs.Demucs"
    assert json.loads(metadata["args"]) == []
    assert json.loads(metadata["kwargs"])["segment"] == {"_type": "fraction", "numerator": 3, "denominator": 2}
    assert read_model(target).config.segment == Fraction(3, 2)


def test_training_arguments_are_kept_for_demucs(tmp_path: Path) -> None:
    target = convert_file(write(tmp_path / "m.th", rescale=0.5, dconv_init=1e-3), tmp_path / "m.safetensors")
    assert read_model_file(target).kwargs["rescale"] == 0.5


def test_a_package_that_pytorch_wrote(tmp_path: Path) -> None:
    target = convert_file(DATA / "pytorch_f16.th", tmp_path / "m.safetensors")
    ours, theirs = read_model_file(target), read_model_file(DATA / "pytorch_f16.safetensors")
    assert ours.config == theirs.config
    assert {stored.dtype for stored in ours.stored.values()} == {"F16"}
    for name, stored in theirs.stored.items():
        np.testing.assert_array_equal(ours.stored[name].array, stored.array)
    assert convert_file(DATA / "pytorch_f16.th", tmp_path / "again.safetensors").read_bytes() == target.read_bytes()


def test_checksum_in_the_name(tmp_path: Path) -> None:
    good = named(write(tmp_path / "m.th"), "955717e8")
    assert convert_file(good, tmp_path) == tmp_path / "955717e8.safetensors"
    bad = good.rename(tmp_path / "955717e8-00000000.th")
    with pytest.raises(WeightsError, match=r"its SHA-256 starts with [0-9a-f]{8}, not with 00000000 as its name says"):
        convert_file(bad, tmp_path / "x.safetensors")
    plain = bad.rename(tmp_path / "my-model.th")
    assert convert_file(plain, tmp_path) == tmp_path / "my-model.safetensors"


def test_a_folder(tmp_path: Path) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    named(write(source / "m.th"), "955717e8")
    (source / "broken.th").write_bytes(b"text")
    (source / "bag.yaml").write_text("models: ['955717e8']\n")
    done: dict[str, Any] = {}
    assert not convert_directory(source, target, lambda file, result: done.setdefault(file.name[:8], result))
    assert done["955717e8"] == target / "955717e8.safetensors"
    assert isinstance(done["broken.t"], DemucsError)
    assert sorted(path.name for path in target.iterdir()) == ["955717e8.safetensors", "bag.yaml"]
    result = CliRunner().invoke(main, ["convert", str(source), str(target)])
    assert result.exit_code == 1
    assert "broken.th: not a PyTorch archive" in result.output
    write(source / "955717e8.th")
    with pytest.raises(WeightsError, match="both of the signature 955717e8; delete all but one"):
        convert_directory(source, target, lambda *_: None)
    with pytest.raises(WeightsError, match=r"no \.th file in this folder"):
        convert_directory(target, source, lambda *_: None)


def test_errors(tmp_path: Path) -> None:
    source = write(tmp_path / "m.th")
    with pytest.raises(UsageError, match=r"must be named \*\.safetensors"):
        convert_file(source, tmp_path / "m.bin")
    with pytest.raises(WeightsError, match="no such file"):
        convert_file(tmp_path / "none.th", tmp_path / "m.safetensors")
    (tmp_path / "file").write_text("")
    with pytest.raises(DemucsError, match=r"file/m\.safetensors: cannot be written \(file exists\); choose another place") as written:
        convert_file(source, tmp_path / "file" / "m.safetensors")
    assert not isinstance(written.value, ModelError)  # nothing is wrong with the model
    with pytest.raises(WeightsError, match="no argument 'surprise'"):
        convert_file(write(tmp_path / "odd.th", surprise=1), tmp_path / "odd.safetensors")
    assert not list(tmp_path.glob("*.safetensors"))
    assert not list(tmp_path.glob(".*"))


def test_command(tmp_path: Path) -> None:
    source = write(tmp_path / "m.th")
    result = CliRunner().invoke(main, ["convert", str(source), str(tmp_path / "m.safetensors")])
    assert (result.exit_code, result.output) == (0, f"{source} -> {tmp_path / 'm.safetensors'}\n")
    result = CliRunner().invoke(main, ["convert", str(tmp_path / "none.th"), str(tmp_path / "n.safetensors")])
    assert result.exit_code == 1
    assert result.output == f"Error: {tmp_path / 'none.th'}: no such file\n"
