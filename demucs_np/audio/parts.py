"""The parts of an MP3 or Ogg file: those that were joined by `cat`, each with its true length.

libsndfile decodes the first part of a joined file only, and of an MP3 without a header of its own (from an encoder that wrote into a
pipe) as much as it estimates from the first frame. So the frames are counted here, and an MP3 whose header is missing or wrong gets one.

Source: ISO/IEC 11172-3, 2.4.1.3 (frame header); RFC 3533, 6 (Ogg page).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from ..errors import AudioError

BITRATES = {  # kbit/s by (MPEG 1, layer); index 0 is "free", 15 is no rate
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
DECODER_DELAY = 529  # samples
GAPLESS = 4608  # samples that encoders add before and after a track, and decoders drop, at most
RATES = (44100, 48000, 32000)  # Hz, of MPEG 1; half of it in MPEG 2, a quarter in 2.5


@dataclass
class Part:
    """Bytes `start` ... `stop` - 1 of the file, to be decoded with `head` before them; its first `skip` samples are not the file's."""

    start: int
    stop: int
    head: bytes = b""
    skip: int = 0
    told: int = 0  # samples that its header says, at least, where they are more than there are
    there: int = 0  # samples that there are, at least


@dataclass(frozen=True)
class Frame:
    """The header of one MPEG audio frame."""

    word: int
    version: int  # 3: MPEG 1, 2: MPEG 2, 0: MPEG 2.5
    layer: int
    rate: int  # Hz
    channels: int
    size: int  # bytes

    @property
    def samples(self) -> int:
        return 384 if self.layer == 1 else 1152 if self.layer == 2 or self.version == 3 else 576

    @property
    def tag(self) -> int:
        """Where an Xing header stands in it: after the frame's header and its side information."""
        return 4 + ((32, 17) if self.version == 3 else (17, 9))[self.channels == 1]


def has_parts(start: bytes) -> bool:
    """Whether a file that begins with these four bytes is an Ogg or MP3 file."""
    return start == b"OggS" or start[:3] == b"ID3" or _frame(start, 0) is not None


def parts_of(data: bytes, name: str, broken: bool = False) -> list[Part]:
    """One for each part of an MP3 or Ogg file; none where an ID3 tag stands before something else, as before some FLAC files.

    `broken`: it is an MP3 that does not begin with a frame.

    Raises AudioError where rate or channels change on the way: no decoder gives all of such a file as one track.
    """
    if data[:4] == b"OggS":
        return _ogg_parts(data)
    return _mp3_parts(data, name, broken)


def _ogg_parts(data: bytes) -> list[Part]:
    """A new part begins with a page that begins a stream, after one that does not."""
    parts, at, begun = [Part(0, len(data))], 0, True
    while 0 <= at <= len(data) - 27:
        if data[at : at + 4] != b"OggS":
            at = data.find(b"OggS", at)
            continue
        begins = bool(data[at + 5] & 2)
        if begins and not begun:
            parts[-1].stop = at
            parts.append(Part(at, len(data)))
        begun = begins
        segments = data[at + 26]
        at += 27 + segments + sum(data[at + 27 : at + 27 + segments])
    return parts


def _frame(data: bytes, at: int) -> Frame | None:
    """The header at `at`, if one is there."""
    if len(data) < at + 4 or data[at] != 0xFF or data[at + 1] < 0xE0:
        return None
    word = int.from_bytes(data[at : at + 4], "big")
    version, layer = word >> 19 & 3, 4 - (word >> 17 & 3)
    bitrate, rate = word >> 12 & 15, word >> 10 & 3
    if version == 1 or layer == 4 or bitrate in (0, 15) or rate == 3 or word & 3 == 2:
        return None
    hertz = RATES[rate] // (1, 2, 4)[(3, 2, 0).index(version)]
    kbits = BITRATES[version == 3, layer][bitrate]
    padding = word >> 9 & 1
    per_frame = 12 if layer == 1 else 72 if layer == 3 and version != 3 else 144
    size = per_frame * 1000 * kbits // hertz + padding
    return Frame(word, version, layer, hertz, 1 if word >> 6 & 3 == 3 else 2, size * 4 if layer == 1 else size)


