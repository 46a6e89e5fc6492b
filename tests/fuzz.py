"""Damaged and hostile files, thousands of them: each must be a clean refusal or a result, in little time and little memory.

python tests/fuzz.py [--cases N] [--seed S] [--reader NAME]...    (`make fuzz`: a minute; by hand: an hour)

Each reader has some real files, which are mutated: bytes and bits changed, pieces cut out, doubled, moved, numbers made large, structured
texts changed where they are structured. The work is done in processes with limits of memory and of time, so that a crash, a hang or a flood
is seen for what it is. A case is known by its reader and its number: `--reader th --case 4711` does it again, here and now.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

SECONDS = 10  # of one case, at most
MEMORY = 1 << 30  # beyond what the process has when it begins
BATCH = 200  # cases of one process

Reader = Callable[[Path], object]


class TooSlow(BaseException):
    """A case that goes on for too long. No OSError nor Exception, as readers turn those into refusals."""


TEXTS = [
    b"1e400",
    b"-1",
    b"9" * 5000,
    b"[" * 3000,
    b"{}",
    b"null",
    b"\x00",
    b"../",
    b"2001-13-45",
    b"!!int abc",
    b".inf",
    b"&a [*a]",
    b"*a",
    b"true",
    b"''",
]
NUMBERS = [0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**64 - 1]


def mutated(data: bytes, random: Random) -> bytes:
    """`data` with one to eight changes."""
    out = bytearray(data)
    for _ in range(random.choice([1, 1, 1, 2, 3, 8])):
        at = random.randrange(len(out) + 1) if random.random() < 0.5 else random.randrange(min(len(out), 600) + 1)
        kind = random.randrange(9)
        if kind == 0 and out:
            at = min(at, len(out) - 1)
            out[at] ^= 1 << random.randrange(8)
        elif kind == 1 and out:
            out[min(at, len(out) - 1)] = random.randrange(256)
        elif kind == 2:
            del out[at : at + random.choice([1, 2, 4, 64, len(out)])]
        elif kind == 3:
            out[at:at] = out[at : at + random.choice([1, 8, 64, 4096])]
        elif kind == 4:
            out[at : at + 8] = struct.pack(random.choice("<>") + "Q", random.choice(NUMBERS))
        elif kind == 5:
            out[at : at + 4] = struct.pack(random.choice("<>") + "I", random.choice(NUMBERS) & 0xFFFFFFFF)
        elif kind == 6:
            out[at:at] = random.choice(TEXTS)
        elif kind == 7:
            out[at : at + 16] = bytes(random.randrange(256) for _ in range(16))
        else:
            digits = [place for place, byte in enumerate(out[:4000]) if 48 <= byte <= 57]
            if digits:
                place = random.choice(digits)
                out[place : place + 1] = random.choice(TEXTS)
    return bytes(out)


def a_value(random: Random, depth: int = 0) -> object:
    """Anything that JSON can say."""
    kind = random.randrange(11 if depth < 3 else 8)
    if kind < 8:
        return random.choice([None, True, -1, 0, 1, 3, 7, 48, 1e12, 1e308, 2**70, "", "cape", "x" * 300, 0.1, [], {}])
    if kind == 8:
        return [a_value(random, depth + 1) for _ in range(random.randrange(4))]
    if kind == 9:
        return {str(a_value(random, 3))[:9]: a_value(random, depth + 1) for _ in range(random.randrange(3))}
    return {"_type": "fraction", "numerator": a_value(random, 3), "denominator": a_value(random, 3)}


def safetensors_of(metadata: dict[str, object], entries: dict[str, object], data: bytes) -> bytes:
    header = json.dumps({"__metadata__": metadata, **entries}).encode()
    return struct.pack("<Q", len(header)) + header + data


def parts_of(data: bytes) -> tuple[dict[str, object], dict[str, object], bytes]:
    size = struct.unpack("<Q", data[:8])[0]
    entries = json.loads(data[8 : 8 + size])
    return entries.pop("__metadata__", {}), entries, data[8 + size :]


def with_other_arguments(data: bytes, random: Random) -> bytes:
    """A published model whose constructor's arguments say something else."""
    metadata, entries, tensors = parts_of(data)
    kwargs = json.loads(str(metadata["kwargs"]))
    names = [
        *kwargs,
        "channels",
        "depth",
        "nfft",
        "segment",
        "growth",
        "samplerate",
        "dconv_depth",
        "multi_freqs",
        "t_layers",
        "freq_emb",
        "sources",
    ]
    for _ in range(random.choice([1, 1, 2])):
        kwargs[random.choice(names)] = a_value(random)
    metadata["kwargs"] = json.dumps(kwargs)
    return safetensors_of(metadata, entries, tensors)


