"""The header of a WAV file whose length is known: RIFF, or RF64 where sizes do not fit into 32 bits.

Source: EBU Tech 3306 (RF64); the chunk LIST of type INFO is from Microsoft's "Multimedia Programming Interface" of 1991.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

LIMIT = (1 << 32) - 1  # bytes: the largest size that RIFF can say, and what RF64 says in its place
INFO = {"title": b"INAM", "artist": b"IART", "album": b"IPRD", "tracknumber": b"ITRK", "date": b"ICRD", "genre": b"IGNR"}


def wav_header(channels: int, samples: int, samplerate: int, bits: int, tags: Mapping[str, str] | None = None) -> bytes:
    """What stands before the samples. With 32 bits they are floats. After an odd number of bytes of samples a zero has to follow."""
    frame = channels * bits // 8
    size = samples * frame
    body = _chunk(b"fmt ", struct.pack("<HHIIHH", 3 if bits == 32 else 1, channels, samplerate, samplerate * frame, frame, bits))
    if bits == 32:
        body += _chunk(b"fact", struct.pack("<I", min(samples, LIMIT)))
    told = b"".join(_chunk(INFO[name], text.encode() + b"\0") for name, text in (tags or {}).items() if name in INFO)
    if told:
        body += _chunk(b"LIST", b"INFO" + told)
    total = 4 + len(body) + 8 + size + size % 2
    if total <= LIMIT:
        return b"RIFF" + struct.pack("<I", total) + b"WAVE" + body + b"data" + struct.pack("<I", size)
    sizes = _chunk(b"ds64", struct.pack("<QQQI", total + 36, size, samples, 0))  # 36: this chunk
    return b"RF64" + struct.pack("<I", LIMIT) + b"WAVE" + sizes + body + b"data" + struct.pack("<I", LIMIT)


def _chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)
