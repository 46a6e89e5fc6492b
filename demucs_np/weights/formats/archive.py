"""Read PyTorch's zip archives without PyTorch and without running what they pickle."""

from __future__ import annotations

import io
import mmap
import re
import stat
import zipfile
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ...errors import WeightsError, shown
from .machine import Machine
from .stored import DTYPES

MAX_PICKLE = 256 << 20  # bytes of the pickle itself; tensors lie beside it, but for a file that is packed inside another


def read_archive(source: Path | io.BytesIO) -> Any:
    """The object in a PyTorch zip archive: dicts, lists, numbers, texts, `Stored` tensors and `ClassName`s.

    Raises WeightsError (its text without the path).
    """
    try:
        with open(source, "rb") if isinstance(source, Path) else source as file, zipfile.ZipFile(file) as archive:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if isinstance(source, Path) else source.getvalue()
            return _read_object(archive, memoryview(data))
    except OSError as error:
        raise WeightsError(f"cannot be read: {error.strerror or error}") from None
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, UnicodeDecodeError) as error:
        if isinstance(error, RecursionError):
            raise
        raise WeightsError(f"truncated or damaged archive ({str(error)[:120]}); fetch the file again") from None


def _read_object(archive: zipfile.ZipFile, data: memoryview) -> Any:
    names = [_checked(member) for member in archive.infolist()]
    if len(set(names)) != len(names):
        raise WeightsError("unsafe archive: two members of one name")
    roots = {name.split("/", 1)[0] for name in names}
    pickles = [name for name in names if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(roots) != 1 or len(pickles) != 1:
        raise WeightsError("not a PyTorch archive: it has no data.pkl in its one folder")
    (root,) = roots
    if f"{root}/constants.pkl" in names:
        raise WeightsError("a TorchScript program, not a package of weights")
    byteorder = archive.read(f"{root}/byteorder") if f"{root}/byteorder" in names else b"little"
    if byteorder not in (b"little", b"big"):
        raise WeightsError(f"unknown byte order {byteorder[:20]!r}")
    if archive.getinfo(pickles[0]).file_size > MAX_PICKLE:
        raise WeightsError("its pickle is too large for a package of weights")
    storages = _Storages(archive, data, root, ">" if byteorder == b"big" else "<")
    return Machine(storages.tensor_data).run(archive.read(pickles[0]))


def _checked(member: zipfile.ZipInfo) -> str:
    """The name of an archive's member, which must be a plain file somewhere below the archive's one folder."""
    # ZipInfo.filename has been cut and translated already.
    name = member.orig_filename
    parts = re.split(r"[/\\]", name)
    if name.startswith(("/", "\\")) or ".." in parts or "\\" in name or "\0" in name or re.match(r"[A-Za-z]:", name):
        raise WeightsError(f"unsafe archive: it has a member named {shown(name)}")
    mode = member.external_attr >> 16
    if mode and not (stat.S_ISREG(mode) or stat.S_IFMT(mode) == 0):
        raise WeightsError(f"unsafe archive: {shown(name)} is not a plain file")
    if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
        raise WeightsError(f"not a PyTorch archive: {shown(name)} is compressed or encrypted")
    return name


class _Storages:
    """The archive's `data/<key>` members: where they lie in the memory-mapped file, each checked at its first use."""

    def __init__(self, archive: zipfile.ZipFile, data: memoryview, root: str, byteorder: Literal["<", ">"]) -> None:
        self._archive, self._data, self._root, self._byteorder = archive, data, root, byteorder
        self._read: dict[str, memoryview] = {}

    def tensor_data(self, dtype: str, key: str, count: int) -> np.ndarray:
        """`count` numbers of storage `key`."""
        name = f"{self._root}/data/{key}"
        if key not in self._read:
            try:
                self._read[key] = self._member(self._archive.getinfo(name))
            except KeyError:
                raise WeightsError(f"truncated or damaged archive: no member {shown(name)}") from None
        numbers = DTYPES[dtype].newbyteorder(self._byteorder)
        if count * numbers.itemsize > len(self._read[key]):
            raise WeightsError(f"truncated or damaged archive: {shown(name)} has {len(self._read[key])} bytes, {count} numbers need more")
        return np.frombuffer(self._read[key], numbers, count)

    def _member(self, info: zipfile.ZipInfo) -> memoryview:
        """The bytes of a member, which is not compressed. Its own header says how long its name and what follows it are."""
        header = self._data[info.header_offset : info.header_offset + 30]
        if len(header) < 30 or bytes(header[:4]) != b"PK\x03\x04":
            raise WeightsError("truncated or damaged archive: a member is not where it should be")
        start = info.header_offset + 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        member = self._data[start : start + info.file_size]
        if len(member) < info.file_size or zlib.crc32(member) != info.CRC:
            raise WeightsError(f"truncated or damaged archive (Bad CRC-32 for file {info.filename!r}); fetch the file again")
        return member
