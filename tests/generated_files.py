"""Files of real encoders, whole and damaged: what is read is what ffmpeg decodes, or is refused with a reason, or is told to be damaged.

By hand: `python tests/generated_files.py` tries all of them and prints a table; the suite takes a sample (`test_generated_files.py`).
"""

from __future__ import annotations

import collections
import itertools
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from demucs_np import AudioError, audio

SECONDS = 0.6
FRAMES = 2400  # samples: a little more than two frames of an MP3
# name -> (ending, program and its options, rates, channels); "{in}" and "{out}" are the files
FF = "ffmpeg -nostdin -v error -y -i {in} "
ENCODERS: dict[str, tuple[str, str, tuple[int, ...], tuple[int, ...]]] = {
    **{
        f"wav {codec}": ("wav", f"{FF}-c:a {codec} {{out}}", (8000, 44100, 96000), (1, 2, 6))
        for codec in ("pcm_u8", "pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_f32le", "pcm_f64le")
    },
    **{
        f"wav {codec}": ("wav", f"{FF}-c:a {codec} {{out}}", (8000, 44100), (1, 2))
        for codec in ("pcm_alaw", "pcm_mulaw", "adpcm_ms", "adpcm_ima_wav")
    },
    "rf64": ("wav", FF + "-rf64 always {out}", (44100,), (2,)),
    "w64": ("w64", FF + "{out}", (44100,), (1, 2, 6)),
    "w64 float": ("w64", FF + "-c:a pcm_f32le {out}", (44100, 96000), (1, 2, 6)),
    "aiff": ("aiff", FF + "{out}", (8000, 44100, 96000), (1, 2, 6)),
    "aiff float": ("aiff", FF + "-c:a pcm_f32be {out}", (44100,), (2,)),
    "au": ("au", FF + "{out}", (44100,), (1, 2)),
    "caf": ("caf", FF + "-c:a pcm_s16be {out}", (44100, 96000), (2,)),
    "flac ffmpeg": ("flac", FF + "{out}", (8000, 44100, 96000), (1, 2, 6)),
    "flac -8": ("flac", "flac -8 -s -f -o {out} {in}", (8000, 44100, 96000), (1, 2, 6)),
    "flac ogg": ("oga", "flac --ogg -s -f -o {out} {in}", (44100,), (1, 2)),
    "mp3 ffmpeg": ("mp3", FF + "{out}", (16000, 44100, 48000), (1, 2)),
    "mp3 lame -b": ("mp3", "lame --quiet -b 128 {in} {out}", (8000, 22050, 44100, 48000), (1, 2)),
    "mp3 lame -V": ("mp3", "lame --quiet -V 2 {in} {out}", (22050, 44100), (1, 2)),
    "mp3 lame -t": ("mp3", "lame --quiet -t -b 192 {in} {out}", (44100,), (2,)),
    "mp2": ("mp2", FF + "{out}", (44100, 48000), (1, 2)),
    "vorbis ffmpeg": ("ogg", FF + "-c:a libvorbis {out}", (8000, 44100, 96000), (1, 2, 6)),
    "vorbis oggenc": ("ogg", "oggenc -Q -o {out} {in}", (8000, 44100), (1, 2)),
    "opus ffmpeg": ("opus", FF + "{out}", (48000,), (1, 2, 6)),
    "opus opusenc": ("opus", "opusenc --quiet {in} {out}", (16000, 44100, 48000), (1, 2)),
    "aac m4a": ("m4a", FF + "-c:a aac {out}", (8000, 44100, 96000), (1, 2, 6)),
    "alac m4a": ("m4a", FF + "-c:a alac {out}", (8000, 44100, 96000), (1, 2, 6)),
    "aac adts": ("aac", FF + "{out}", (44100,), (1, 2)),
    "wma": ("wma", FF + "{out}", (22050, 44100), (1, 2)),
    "ac3": ("ac3", FF + "{out}", (32000, 48000), (2, 6)),
    "mka flac": ("mka", FF + "-c:a flac {out}", (44100, 96000), (2, 6)),
    "webm opus": ("webm", FF + "{out}", (48000,), (1, 2)),
    "mov": ("mov", FF + "-c:a pcm_s24be {out}", (44100,), (2,)),
    "tta": ("tta", FF + "{out}", (44100, 96000), (1, 2)),
    "wavpack": ("wv", "wavpack -q -y {in} -o {out}", (8000, 44100, 96000), (1, 2)),
    "wav sox": ("wav", "sox {in} {out}", (8000, 44100), (1, 2, 6)),
    "voc sox": ("voc", "sox {in} {out}", (44100,), (1, 2)),
}
DAMAGES = ("none", "cut", "junk behind", "hole", "no beginning")


