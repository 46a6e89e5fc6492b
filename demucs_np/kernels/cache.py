"""Where compiled kernels are kept between runs: Numba's cache, on machines and disks as they are.

Numba alone compiles again whenever the file of a kernel changed, but not when a function changed that the kernel inlines from another
file; it fails where no folder can be written, where the disk is full, and for ever once a file is damaged. Here a kernel belongs to the
whole folder of sources, files carry a checksum, and what cannot be kept is compiled again, with a `CacheWarning` that says so once.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import stat
import tempfile
import warnings
from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numba
from numba.core import caching
from numba.core.serialize import dumps

from ..errors import CacheWarning, reason_of
from . import ahead

# What forces other code: vector width, fused multiply-add, register blocks, reordered sums. Each combination has files of its own.
FORCED = ("DEMUCS_NP_LANES", "DEMUCS_NP_FMA", "DEMUCS_NP_ROWS", "DEMUCS_NP_REASSOC")
DIGEST = hashlib.sha256().digest_size
ELSEWHERE = "set NUMBA_CACHE_DIR to a folder that can be written"


@lru_cache(maxsize=1)
def _sources() -> str:
    """A checksum of all kernels, since they inline each other, and of Numba's version."""
    digest = hashlib.sha256(numba.__version__.encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _forced() -> str:
    values = [os.environ.get(name, "") for name in FORCED]
    return "-" + hashlib.sha256(repr(values).encode()).hexdigest()[:8] if any(values) else ""


class _Readable:
    """For locators: a folder that cannot be written serves as well, if kernels were compiled into it, as in an image."""

    @classmethod
    def from_function(cls, function: Any, file: str) -> Any:
        found: Any = super().from_function(function, file)  # type: ignore[misc]
        if found is None and os.path.exists(file):
            try:
                found = cls(function, file)  # type: ignore[call-arg]
                if not any(Path(found.get_cache_path()).glob(f"*{function.__name__}-*.nbi")):
                    return None
            except (OSError, TypeError):  # no such folder, or none that may be read; NUMBA_CACHE_DIR is not set
                return None
        return found


class _Given(_Readable, caching.UserProvidedCacheLocator):
    """NUMBA_CACHE_DIR."""


class _Beside(_Readable, caching.InTreeCacheLocator):
    """`__pycache__` beside the source."""


class _OfUser(caching.UserWideCacheLocator):
    """The user's cache folder, if the user has a home."""

    @classmethod
    def from_function(cls, function: Any, file: str) -> Any:
        return super().from_function(function, file) if os.path.isabs(os.path.expanduser("~")) else None


class _Temporary(caching.UserWideCacheLocator):
    """A folder in the temporary one that nobody else can write to: what is in it is code, and is run."""

    def __init__(self, function: Any, file: str) -> None:
        super().__init__(function, file)
        owner = os.getuid() if hasattr(os, "getuid") else 0
        self.folder = os.path.join(tempfile.gettempdir(), f"demucs-np-kernels-{owner}")
        self._cache_path = os.path.join(self.folder, self.get_suitable_cache_subpath(file))

    def ensure_cache_path(self) -> None:
        os.makedirs(self.folder, mode=0o700, exist_ok=True)
        found = os.lstat(self.folder)
        if hasattr(os, "getuid") and (not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022):
            raise PermissionError(f"{self.folder} belongs to somebody else")
        super().ensure_cache_path()

    @classmethod
    def from_function(cls, function: Any, file: str) -> Any:
        try:
            return super().from_function(function, file)
        except OSError:  # no temporary folder either
            return None


class _Files(caching.IndexDataCacheFile):
    """Index and data as Numba writes them, each behind a checksum."""

    def _load_index(self) -> dict[Any, str]:
        try:
            stamp, overloads = self._read(self._index_path)
        except FileNotFoundError:
            return {}
        return overloads if stamp == self._source_stamp else {}

    def _save_index(self, overloads: dict[Any, str]) -> None:
        self._write(self._index_path, (self._source_stamp, overloads))

    def _load_data(self, name: str) -> Any:
        return self._read(self._data_path(name))

    def _save_data(self, name: str, data: Any) -> None:
        self._write(self._data_path(name), data)

    def _read(self, path: str) -> Any:
        content = Path(path).read_bytes()
        if hashlib.sha256(content[DIGEST:]).digest() != content[:DIGEST]:
            raise ValueError(f"{path} is damaged")
        return pickle.loads(content[DIGEST:])

    def _write(self, path: str, value: Any) -> None:
        data = dumps(value)
        with self._open_for_write(path) as file:
            file.write(hashlib.sha256(data).digest() + data)


class _Implementation(caching.CompileResultCacheImpl):
    _locator_classes = [_Given, _Beside, _OfUser, _Temporary]  # noqa: RUF012

    def get_filename_base(self, fullname: str, abiflags: str) -> str:
        base: str = super().get_filename_base(fullname, abiflags)
        return f"{base}{_forced()}+sha256"  # files of Numba's own form, which an earlier version may have left, are not ours


class KernelCache(caching.FunctionCache):
    """The cache of one kernel. Nothing that happens to its files keeps the kernel from being compiled."""

    _impl_class = _Implementation

    def __init__(self, function: Any) -> None:
        super().__init__(function)
        self._cache_file = _Files(self._cache_path, self._impl.filename_base, _sources())
        self._kernel = name_of(function)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The compiled kernel, or None if there is none that can be used, and it is compiled."""
        found = self._found(sig, target_context)
        if found is None and ahead.plan.begin(self._kernel, compiling):
            found = self._found(sig, target_context)
        if found is None:
            compiling()
        return found

    def holds(self, sig: Any, target_context: Any) -> bool:
        """Whether the compiled kernel is there."""
        try:
            return self._index_key(sig, target_context.codegen()) in self._cache_file._load_index()
        except MemoryError:
            raise
        except Exception:  # damaged, or it cannot be read
            return False

    def writable(self) -> bool:
        """Whether what is compiled can be kept."""
        try:
            self._impl.locator.ensure_cache_path()
        except OSError:
            return False
        return True

    def _found(self, sig: Any, target_context: Any) -> Any:
        try:
            with self._guard_against_spurious_io_errors():
                return self._load_overload(sig, target_context)  # without what Numba imports first, fifty modules, to compile
        except MemoryError:
            raise
        except OSError:  # it cannot be read: what comes instead is compiled
            return None
        except Exception:
            _warn(f"{self._cache_path}: compiled kernels in it are damaged; they are compiled anew, which takes some seconds, and replaced")
            self._discard()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep a compiled kernel, if that is possible."""
        try:
            super().save_overload(sig, data)
            if isinstance(self._impl.locator, _Temporary):
                _warn(f"{self._impl.locator.folder}: compiled kernels are kept here, since no other folder can be written; {ELSEWHERE}")
        except OSError as error:
            _warn(
                f"{self._cache_path}: compiled kernels cannot be kept ({reason_of(error)}), so that the next run compiles them again; "
                f"free some space, or {ELSEWHERE}"
            )
            self.disable()

    def _discard(self) -> None:
        for path in Path(self._cache_path).glob(f"{self._impl.filename_base}.*"):
            try:
                path.unlink()
            except OSError:
                self.disable()


class _Nowhere(caching.NullCache):
    """Keeps nothing."""

    def __init__(self, function: Any) -> None:
        self._kernel = name_of(function)

    def load_overload(self, sig: Any, target_context: Any) -> None:
        ahead.plan.begin(self._kernel)
        compiling()

    def save_overload(self, sig: Any, cres: Any) -> None:
        _warn(f"compiled kernels cannot be kept anywhere, so that every run compiles them anew; {ELSEWHERE}")


def cache_of(function: Any) -> caching._Cache:
    """A cache for a kernel; one that keeps nothing where no folder can be written."""
    try:
        return KernelCache(function)
    except RuntimeError:  # what Numba raises if no locator fits
        return _Nowhere(function)


def name_of(function: Any) -> str:
    """Of a kernel: its module and its own."""
    return f"{function.__module__.rpartition('.')[2]}.{function.__name__}"


# Called when a kernel is about to be compiled, which takes a second: how many were begun, of how many that are known to be needed.
listeners: list[Callable[[int, int], object]] = []


def compiling() -> None:
    for listener in listeners:
        listener(*ahead.plan.progress())


@cache
def _warn(text: str) -> None:
    """Once a process for the same text."""
    warnings.warn(text, CacheWarning, stacklevel=2)
