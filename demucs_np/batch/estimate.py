"""What a plan will take, from the headers of some of its tracks and the time of one segment."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..audio import open_track
from ..errors import DemucsError
from ..jobs import Job, prepare, warm_model
from ..separation.separator import Separator
from . import remote
from .task import Task

SAMPLE = 200  # tracks whose headers are read
COMPRESSED = 0.6  # size of FLAC by that of its samples, of music


@dataclass(frozen=True)
class Estimate:
    tracks: int
    known: int  # tracks whose headers tell a length; the rest is in proportion to the sizes of the files
    audio: float  # seconds
    seconds: float  # of work, on this machine
    disk: float  # bytes of the results


def estimate(tasks: Sequence[Task], workers: int = 1) -> Estimate:
    """Of all tasks by a sample of them, in proportion to the sizes of their files, with so many workers side by side."""
    chosen = [task for task in tasks[:: max(1, len(tasks) // SAMPLE)] if not remote.is_address(task.job.track)]
    known = [(task, seconds) for task in chosen if (seconds := _length(task.job)) is not None]
    measured = sum(task.size for task, _ in known)
    scale = sum(task.size for task in tasks) / measured if measured else 0.0
    kinds = {_kind(task.job): task.job for task, _ in known}
    cost = {kind: (_disk_rate(job), _speed(job)) for kind, job in kinds.items()}
    audio = sum(seconds for _, seconds in known) * scale
    disk = sum(seconds * cost[_kind(task.job)][0] for task, seconds in known) * scale
    work = sum(seconds / cost[_kind(task.job)][1] for task, seconds in known) * scale / workers
    return Estimate(len(tasks), len(known), audio, work, disk)


def _kind(job: Job) -> Job:
    return dataclasses.replace(job, track="", folder="")


def _length(job: Job) -> float | None:
    """Seconds that are to be separated, as the header says."""
    try:
        with open_track(job.track, job.stream, lambda text: None) as track:
            if track.samples is None:
                return None
            left = max(0.0, track.samples / track.samplerate - job.wanted.start)
            return left if job.wanted.duration is None else min(left, job.wanted.duration)
    except DemucsError:
        return None


def _disk_rate(job: Job) -> float:
    """Bytes of all stems for a second of audio."""
    model, encoding, stems = warm_model(job.model, job.repo, job.backend), job.encoding, len(prepare(job))
    if encoding.format == "mp3":
        return stems * encoding.bitrate * 125.0
    rate = job.wanted.rate if isinstance(job.wanted.rate, int) else model.samplerate
    raw = rate * model.audio_channels * encoding.bits / 8
    return stems * raw * (COMPRESSED if encoding.format == "flac" else 1.0)


def _speed(job: Job) -> float:
    """Seconds of audio in a second, from one segment with all threads; the first one, which loads kernels, does not count."""
    model, options = warm_model(job.model, job.repo, job.backend), job.options
    separator = Separator(model, shifts=0, overlap=0.0, split=options.split, segment=options.segment, stems=job.stems, threads=job.threads)
    length = int(float(options.segment or model.segment) * model.samplerate)
    noise = np.random.default_rng(0).standard_normal((model.audio_channels, length), np.float32)
    for _ in range(2):
        began = time.perf_counter()
        separator.stems_in_memory(noise, "noise")
        seconds = time.perf_counter() - began
    recipe = model.models[0].recipe
    shifts = recipe.shifts if options.shifts is None else options.shifts
    overlap = recipe.overlap if options.overlap is None else options.overlap
    return length / model.samplerate / seconds / max(1, shifts) * (1 - overlap)
