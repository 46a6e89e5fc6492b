"""A part of a file, as a file of its own."""

from __future__ import annotations

import io
import os
from typing import BinaryIO


class Window(io.RawIOBase):
    """Bytes `start` ... `stop` - 1 of an open file, with `head` before them; readable and seekable, and without a name."""

    def __init__(self, file: BinaryIO, start: int = 0, stop: int | None = None, head: bytes = b"") -> None:
        self._file, self._start, self._head = file, start, head
        end = file.seek(0, os.SEEK_END) if stop is None else stop
        self._size = len(head) + end - start
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = max(0, offset + (0, self._position, self._size)[whence])
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        count = max(0, min(len(buffer), self._size - self._position))
        if count == 0:
            return 0
        if self._position < len(self._head):
            data = self._head[self._position : self._position + count]
        else:
            self._file.seek(self._start + self._position - len(self._head))
            data = self._file.read(count)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
