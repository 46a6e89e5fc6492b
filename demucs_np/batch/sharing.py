"""What a library is shared among: machines, as they are told, and processes of this one, when nobody says how many.

It is asked before anything is imported that takes time: meanwhile the process that workers are forked off begins.
"""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import UsageError

if TYPE_CHECKING:
    from ..jobs import Job
    from .task import Task

# As measured (docs/scale.md): what a thread loses by each other one of its process, and what processes lose side by side.
WAITING, LOST = 0.08, 0.03
ENOUGH = 16e6  # bytes of tracks, about a minute's work or more: before that, the start of processes counts


def parse_shard(text: str) -> tuple[int, int]:
    """ "2/8" -> (2, 8). Raises UsageError."""
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise UsageError(f'--shard {text}: must be I/N with I from 1 to N, as in "1/8"')
    return int(number), int(count)


def worth_sharing(sizes: Sequence[int], cores: int) -> bool:
    """Whether several processes may be faster than one, by the sizes of the tracks, bytes."""
    return cores > 1 and len(sizes) > 1 and sum(sizes) >= ENOUGH


def process_count(sizes: Sequence[int], cores: int, most: int) -> int:
    """The number of processes, at most `most`, that have done tracks of these sizes first, each with its share of the cores.

    Each takes the next track when it has done one: with few tracks, or a long one at the end, some have nothing to do while others work.
    """
    if not worth_sharing(sizes, cores):
        return 1
    counts = [count for count in range(1, min(cores, len(sizes), most) + 1) if cores % count == 0]
    return min(counts, key=lambda count: _work(sizes, count) / _speed(cores // count) * (1 + LOST * (count > 1)))


def _work(sizes: Sequence[int], count: int) -> float:
    """When the last of `count` processes ends, in bytes."""
    ends = [0] * count
    for size in sizes:
        heapq.heapreplace(ends, ends[0] + size)
    return max(ends)


def _speed(threads: int) -> float:
    """Of a process, by that of one thread."""
    return threads / (1 + WAITING * (threads - 1))


def room_for(tasks: Sequence[Task], free: int | None) -> int:
    """How many processes there is memory for, of `free` bytes (None: not known), with the models and segments of the tasks."""
    kinds = {dataclasses.replace(task.job, track="", folder=""): None for task in tasks}
    if free is None or not kinds:
        return 1
    return max(1, int(free / max(map(_memory, kinds))))


def _memory(job: Job) -> float:
    """Of a process that does the job, bytes: what this one has, which has loaded the model by now, and the segments."""
    from ..jobs import prepare, warm_model
    from ..machine import resident_memory
    from ..separation.fitting import needed

    model = warm_model(job.model, job.repo, job.backend, job.memory)
    return resident_memory() + (needed(model, job.options, len(prepare(job))) or 0.0)
