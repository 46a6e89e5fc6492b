"""Official `.th` packages, read without PyTorch and without running anything that they hold."""

from __future__ import annotations

import os
import pickle
import zipfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import packages
import pytest
from packages import Archive, Call, Global, Persistent, package

from demucs_np.errors import WeightsError
from demucs_np.models.config import DemucsConfig, HTDemucsConfig
from demucs_np.weights.formats.archive import read_archive
from demucs_np.weights.resolve import read_model

DATA = Path(__file__).parent / "data"


def refused(path: Path) -> str:
    with pytest.raises(WeightsError) as error:
        read_model(path)
    text = str(error.value)
    assert text.startswith(str(path))
    assert "\n" not in text
    return text


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
@pytest.mark.parametrize("byteorder", ["little", "big"])
def test_reads_what_was_written(tmp_path: Path, dtype: Any, byteorder: str) -> None:
    archive, tensors = Archive(byteorder), packages.draw(dtype=dtype)
    checkpoint = read_model(archive.write(tmp_path / "m.th", package(archive, tensors)))
    assert checkpoint.config == DemucsConfig(("a", "b"), channels=4, depth=2, dconv_mode=0, segment=Fraction(3, 2))
    assert list(checkpoint.tensors) == list(tensors)
    for name, tensor in tensors.items():
        assert checkpoint.tensors[name].dtype == np.float32
        np.testing.assert_array_equal(checkpoint.tensors[name], tensor.astype(np.float32))


def test_a_package_that_pytorch_wrote() -> None:
    """tests/data/pytorch_f16.th: see tests/live/test_convert_torch.py, which wrote both files."""
    checkpoint = read_model(DATA / "pytorch_f16.th")
    assert isinstance(checkpoint.config, HTDemucsConfig)
    assert checkpoint.config.segment == Fraction(39, 5)
    assert (checkpoint.config.freq_emb, checkpoint.config.t_heads, checkpoint.config.cac) == (0.25, 2, False)
    expected = read_model(DATA / "pytorch_f16.safetensors")
    assert checkpoint.config == expected.config
    assert list(checkpoint.tensors) == list(expected.tensors)
    for name, tensor in expected.tensors.items():
        np.testing.assert_array_equal(checkpoint.tensors[name], tensor)


def test_views_of_one_storage(tmp_path: Path) -> None:
    """Offsets, strides and shared storages."""
    archive = Archive()
    base = np.arange(24, dtype=np.float32)
    storage = archive.store(base)
    content = [archive.view(storage, 2, (3, 4), (1, 5)), archive.view(storage, 23, (), ()), archive.view(storage, 5, (2, 3), (0, 2))]
    content.append(archive.view(storage, 0, (0, 7), (7, 1)))
    turned, scalar, repeated, empty = read_archive(archive.write(tmp_path / "m.th", content))
    np.testing.assert_array_equal(turned.array, [[base[2 + i + 5 * j] for j in range(4)] for i in range(3)])
    assert scalar.array == 23
    np.testing.assert_array_equal(repeated.array, [[5, 7, 9], [5, 7, 9]])
    assert empty.array.shape == (0, 7)
    for offset, shape, strides in ((24, (1,), (1,)), (0, (25,), (1,)), (20, (2, 3), (4, 1))):
        with pytest.raises(WeightsError, match="a tensor reaches beyond its storage"):
            read_archive(archive.write(tmp_path / "m.th", archive.view(storage, offset, shape, strides)))
    for offset, shape, strides in ((-1, (1,), (1,)), (0, (2,), (-1,)), (0, (2,), ()), (0, (2.0,), (1,)), (0, (2,) * 9, (1,) * 9)):
        with pytest.raises(WeightsError, match="bad tensor geometry"):
            read_archive(archive.write(tmp_path / "m.th", archive.view(storage, offset, shape, strides)))


def test_numpy_scalars_fractions_and_parameters(tmp_path: Path) -> None:
    def scalar(array: Any, module: str) -> Call:
        order = array.dtype.str[0]
        kind = Call(Global("numpy", "dtype"), (array.dtype.str[1:], False, True), (3, order, None, None, None, -1, -1, 0))
        return Call(Global(module, "scalar"), (kind, array.tobytes()))

    archive = Archive()
    values = [np.float64(0.1), np.float32(0.5), np.int64(-3), np.bool_(True), np.uint8(200)]
    parameter = Call(Global("torch._utils", "_rebuild_parameter"), (archive.tensor(np.ones(3, np.float16)), True, None))
    content = {
        "old": [scalar(value, "numpy.core.multiarray") for value in values],
        "new": [scalar(value, "numpy._core.multiarray") for value in values],
        "fractions": [Fraction(-39, 5), Call(Global("fractions", "Fraction"), (7, 2))],
        "ordered": Call(Global("collections", "OrderedDict"), ([["a", 1], ["b", 2]],), {"_metadata": {}}),
        "parameter": parameter,
        "big": 2**70,
    }
    result = read_archive(archive.write(tmp_path / "m.th", content))
    for key in ("old", "new"):
        assert result[key] == values
        assert {type(value) for value in result[key]} == {float, int, bool}
    assert result["fractions"] == [Fraction(-39, 5), Fraction(7, 2)]
    assert result["ordered"] == {"a": 1, "b": 2}
    assert result["big"] == 2**70
    assert result["parameter"].array.tolist() == [1, 1, 1]