def _after_tag(data: bytes, at: int) -> int:
    """The place after an ID3 or APE tag that begins at `at`; `at` if none does."""
    if data[at : at + 3] == b"ID3" and len(data) >= at + 10:
        size = 0
        for byte in data[at + 6 : at + 10]:
            size = size << 7 | byte & 127
        return at + 10 + size + (10 if data[at + 5] & 16 else 0)
    if data[at : at + 3] == b"TAG":
        return at + 128
    if data[at : at + 8] == b"APETAGEX" and len(data) >= at + 24:
        size = int.from_bytes(data[at + 12 : at + 16], "little")
        return at + size + (32 if data[at + 23] & 32 else 0)  # a header, which its size leaves out
    return at


def _mp3_parts(data: bytes, name: str, broken: bool) -> list[Part]:
    """A new part begins with a tag after frames, or with a frame that is an Xing header. `broken`: anything may stand before the first."""
    parts: list[Part] = []
    first: Frame | None = None  # of the file
    frames, told = 0, -1  # of the part: frames that are there, and frames that its header says
    seconds, at, fresh, synced = 0.0, 0, True, False

    def close(stop: int) -> None:
        if parts and first is not None:
            parts[-1].stop = stop
            parts[-1].there = frames * first.samples - GAPLESS
            if told < frames:
                _give_header(data, parts[-1], frames, told >= 0)
            elif told > frames + 1:  # the file was cut
                parts[-1].told = (told - 2) * first.samples

    while at < len(data):
        after = _after_tag(data, at)
        if after > at:
            at, fresh = after, True
            continue
        frame = _frame(data, at)
        if frame is None or not ((synced and _alike(frame, first)) or _begin(data, at)):
            if first is None and data[at] and not broken:  # some tags have zeros behind them
                return []
            at, synced = at + 1 if first is None and not broken else data.find(b"\xff", at + 1), False
            if at < 0:
                break
            continue
        first, synced = first or frame, True
        if not _alike(frame, first):
            raise AudioError(
                f"{name}: changes from {first.rate} Hz and {first.channels} channels to {frame.rate} Hz and {frame.channels} at "
                f"{seconds:.1f} s; save it again as one WAV or FLAC file, or separate its parts"
            )
        header = data[at + frame.tag : at + frame.tag + 4] in (b"Xing", b"Info") or data[at + 36 : at + 40] == b"VBRI"
        if fresh or header:
            close(at)
            parts.append(Part(at, len(data)))
            frames, told, fresh = 0, _told(data, at, frame) if header else -1, False
        if not header:
            frames += 1
            seconds += frame.samples / frame.rate
        at += frame.size
    close(len(data))
    return parts


def _alike(frame: Frame, other: Frame | None) -> bool:
    return other is not None and (frame.rate, frame.channels) == (other.rate, other.channels)


def _begin(data: bytes, at: int) -> bool:
    """Whether frames begin here: three alike, up to a tag or the end. Two stand by chance in a few megabytes of other data."""
    first = _frame(data, at)
    for _ in range(3):
        frame = _frame(data, at)
        if frame is None or not _alike(frame, first):
            return False
        at += frame.size
        if at >= len(data) or _after_tag(data, at) > at:
            break
    return True


def _told(data: bytes, at: int, frame: Frame) -> int:
    """How many frames the header at `at` says follow; 0 if it does not say."""
    if data[at + 36 : at + 40] == b"VBRI":
        return int.from_bytes(data[at + 50 : at + 54], "big")
    place = at + frame.tag + 4
    return int.from_bytes(data[place + 4 : place + 8], "big") if data[place + 3] & 1 else 0


def _give_header(data: bytes, part: Part, frames: int, replaces: bool) -> None:
    """An Info header with the true count of frames, in place of one that is wrong or missing.

    Where there is one, mpg123 drops its own delay, and with it the first samples of a file that no encoder marked so: a silent frame
    after the header takes the loss, and the rest of it is skipped.
    """
    frame = _frame(data, part.start)
    assert frame is not None
    if frame.layer != 3:  # there are no headers for the others; their length follows from their constant bit rate
        return
    word = (frame.word & ~0xF200 | 0x10000 | 8 << 12).to_bytes(4, "big")  # no checksum, no padding, 64 or 112 kbit/s
    silent = _frame(word, 0)
    assert silent is not None
    if replaces:
        part.start += frame.size
    info = word + bytes(frame.tag - 4) + b"Info" + struct.pack(">III", 3, frames + 1, 2 * silent.size + part.stop - part.start)
    part.head = info + bytes(silent.size - len(info)) + word + bytes(silent.size - 4)
    part.skip = frame.samples - DECODER_DELAY