def with_other_entries(data: bytes, random: Random) -> bytes:
    """A safetensors file whose header places its tensors otherwise, or whose metadata are others."""
    metadata, entries, tensors = parts_of(data)
    name = random.choice(list(entries))
    entry = entries[name]
    assert isinstance(entry, dict)
    what = random.randrange(4)
    if what == 0:
        entry[random.choice(["dtype", "shape", "data_offsets"])] = a_value(random)
    elif what == 1:
        entry["shape"] = [random.choice([0, 1, 2**40])] * random.choice([1, 65, 5000])
    elif what == 2:
        entries[str(a_value(random, 3))[:40]] = a_value(random)
    else:
        metadata[random.choice(list(metadata) or ["x"])] = random.choice(["[" * 5000, "{}", "[]", json.dumps(a_value(random))])
    return safetensors_of(metadata, entries, tensors)


def with_other_pickle(data: bytes, random: Random) -> bytes:
    """An archive whose pickle was mutated; its checksums are right, so that it is run."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, mutated(content, random) if name.endswith("data.pkl") else content)
    return out.getvalue()


def seeds(folder: Path) -> dict[str, list[Path]]:
    """Real files of every kind that is read."""
    import numpy as np
    import packages
    import soundfile
    import test_diffq

    data = HERE / "data"
    plain = packages.write(folder / "plain.safetensors", packages.draw())
    archive = packages.Archive()
    th = archive.write(folder / "plain.th", packages.package(archive, packages.draw()))
    quantised = []
    for uniform in (False, True):
        state, _ = test_diffq.quantise(test_diffq.shapes(), test_diffq.pack64, uniform=uniform, half=True)
        tensors: dict[str, np.ndarray] = {}
        meta = packages.metadata(kwargs=test_diffq.KWARGS, structure=json.dumps(test_diffq.flattened(state, tensors)))
        quantised.append(packages.write(folder / f"quantised{uniform}.safetensors", tensors, meta))
    bag = folder / "bag.yaml"
    bag.write_text("models: ['aaaa1111', 'bbbb2222']\nweights: [[1.0, 0.5], [0.25, 1.0]]\nsegment: 7.8\n")
    sounds = []
    wav = 0.3 * np.sin(np.arange(4000) / 9.0)[:, None] * np.ones(2)
    for ending, options in (
        ("wav", {"subtype": "PCM_16"}), ("flac", {}), ("ogg", {}), ("mp3", {}), ("aiff", {"subtype": "PCM_24"}),
    ):  # fmt: skip
        path = folder / f"sound.{ending}"
        soundfile.write(path, wav, 22050, **options)
        sounds.append(path)
    return {
        "safetensors": [plain, data / "pytorch_f16.safetensors"],
        "configurations": [plain],
        "th": [th, data / "pytorch_f16.th"],
        "diffq": quantised,
        "yaml": [bag],
        "goldens": [HERE / "golden" / "td_plain.safetensors"],
        "sounds": sounds,
    }


def readers() -> dict[str, Reader]:
    from demucs_np.audio import open_track
    from demucs_np.parity.record import load_golden
    from demucs_np.parity.seeded import seeded_model
    from demucs_np.weights.repo import read_bag
    from demucs_np.weights.resolve import read_model

    def sound(path: Path) -> int:
        with open_track(path) as track:
            return sum(block.shape[1] for block in track.blocks())

    def golden(path: Path) -> object:
        recorded = load_golden(path)
        return recorded.config, seeded_model(recorded, "numpy") if len(recorded.layers) < 3 else None

    models = dict.fromkeys(("safetensors", "configurations", "th", "diffq"), read_model)
    return {**models, "yaml": read_bag, "goldens": golden, "sounds": sound}


def case(reader: str, number: int, seed: int, files: list[Path], folder: Path) -> Path:
    """The file of a case."""
    random = Random(f"{seed} {reader} {number}")
    source = random.choice(files)
    data = source.read_bytes()
    if reader == "configurations":
        data = with_other_arguments(data, random)
    elif source.suffix == ".safetensors" and random.random() < 0.6:
        data = with_other_entries(data, random)
    elif source.suffix == ".th" and random.random() < 0.7:
        data = with_other_pickle(data, random)
    else:
        data = mutated(data, random)
    path = folder / f"case{source.suffix}"
    path.write_bytes(data)
    return path


def work(reader: str, first: int, last: int, seed: int) -> Iterator[tuple[int, str]]:
    """(number, outcome) of each case: "result", "refused", or what was wrong."""
    from demucs_np.errors import DemucsError

    def too_long(*_: object) -> None:
        raise TooSlow(f"more than {SECONDS} s")

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files, read = seeds(folder)[reader], readers()[reader]
        if hasattr(signal, "SIGALRM"):
            signal.signal(signal.SIGALRM, too_long)
        have = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (have + MEMORY, resource.RLIM_INFINITY))
        for number in range(first, last):
            path = case(reader, number, seed, files, folder)
            signal.alarm(SECONDS)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # notes on damaged sound, overflows of damaged numbers
                    read(path)
                outcome = "result"
            except DemucsError as error:
                text = str(error)
                outcome = (
                    "refused" if len(text) < 1000 and "\n" not in text.strip() else f"a message of {len(text)} characters: {text[:200]!r}"
                )
            except BaseException as error:
                outcome = f"{type(error).__name__}: {str(error)[:200]}"
            finally:
                signal.alarm(0)
            yield number, outcome


def run(reader: str, first: int, last: int, seed: int) -> Iterator[tuple[int, str]]:
    """`work` in a process of its own; where that dies, the case that it died of, and on with the next."""
    while first < last:
        command = [sys.executable, __file__, "--work", reader, str(first), str(last), "--seed", str(seed)]
        environment = {**os.environ, "NUMBA_DISABLE_JIT": "1", "PYTHONFAULTHANDLER": "0"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        for line in done.stdout.splitlines():
            number, _, outcome = line.partition(" ")
            first = int(number) + 1
            yield int(number), json.loads(outcome)
        if done.returncode:
            yield first, f"the process died ({done.returncode}): {done.stderr.strip()[-300:]}"
            first += 1
        elif not done.stdout:
            return


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=300, help="of each reader")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--reader", action="append")
    parser.add_argument("--case", type=int, help="this one alone, with its traceback")
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        reader, first, last = options.work
        for number, outcome in work(reader, int(first), int(last), options.seed):
            print(number, json.dumps(outcome), flush=True)
        return 0
    names = options.reader or list(readers())
    if options.case is not None:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            print(readers()[names[0]](case(names[0], options.case, options.seed, seeds(folder)[names[0]], folder)))
        return 0
    print(f"seed {options.seed}")
    bad = 0
    for reader in names:
        began, counts = time.monotonic(), Counter[str]()
        for first in range(0, options.cases, BATCH):
            for number, outcome in run(reader, first, min(options.cases, first + BATCH), options.seed):
                counts[outcome if outcome in ("result", "refused") else "WRONG"] += 1
                if outcome not in ("result", "refused"):
                    print(f"  {reader} {number}: {outcome}", flush=True)
        bad += counts["WRONG"]
        said = ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))
        print(f"{reader}: {said} in {time.monotonic() - began:.0f} s", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
