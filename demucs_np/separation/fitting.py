"""How much memory a separation will take, and the longest segments for which it is there."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..errors import UsageError
from ..machine import free_memory, resident_memory, shown_size
from ..models.bag import BagOfModels, Model, fills_segment
from ..models.late import OPENING, SPARE, LateModel
from ..models.network import Network
from ..operations.compiled import thread_arena
from ..operations.planning import arena_peak
from .apply import MAX_SHIFT, Options
from .windows import PART, Windows, one_window

SHORTEST = 2.0  # seconds: shorter segments are not chosen here, what they give is too poor


def needed(model: BagOfModels, options: Options, stems: int, samples: int | None = None) -> float | None:
    """Bytes that a separation into `stems` stems takes beside the loaded model. None where that is not known: for a model that is not
    compiled, or not ours.

    samples: of the track, where it is not split.
    """
    views = len(options.views(model.audio_channels))
    members = [(member, _windows(member, options, samples), max(1, _shifts(member, options)) * views) for member in model.models]
    return _of_passes(model, members, stems)


def needed_live(model: BagOfModels, windows: Callable[[Model], Windows], stems: int, ratio: float) -> float | None:
    """As `needed`, of a stream. ratio: samples that come in for one that the model hears."""
    members = [(member, windows(member), 1) for member in model.models]
    if (need := _of_passes(model, members, stems)) is None:
        return None
    # What came in and may still be read, in a buffer that doubles; and a window's stems as they go out, in parts and together.
    reach = max(_length(windows) for _, windows, _ in members)
    return need + 4 * model.audio_channels * (5 * reach + 2 * ratio * stems * max(windows.stride for _, windows, _ in members))


def _of_passes(model: BagOfModels, members: Sequence[tuple[Model, Windows, int]], stems: int) -> float | None:
    """members: models, their windows, and how often each runs over the track at once."""
    outlined = [(member.outline if isinstance(member, LateModel) else member, windows) for member, windows, _ in members]
    if any(not isinstance(member, Network) or member.backend not in ("numba", "planned") for member, _ in outlined):
        return None
    arena = max({arena_peak(member, _length(windows)) for member, windows in _different(outlined)})
    late = [member for member, _, _ in members if isinstance(member, LateModel)]
    opening = max(member.size for member in late) + OPENING - late[0].turn.size if late else 0.0
    size = max(_length(windows) for _, windows, _ in members)
    passes = sum(count for _, _, count in members)
    sample = 4 * model.audio_channels
    # What comes in twice, what the model makes; what passes have ready for the others, and keep for their next chunks; blocks on their way.
    made = size * (2 + len(model.sources))
    waiting = stems * (size * (passes - 1) + sum((windows.size - windows.stride) * count for _, windows, count in members))
    moving = (3 * passes + 6) * stems * min(size, PART)
    return (
        arena + opening + sample * (made + waiting + moving) + 12 * size + SPARE
    )  # weights of a chunk, their sum, an inverse STFT's envelope


@dataclass(frozen=True)
class Segments:
    """Lengths of the segments of some work, and the memory that it takes with each beside the loaded model."""

    need: Callable[[float | None], float | None]  # seconds -> bytes; None: as it was asked for; bytes None: not known
    seconds: float  # as it was asked for
    given: bool  # by the user
    fixed: bool  # the model takes no shorter ones
    shortest: float = SHORTEST

    def fitted(self, memory: int | None) -> tuple[float | None, str]:
        """The seconds of the longest segments for which there is memory (None: as they are), and a line that says so.

        memory: bytes that the whole process may take (None: what the system has free, see `free_memory`). Raises UsageError where no
        segment fits, or it is not ours to choose.
        """
        need, held = self.need(None), thread_arena().peak
        free = free_memory() if memory is None else max(0, memory - resident_memory())
        if need is None or free is None or need <= free + held:
            return None, ""
        free += held  # what this thread's arena has is used again
        have = f"{shown_size(free)} {'are free' if memory is None else 'are left of --memory beside the loaded model'}"
        lack = f"there is not enough memory: segments of {self.seconds:g} s need {shown_size(need)}, {have}"
        more = "--memory " + shown_size(need + resident_memory() - held + 50e6).replace(" ", "")
        hint = f"free {shown_size(need - free)}, or go on all the same with {more}" if memory is None else f"{more} would do"
        if self.fixed:
            raise UsageError(f"{lack}, and this model takes no shorter ones; {hint}")
        chosen = self._longest(free, need)
        if chosen is None:
            raise UsageError(f"{lack}, and even those of {self.shortest:g} s do not fit; {hint}")
        if self.given:
            raise UsageError(f"{lack}; --segment {chosen:g} would fit")
        line = f"segments of {chosen:g} s instead of {self.seconds:g} s, which need {shown_size(need)} of memory: {have}"
        return chosen, f"{line}; --memory sets another limit, --segment another length"

    def _longest(self, free: float, need: float) -> float | None:
        """Whole seconds, found on the line between two lengths, and a little below where that is not enough."""
        low = self._at(self.shortest)
        if self.seconds <= self.shortest or low > free:
            return None
        chosen = float(int(self.shortest + (self.seconds - self.shortest) * (free - low) / (need - low)))
        while chosen > self.shortest and self._at(chosen) > free:
            chosen -= 1
        return max(chosen, self.shortest)

    def _at(self, seconds: float) -> float:
        found = self.need(seconds)
        assert found is not None
        return found

    def shortage(self) -> str:
        """A line for when memory has run out all the same: what would need less."""
        if (whole := self.need(None)) is None:
            return "there is not enough memory; free some, lift the limit (`ulimit -v`), or let the track be split"
        text = f"there is not enough memory: segments of {self.seconds:g} s need {shown_size(whole)} beside the loaded model"
        shorter = max(self.shortest, float(int(self.seconds / 4)))
        if shorter < self.seconds and not self.fixed:
            text += f", --segment {shorter:g} {shown_size(self._at(shorter))}"
        return f"{text}; choose shorter ones, free some, or lift the limit (`ulimit -v`)"


def fitted(model: BagOfModels, options: Options, stems: int, memory: int | None, samples: int | None = None) -> tuple[Options, str]:
    """The options with the longest segment for which there is memory, and a line that says so, "" where nothing was changed.

    memory, and what is raised: see `Segments.fitted`. samples: of the track, where it is not split.
    """
    if not options.split:
        return options, _whole(needed(model, options, stems, samples), memory)
    seconds, line = _segments(model, options, stems).fitted(memory)
    return (dataclasses.replace(options, segment=seconds) if line else options), line


def _whole(need: float | None, memory: int | None) -> str:
    """Raises UsageError where a whole track does not fit."""
    free = free_memory() if memory is None else max(0, memory - resident_memory())
    if need is not None and free is not None and need > free + thread_arena().peak:
        have = f"{shown_size(free)} are free" if memory is None else f"--memory leaves {shown_size(free)} beside the loaded model"
        raise UsageError(f"there is not enough memory: the whole track at once needs {shown_size(need)}, {have}; let it be split")
    return ""


def shortage(model: BagOfModels, options: Options, stems: int) -> str:
    """See `Segments.shortage`."""
    if not options.split:
        return "there is not enough memory; free some, lift the limit (`ulimit -v`), or let the track be split"
    return _segments(model, options, stems).shortage()


def _segments(model: BagOfModels, options: Options, stems: int) -> Segments:
    def need(seconds: float | None) -> float | None:
        return needed(model, options if seconds is None else dataclasses.replace(options, segment=seconds), stems)

    return Segments(need, float(options.segment or model.segment), options.segment is not None, has_fixed_segment(model))


def has_fixed_segment(model: BagOfModels) -> bool:
    """Whether shorter segments would be filled up to the model's own, and need as much."""
    return any(fills_segment(member) and member.max_segment is not None for member in model.models)


def _windows(member: Model, options: Options, samples: int | None) -> Windows:
    if options.split or samples is None:
        return options.windows(member)
    return one_window(member, options.segment, samples + int(MAX_SHIFT * member.samplerate) * (_shifts(member, options) > 0))


def _length(windows: Windows) -> int:
    return windows.size + sum(windows.around(windows.size))


def _shifts(member: Model, options: Options) -> int:
    return member.recipe.shifts if options.shifts is None else options.shifts


def _different(members: Sequence[tuple[Model, Windows]]) -> list[tuple[Model, Windows]]:
    """One of each configuration and length."""
    return list({(member.config, _length(windows)): (member, windows) for member, windows in members}.values())
