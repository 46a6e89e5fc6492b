"""Lists of tracks: `.txt` (a path a line), `.csv` (a column `track`) and `.jsonl` (a key "track"); what else a row holds are options."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import TypeAlias

from ..errors import AudioError, UsageError, reason_of
from . import remote


@dataclass(frozen=True)
class Row:
    track: str  # as it is written there
    origin: str  # "songs.csv, row 3"
    options: Mapping[str, str] = field(default_factory=dict)  # name of the option without dashes in front -> value; "" is none


Fields: TypeAlias = Iterator[tuple[int, dict[str, str]]]  # (row, counted from 1 as an editor does; what it holds)


def read(path: str) -> Iterator[Row]:
    """The rows of a manifest. Raises AudioError if it cannot be read, UsageError for a bad row, with its number."""
    name = PurePath(path).name
    try:
        with remote.open_text(path) as file:
            for number, fields in READERS[PurePath(path).suffix](path, file):
                origin = f"{name}, row {number}"
                track = fields.pop("track", "")
                if not track:
                    raise UsageError(f"{origin}: names no track; it needs a {'column' if name.endswith('.csv') else 'key'} `track`")
                yield Row(track, origin, {key.replace("_", "-"): value for key, value in fields.items() if value})
    except (OSError, UnicodeDecodeError) as error:
        raise AudioError(f"{path}: cannot be read ({reason_of(error)})") from None


def _lines(path: str, file: Iterator[str]) -> Fields:
    for number, line in enumerate(file, 1):
        text = line.strip("\r\n")
        if text.strip() and not text.startswith("#"):
            yield number, {"track": text}


def _csv(path: str, file: Iterator[str]) -> Fields:
    reader = csv.DictReader(file, strict=True)
    try:
        if "track" not in (reader.fieldnames or ()):
            raise UsageError(f"{PurePath(path).name}, row 1: has no column `track`")
        for fields in reader:
            if None in fields:
                raise UsageError(f"{PurePath(path).name}, row {reader.line_num}: has more cells than the first row has names")
            yield reader.line_num, {key: value or "" for key, value in fields.items()}
    except csv.Error as error:
        raise UsageError(f"{PurePath(path).name}, row {reader.reader.line_num}: is not CSV ({error})") from None


def _jsonl(path: str, file: Iterator[str]) -> Fields:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except ValueError as error:
            raise UsageError(f"{PurePath(path).name}, row {number}: is not JSON ({error})") from None
        if not isinstance(fields, dict) or not all(isinstance(value, (str, int, float, bool)) for value in fields.values()):
            raise UsageError(f"{PurePath(path).name}, row {number}: must be an object whose values are words, numbers or true and false")
        yield number, {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in fields.items()}


READERS: dict[str, Callable[[str, Iterator[str]], Fields]] = {".txt": _lines, ".csv": _csv, ".jsonl": _jsonl}
