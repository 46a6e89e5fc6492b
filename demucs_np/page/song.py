"""A page for one separation: `index.html` beside the stems, with players, waveforms and spectrograms, that opens by a double click.

A page from a folder may not read the files beside it, only play them: what it draws is in it.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import soundfile

from ..weights.files import written_whole
from .pictures import BANDS, Pictures

TEMPLATE = Path(__file__).with_name("song.html")
COLUMNS = 1500  # of a picture, at most
BLOCK = 1 << 18  # samples read at a time


def write(files: Mapping[str, Path], title: str) -> Path:
    """Write the page of the stems (name -> file, all in one folder) there; returns it. Raises DemucsError if it cannot be written."""
    folder = next(iter(files.values())).parent
    stems, seconds = [], 0.0
    for name, path in files.items():
        with soundfile.SoundFile(path) as file:
            pictures = Pictures(file.samplerate)
            while len(block := file.read(BLOCK, dtype="float32", always_2d=True)):
                pictures.append(block.T)
            pictures.finish()
            seconds = max(seconds, file.frames / file.samplerate)
        peaks = _fewer(np.frombuffer(pictures.peaks, np.int8).reshape(-1, 2))
        columns = _fewer(np.frombuffer(pictures.spectrogram, np.uint8).reshape(-1, BANDS))
        stems.append({"name": name, "file": _address(path.name), "peaks": _text(peaks), "spectrogram": _text(columns)})
    song = json.dumps({"title": title, "seconds": seconds, "bands": BANDS, "stems": stems})
    page = TEMPLATE.read_text(encoding="utf-8")
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src {_hash(page, 'script')}",
            f"style-src {_hash(page, 'style')}",
            "media-src 'self' file:",
            "img-src data:",
        )
    )
    for mark, value in (("@POLICY@", policy), ("@TITLE@", html.escape(title)), ("@SONG@", song.replace("<", "\\u003c"))):
        page = page.replace(mark, value, 1)
    with written_whole(folder / "index.html") as file:
        file.write(page.encode())
    return folder / "index.html"


def _fewer(columns: np.ndarray) -> np.ndarray:
    """At most COLUMNS rows: of peaks the least and the greatest, of spectra the greatest of neighbours."""
    step = -(-len(columns) // COLUMNS)
    starts = np.arange(0, len(columns), max(1, step))
    if columns.shape[1] == 2:
        low, high = np.minimum.reduceat(columns[:, 0], starts), np.maximum.reduceat(columns[:, 1], starts)
        return np.stack([low, high], axis=1)
    return np.asarray(np.maximum.reduceat(columns, starts, axis=0))


def _text(values: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()


def _address(name: str) -> str:
    """A file's name as an address relative to the page."""
    from urllib.parse import quote

    return "./" + quote(name)


def _hash(page: str, tag: str) -> str:
    found = re.search(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
    assert found is not None
    return _digest(found[1])


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