class Touch:
    """Unpickled by the stock loader, this runs a command."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickled_code_does_not_run(tmp_path: Path, protocol: int) -> None:
    mark = tmp_path / "executed"
    program = pickle.dumps({"klass": Touch(mark)}, protocol)
    pickle.loads(program)
    assert mark.exists()
    mark.unlink()
    text = refused(Archive().write(tmp_path / "m.th", program))
    assert "refused: it names 'posix.system'" in text or "refused: it names 'nt.system'" in text
    assert not mark.exists()


@pytest.mark.parametrize(
    "name",
    ["os.system", "builtins.eval", "__builtin__.exec", "subprocess.Popen", "numpy.core.multiarray._reconstruct", "torch.load", "diffq.run",
     "operator.attrgetter", "torch._utils._rebuild_tensor_v2.__globals__", "demucs.train.main"],
)  # fmt: skip
def test_other_names_are_refused(tmp_path: Path, name: str) -> None:
    path = Archive().write(tmp_path / "m.th", {"klass": Call(Global(*name.rsplit(".", 1)), ("x",))})
    assert f"refused: it names {name!r}" in refused(path)


def test_classes_are_never_called(tmp_path: Path) -> None:
    for module, name in (("demucs.demucs", "Demucs"), ("diffq.diffq", "DiffQuantizer"), ("torch", "FloatStorage")):
        text = refused(Archive().write(tmp_path / "m.th", {"klass": Call(Global(module, name), ())}))
        assert f"refused: it calls '{module}.{name}'" in text


@pytest.mark.parametrize(
    ("program", "text"),
    [
        (b"\x80\x02(ios\nsystem\n.", "the instruction INST"),
        (b"\x80\x02(cos\nsystem\nX\x01\x00\x00\x00ao.", "it names 'os.system'"),
        (b"\x80\x02(ccollections\nOrderedDict\no.", "the instruction OBJ"),
        (b"\x80\x02ccollections\nOrderedDict\n)\x81.", "the instruction NEWOBJ"),
        (b"\x80\x04\x82\x01.", "the instruction EXT1"),
        (b"\x80\x02P1\n.", "the instruction PERSID"),
        (b"\x80\x02)R.", "stack underflow"),
        (b"\x80\x02K\x01K\x02R.", "call of no function"),
        (b"\x80\x02]N\x62.", "state of an object that has none"),
        (b"\x80\x02ccollections\nOrderedDict\n}b.", "state of an object that has none"),
        (b"\x80\x02h\x07.", "damaged or foreign pickle"),
        (b"\x80\x02t.", "damaged or foreign pickle"),
        (b"\x80\x02}]]s.", "damaged or foreign pickle"),
        (b"\x80\x02]q\x00h\x00.", "not a Demucs model"),
        (b"\x80\x02K\x01", "damaged or foreign pickle"),
        (b"\xff\xfe", "damaged or foreign pickle"),
        (b"", "damaged or foreign pickle"),
        (b"\x80\x02X\xff\xff\xff\x7fabc.", "damaged or foreign pickle"),
    ],
)
def test_hostile_and_broken_programs(tmp_path: Path, program: bytes, text: str) -> None:
    assert text in refused(Archive().write(tmp_path / "m.th", program))


def test_every_truncated_program_is_one_clear_error(tmp_path: Path) -> None:
    archive = Archive()
    program = packages.pickled(package(archive, packages.draw()))
    for size in range(0, len(program), 53):
        refused(archive.write(tmp_path / "m.th", program[:size]))


def test_hostile_arguments(tmp_path: Path) -> None:
    for call, text in (
        (Call(Global("fractions", "Fraction"), ("1e999999999",)), "bad fraction"),
        (Call(Global("fractions", "Fraction"), (1, 0)), "damaged or foreign"),
        (Call(Global("_codecs", "encode"), ("00", "hex")), "encoding"),
        (Call(Global("numpy", "dtype"), ("O8", False, True)), "numpy type 'O8'"),
        (Call(Global("torch._utils", "_rebuild_tensor_v2"), (3, 0, (1,), (1,), False, None)), "tensor without storage"),
        (Persistent(("module", Global("torch", "FloatStorage"), "0", "cpu", 1)), "storage"),
        (Persistent(("storage", Global("torch", "FloatStorage"), "../../etc/passwd", "cpu", 1)), "storage key '../../etc/passwd'"),
        (
            Archive.view(Persistent(("storage", Global("torch", "FloatStorage"), "77", "cpu", 1)), 0, (1,), (1,)),
            "no member 'package/data/77'",
        ),
    ):
        assert text in refused(Archive().write(tmp_path / "m.th", {"state": call}))


def test_packages_that_are_no_model(tmp_path: Path) -> None:
    archive = Archive()
    good = package(archive, packages.draw())
    path = tmp_path / "m.th"
    assert "no package of klass, args, kwargs and state" in refused(archive.write(path, {"state": {}}))
    assert "no package of klass, args, kwargs and state" in refused(archive.write(path, [1, 2]))
    assert "its klass is no class" in refused(archive.write(path, {**good, "klass": "demucs.demucs.Demucs"}))
    assert "of a wrong type" in refused(archive.write(path, {**good, "state": [1]}))
    assert "unknown model class 'diffq.diffq.DiffQuantizer'" in refused(
        archive.write(path, {**good, "klass": Global("diffq.diffq", "DiffQuantizer")})
    )
    assert "it names 'my.module.Net'" in refused(archive.write(path, {**good, "klass": Global("my.module", "Net")}))
    assert "no argument 'surprise'" in refused(archive.write(path, {**good, "kwargs": {**packages.KWARGS, "surprise": 1}}))
    assert "tensor extra is unknown" in refused(archive.write(path, {**good, "state": {**good["state"], "extra": 3}}))
    assert "encoder.0.0.bias is not a tensor" in refused(archive.write(path, {**good, "state": {**good["state"], "encoder.0.0.bias": 3}}))
    whole = {**good["state"], "encoder.0.0.bias": archive.tensor(np.zeros(4, np.int64))}
    assert "encoder.0.0.bias holds I64" in refused(archive.write(path, {**good, "state": whole}))
    nested = b"\x80\x02]" + b"\x85" * 100_000 + b"."
    assert "nested too deep" in refused(archive.write(path, nested))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("/etc/passwd", "unsafe archive: it has a member named '/etc/passwd'"),
        ("../evil", "unsafe archive"),
        ("package/../../evil", "unsafe archive"),
        ("C:\\evil", "unsafe archive"),
        ("C:/evil", "unsafe archive"),
        ("other/data.pkl", "it has no data.pkl in its one folder"),
        ("package/constants.pkl", "a TorchScript program"),
        ("package/byteorder", "two members of one name"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_odd_archives(tmp_path: Path, name: str, text: str) -> None:
    archive = Archive()
    path = archive.write(tmp_path / "m.th", package(archive, packages.draw()), **{name: b""})
    assert text in refused(path)


def test_links_and_compressed_members(tmp_path: Path) -> None:
    path = tmp_path / "m.th"
    with zipfile.ZipFile(path, "w") as archive:
        link = zipfile.ZipInfo("package/data.pkl")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    assert "is not a plain file" in refused(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("package/data.pkl", bytes(1 << 20))
    assert "compressed or encrypted" in refused(path)


def test_foreign_and_damaged_files(tmp_path: Path) -> None:
    path = tmp_path / "m.th"
    assert "no such file" in refused(path)
    for content, text in (
        (b"", "not a PyTorch archive"),
        (b"a text file, not a model", "not a PyTorch archive"),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.", "damaged or foreign pickle"),
        (bytes(257) + b"ustar" + bytes(250), "written by PyTorch before 0.2"),
        (b"PK\x03\x04" + bytes(500), "truncated or damaged archive"),
    ):
        path.write_bytes(content)
        assert text in refused(path)
    archive = Archive()
    whole = archive.write(path, package(archive, packages.draw())).read_bytes()
    for size in range(100, len(whole), 211):
        path.write_bytes(whole[:size])
        assert "truncated or damaged archive" in refused(path)
    # One changed byte in a tensor: the archive's own checksums tell.
    place = whole.index(archive.members["0"]) + 5
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    assert "Bad CRC-32" in refused(path)
    archive = Archive()
    content = package(archive, packages.draw())
    archive.members["0"] = archive.members["0"][:-1]
    assert "numbers need more" in refused(archive.write(path, content))
