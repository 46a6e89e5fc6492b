"""Decode with the program ffmpeg, which knows nearly every format.

It writes an AU file into a pipe: of the formats that all versions of ffmpeg write without seeking back, the one whose header is six
integers: rate, channels, and no length. (Its WAV and Wave64 headers are "extensible" from two channels or 48 kHz on, in some versions
always, which few readers know; raw samples would need the rate and channels from elsewhere.) Nothing is stored, so nothing remains.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from typing import IO

import numpy as np

from ..errors import AudioError
from .decoder import Undecodable
from .tags import clean


class Ffmpeg:
    """A `Decoder`."""

    def __init__(self, process: subprocess.Popen[bytes], log: IO[bytes], name: str, track: int | None) -> None:
        self._process, self._log = process, log
        assert process.stdout is not None
        self._pipe = process.stdout
        header = self._pipe.read(24)
        if len(header) < 24:
            process.wait()
            self._explain(name, track)
        magic, size, _, coding, self.samplerate, self.channels = struct.unpack(">4s5I", header)
        if magic != b".snd" or coding != 6:  # 6: 32-bit floats
            raise Undecodable("it wrote no AU header")
        self._pipe.read(size - 24)
        found = re.search(r"Duration: (\d+):(\d+):(\d+\.\d+)", self._text())
        estimated = "Estimating duration" in self._text()
        seconds = None if found is None or estimated else int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3])
        self.samples = None if seconds is None else round(seconds * self.samplerate)

    @property
    def tags(self) -> dict[str, str]:
        """As ffmpeg prints them, of the file or else of a stream."""
        said = self._text().partition("Output #0")[0]
        found = re.findall(r"^(?:\[info\])? +(title|artist|album|track|date|genre) *: (.*)$", said, re.MULTILINE | re.IGNORECASE)
        return clean({{"track": "tracknumber"}.get(name.lower(), name.lower()): text for name, text in reversed(found)})

    def read(self, size: int) -> np.ndarray:
        frame = 4 * self.channels
        data = self._pipe.read(size * frame)
        samples = np.frombuffer(data, ">f4", len(data) // frame * self.channels)
        return samples.astype(np.float32).reshape(-1, self.channels)

    def damage(self) -> str:
        self._process.wait()
        errors = self._errors()
        if errors:
            return f"ffmpeg: {errors[0]}"
        return f"ffmpeg: exit status {self._process.returncode}" if self._process.returncode else ""

    def _text(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def _errors(self) -> list[str]:
        return re.findall(r"\[(?:error|fatal|panic)\] *(.*)", self._text())

    def _explain(self, name: str, track: int | None) -> None:
        """Raise the reason for which not even a header came."""
        kinds = re.findall(r"Stream #0[^\n]*?: (Audio|Video|Subtitle|Data|Attachment): ", self._text().partition("Output #0")[0])
        sounds = kinds.count("Audio")
        if kinds and not sounds:
            raise AudioError(f"{name}: has no sound, only {' and '.join(sorted({kind.lower() for kind in kinds}))}; choose another file")
        if track is not None and 0 < sounds < track:
            raise AudioError(f"{name}: there is no track {track}: it holds {sounds} audio track{'s' * (sounds > 1)}")
        raise Undecodable((self._errors() or [f"exit status {self._process.returncode}"])[-1].removeprefix("file:"))


@contextlib.contextmanager
def open_ffmpeg(location: str, name: str, track: int | None) -> Iterator[Ffmpeg]:
    """The audio stream `track`, counted from 1; None: the one that ffmpeg thinks best, which is the default one.

    Raises Undecodable if there is no ffmpeg or it cannot read the file, AudioError for a file without sound or without that stream.
    """
    ffmpeg = shutil.which("ffmpeg")
    if ffmpeg is None:
        raise Undecodable("is not on the PATH")
    # "level" puts "[error]" before each error; "file:" keeps a name with a colon from being read as an address
    command = [ffmpeg, "-nostdin", "-hide_banner", "-nostats", "-v", "level+info", "-i", f"file:{location}"]
    command += ["-vn", "-sn", "-dn"] if track is None else ["-map", f"0:a:{track - 1}"]
    command += ["-c:a", "pcm_f32be", "-f", "au", "pipe:1"]
    descriptors = [int(location.rpartition("/")[2])] if location.startswith("/dev/fd/") else []
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, pass_fds=descriptors)
        try:
            yield Ffmpeg(process, log, name, track)
        finally:
            process.kill()
            assert process.stdout is not None
            process.stdout.close()
            process.wait()
