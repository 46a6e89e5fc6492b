"""Wave64 as libsndfile needs it: it takes what stands behind the samples for samples, and floats under an extensible header for integers.

Source: Sony's Wave64 format (chunks of a GUID and a 64-bit size, on multiples of 8 bytes); WAVEFORMATEXTENSIBLE of Microsoft's mmreg.h.
"""

from __future__ import annotations

import os
from typing import BinaryIO

from .parts import Part

RIFF = bytes.fromhex("726966662e91cf11a5d628db04c10000")
FMT = bytes.fromhex("666d7420f3acd3118cd100c04f8edb8a")
DATA = bytes.fromhex("64617461f3acd3118cd100c04f8edb8a")
EXTENSIBLE = b"\xfe\xff"
LONGEST = 1 << 20  # bytes before the samples


def wave64_part(file: BinaryIO) -> Part | None:
    """The samples of a Wave64 file with a header that says their format plainly; None for all else, and where the header says no length."""
    length = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = bytearray(file.read(LONGEST))
    file.seek(0)
    if head[:16] != RIFF:
        return None
    frame = 0  # bytes
    at = 40  # the first chunk's size is that of the file, and "wave" has none
    while at + 24 <= len(head):
        guid, size = head[at : at + 16], int.from_bytes(head[at + 16 : at + 24], "little")  # with these 24 bytes
        if size < 24:
            break
        if guid == FMT:
            frame = int.from_bytes(head[at + 36 : at + 38], "little")
        if guid == FMT and head[at + 24 : at + 26] == EXTENSIBLE and size >= 64:
            head[at + 24 : at + 26] = head[at + 48 : at + 50]  # the sub-format begins with the plain one
        if guid == DATA:  # a recorder that lost power leaves a size of 24
            cut = frame and at + size > length
            told = (size - 24) // frame if cut else 0
            return Part(at + 24, min(at + size, length), bytes(head[: at + 24]), told=told) if size > 24 else None
        at += -(-size // 8) * 8
    return None