@dataclass(frozen=True)
class Case:
    """One file to be made."""

    encoder: str
    rate: int
    channels: int
    damage: str

    def make(self, folder: Path) -> Path | None:
        """None: this encoder cannot make it, or its program is missing."""
        ending, command, _, _ = ENCODERS[self.encoder]
        rng = np.random.default_rng(7)
        time = np.arange(int(SECONDS * self.rate)) / self.rate
        tones = [0.3 * np.sin(2 * np.pi * (220 + 60 * channel) * time) for channel in range(self.channels)]
        wav = folder / "to-encode.wav"
        soundfile.write(wav, np.stack(tones, axis=1) + 0.02 * rng.standard_normal((len(time), self.channels)), self.rate)
        path = folder / f"song.{ending}"
        words = [str({"{in}": wav, "{out}": path}.get(word, word)) for word in command.split()]
        if shutil.which(words[0]) is None or subprocess.run(words, capture_output=True).returncode:
            return None
        data = path.read_bytes()
        if self.damage == "cut":
            data = data[: len(data) * 6 // 10]
        elif self.damage == "junk behind":
            path.with_suffix(".whole").write_bytes(data)
            data += bytes(rng.integers(0, 256, 3000, dtype=np.uint8))
        elif self.damage == "hole":
            data = data[: len(data) // 2] + bytes(200) + data[len(data) // 2 + 200 :]
        elif self.damage == "no beginning":
            data = data[20:]
        path.write_bytes(data)
        return path


def cases() -> Iterator[Case]:
    """All of them; every encoder at its first rate is damaged in all ways."""
    for encoder, (_, _, rates, channels) in ENCODERS.items():
        for rate, count in itertools.product(rates, channels):
            yield Case(encoder, rate, count, "none")
        for damage in DAMAGES[1:]:
            yield Case(encoder, rates[-1], channels[min(1, len(channels) - 1)], damage)


def outcome(case: Case, path: Path) -> tuple[str, str]:
    """What became of it, and the details. "WRONG" is what must not be.

    Two decoders of one lossy format agree to 2e-3. The encoded length is right where ffmpeg keeps a part of the last packet; where a file
    is damaged, decoders may give up to two frames more or less, and must agree before the damage or behind it.
    """
    command = ["ffmpeg", "-nostdin", "-v", "error", "-i", str(path), "-f", "f32le", "-"]
    notes: list[str] = []
    try:
        with audio.open_track(path, note=notes.append) as track:
            ours = np.concatenate(list(track.blocks()), axis=1).T
    except AudioError as error:
        return "refused", str(error)
    if notes:
        return "told as damaged", notes[0]
    if case.damage == "junk behind" and case.encoder.startswith("w64"):  # ffmpeg refuses it
        command[5] = str(path.with_suffix(".whole"))
    raw = subprocess.run(command, capture_output=True).stdout
    theirs = np.frombuffer(raw, "<f4", len(raw) // 4 // ours.shape[1] * ours.shape[1]).reshape(-1, ours.shape[1])
    if ours.shape == theirs.shape and np.array_equal(ours, theirs):
        return "equal", ""
    encoded = int(SECONDS * case.rate)
    if case.encoder == "opus opusenc" and track.samplerate == case.rate != 48000 and len(ours) == encoded:
        return "close", "at the rate that was encoded; ffmpeg gives 48 kHz"
    common = min(len(ours), len(theirs))
    error = np.abs(ours[:common] - theirs[:common]).max(axis=1, initial=0)
    told = f"{len(ours)} samples, ffmpeg {len(theirs)}; largest difference {error.max(initial=0):.2g}"
    if len(ours) in (len(theirs), encoded) and abs(len(ours) - len(theirs)) <= 200 and error.max(initial=0) < 2e-3:
        return "close", told
    if case.damage != "none" and abs(len(ours) - len(theirs)) <= FRAMES and (_found(ours, theirs, 0.25) or _found(ours, theirs, 0.75)):
        return "close", told
    return "WRONG", told


def _found(ours: np.ndarray, theirs: np.ndarray, where: float) -> bool:
    """Whether a piece of ours is in theirs, two frames earlier or later at most."""
    at = int(where * len(ours))
    piece = ours[at : at + 300]
    starts = range(max(0, at - FRAMES), min(at + FRAMES, len(theirs) - 300))
    return any(np.abs(theirs[start : start + 300] - piece).max() < 2e-3 for start in starts)


def main() -> int:
    """Print the table."""
    table: dict[tuple[str, str], collections.Counter[str]] = collections.defaultdict(collections.Counter)
    wrong = []
    with tempfile.TemporaryDirectory() as folder:
        for case in cases():
            path = case.make(Path(folder))
            if path is None:
                continue
            kind, told = outcome(case, path)
            path.unlink()
            table[case.encoder, "whole" if case.damage == "none" else "damaged"][kind] += 1
            if kind == "WRONG":
                wrong.append(f"{case}: {told}")
    kinds = ("equal", "close", "told as damaged", "refused", "WRONG")
    print(f"{'encoder':<22}{'':<9}" + "".join(f"{kind:>17}" for kind in kinds))
    for (encoder, state), counts in table.items():
        print(f"{encoder:<22}{state:<9}" + "".join(f"{counts[kind] or '':>17}" for kind in kinds))
    total = sum(map(collections.Counter.total, table.values()))
    print(f"{total} files", *wrong, sep="\n")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
