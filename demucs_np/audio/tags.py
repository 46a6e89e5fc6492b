"""Title, artist and the like, carried from a track to its stems."""

from __future__ import annotations

from collections.abc import Mapping

NAMES = ("title", "artist", "album", "tracknumber", "date", "genre")
ID3 = {"title": b"TIT2", "artist": b"TPE1", "album": b"TALB", "tracknumber": b"TRCK", "date": b"TDRC", "genre": b"TCON"}


def clean(tags: Mapping[str, str]) -> dict[str, str]:
    """Those of `NAMES`, in their order, without what no format can hold."""
    kept = {name: " ".join(tags.get(name, "").replace("\0", " ").split())[:1000] for name in NAMES}
    return {name: text for name, text in kept.items() if text}


def of_stem(tags: Mapping[str, str], stem: str, track: str) -> dict[str, str]:
    """The tags of one stem: its name is added to the title, which is the name of the `track` where there is none. No tags: none."""
    return {**tags, "title": f"{tags.get('title', track)} ({stem})"} if tags else {}


def id3(tags: Mapping[str, str]) -> bytes:
    """What stands before the frames of an MP3: ID3v2.4, in UTF-8. (LAME's own is Latin-1.) Source: https://id3.org/id3v2.4.0-structure."""
    frames = b""
    for name, text in tags.items():
        data = b"\3" + text.encode()
        frames += ID3[name] + _seven_bits(len(data)) + b"\0\0" + data
    return b"ID3\4\0\0" + _seven_bits(len(frames)) + frames if frames else b""


def _seven_bits(number: int) -> bytes:
    """Four bytes of seven bits."""
    return bytes(number >> shift & 127 for shift in (21, 14, 7, 0))
