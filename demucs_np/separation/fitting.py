"""How much memory a separation will take, and the longest segments for which it is there."""

from __future__ import annotations

import dataclasses

from ..errors import UsageError
from ..machine import free_memory, resident_memory, shown_size
from ..models.bag import BagOfModels, Model, fills_segment
from ..models.network import Network
from ..operations.compiled import thread_arena
from ..operations.planning import arena_peak
from .apply import MAX_SHIFT, Options
from .windows import Windows, one_window

SHORTEST = 2.0  # seconds: shorter segments are not chosen here, what they give is too poor
SPARE = 96e6  # bytes: kernels as they are loaded, scratch of the threads, blocks of audio on their way


def needed(model: BagOfModels, options: Options, stems: int, samples: int | None = None) -> float | None:
    """Bytes that a separation into `stems` stems takes beside the loaded model. None where that is not known: for a model that is not
    compiled, or not ours.

    samples: of the track, where it is not split.
    """
    members = [(member, _windows(member, options, samples)) for member in model.models]
    if any(not isinstance(member, Network) or member.backend != "numba" for member, _ in members):
        return None
    arena = max({arena_peak(member, _length(windows)) for member, windows in _different(members)})
    size = max(windows.size for _, windows in members)
    passes = sum(max(1, _shifts(member, options)) * len(options.views(model.audio_channels)) for member, _ in members)
    sample = 4 * model.audio_channels
    # What comes in, what the model makes, what is taken of it; what passes have ready for the others, and keep for their next chunks.
    blocks = size * (2 + len(model.sources) + stems)
    waiting = stems * sum(windows.size - windows.stride for _, windows in members) / len(members) * passes + stems * size * (passes - 1)
    return arena + sample * (blocks + waiting) + 4 * size + SPARE  # an inverse STFT's envelope is one number a sample


def fitted(model: BagOfModels, options: Options, stems: int, memory: int | None, samples: int | None = None) -> tuple[Options, str]:
    """The options with the longest segment for which there is memory, and a line that says so, "" where nothing was changed.

    memory: bytes that the whole process may take (None: what the system has free, see `free_memory`). Raises UsageError where no segment
    fits, or the segment is not ours to choose.
    """
    need = needed(model, options, stems, samples)
    held = thread_arena().peak
    free = free_memory() if memory is None else max(0, memory - resident_memory())
    if need is None or free is None or need <= free + held:
        return options, ""
    free += held  # what this thread's arena has is used again
    seconds = float(options.segment or model.segment)
    have = f"{shown_size(free)} {'are free' if memory is None else 'are left of --memory beside the loaded model'}"
    if not options.split:
        raise UsageError(f"there is not enough memory: the whole track at once needs {shown_size(need)}, {have}; let it be split")
    lack = f"there is not enough memory: segments of {seconds:g} s need {shown_size(need)}, {have}"
    more = "--memory " + shown_size(need + resident_memory() - held + 50e6).replace(" ", "")
    hint = f"free {shown_size(need - free)}, or go on all the same with {more}" if memory is None else f"{more} would do"
    if any(fills_segment(member) and member.max_segment is not None for member in model.models):
        raise UsageError(f"{lack}, and this model takes no shorter ones; {hint}")
    chosen = _longest(model, options, stems, free, seconds, need)
    if chosen is None:
        raise UsageError(f"{lack}, and even those of {SHORTEST:g} s do not fit; {hint}")
    if options.segment is not None:
        raise UsageError(f"{lack}; --segment {chosen:g} would fit")
    line = f"segments of {chosen:g} s instead of {seconds:g} s, which need {shown_size(need)} of memory: {have}"
    return dataclasses.replace(options, segment=chosen), f"{line}; --memory sets another limit, --segment another length"


def shortage(model: BagOfModels, options: Options, stems: int) -> str:
    """A line for when memory has run out all the same: what would need less."""
    seconds = float(options.segment or model.segment)
    whole = needed(model, options, stems) if options.split else None
    if whole is None:
        return "there is not enough memory; free some, lift the limit (`ulimit -v`), or let the track be split"
    text = f"there is not enough memory: segments of {seconds:g} s need {shown_size(whole)} beside the loaded model"
    if seconds > SHORTEST and not any(fills_segment(member) and member.max_segment is not None for member in model.models):
        shorter = max(SHORTEST, float(int(seconds / 4)))
        less = needed(model, dataclasses.replace(options, segment=shorter), stems) or whole
        text += f", --segment {shorter:g} {shown_size(less)}"
    return f"{text}; choose shorter ones, free some, or lift the limit (`ulimit -v`)"


def _longest(model: BagOfModels, options: Options, stems: int, free: float, seconds: float, need: float) -> float | None:
    """Whole seconds, found on the line between two lengths, and a little below where that is not enough."""

    def at(segment: float) -> float:
        found = needed(model, dataclasses.replace(options, segment=segment), stems)
        assert found is not None
        return found

    low = at(SHORTEST)
    if seconds <= SHORTEST or low > free:
        return None
    chosen = float(int(SHORTEST + (seconds - SHORTEST) * (free - low) / (need - low)))
    while chosen > SHORTEST and at(chosen) > free:
        chosen -= 1
    return max(chosen, SHORTEST)


def _windows(member: Model, options: Options, samples: int | None) -> Windows:
    if options.split or samples is None:
        return options.windows(member)
    return one_window(member, options.segment, samples + int(MAX_SHIFT * member.samplerate) * (_shifts(member, options) > 0))


def _length(windows: Windows) -> int:
    return windows.size + sum(windows.around(windows.size))


def _shifts(member: Model, options: Options) -> int:
    return member.recipe.shifts if options.shifts is None else options.shifts


def _different(members: list[tuple[Model, Windows]]) -> list[tuple[Model, Windows]]:
    """One of each configuration and length."""
    return list({(member.config, _length(windows)): (member, windows) for member, windows in members}.values())
