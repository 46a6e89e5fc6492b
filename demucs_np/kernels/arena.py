"""Buffers that are used again and again. A segment takes and gives back the same sizes in the same order, so from the second one on
all memory has been touched before. Fresh memory would cost page faults, which do not get faster with threads."""

from __future__ import annotations

import contextlib
import math
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.lib.stride_tricks import as_strided

SLAB = 2**27  # floats (512 MiB) reserved at a time; the system gives pages only to what is written
GRAIN = 1024  # floats (one page): every buffer begins on a multiple
LINE = 64  # bytes: vectors that begin on a multiple lie in one line of the cache
LARGE = 2**22  # bytes of an array that has pages of its own
HUGE = 2**21  # bytes of a large page


def apart(shape: int | tuple[int, ...], dtype: type = np.float32) -> np.ndarray:
    """An array of arbitrary content. A large one has pages of its own, which the system has back when it is gone: what the C library
    keeps of some megabytes for the next array lies between those that stay, and may never be used again."""
    count = (shape if isinstance(shape, int) else math.prod(shape)) * np.dtype(dtype).itemsize
    if count < LARGE or not hasattr(mmap, "MAP_ANONYMOUS"):
        room = np.empty(count + LINE, np.uint8)
        return np.ndarray(shape, dtype, room, -room.ctypes.data % LINE)
    try:
        memory = mmap.mmap(-1, count, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError:
        raise MemoryError(f"{count} bytes") from None
    if hasattr(mmap, "MADV_HUGEPAGE"):  # as NumPy does
        with contextlib.suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return np.ndarray(shape, dtype, memory)


@dataclass(frozen=True)
class Plan:
    """Where the buffers of a computation lie, in the order in which they are taken."""

    places: tuple[tuple[int, int], ...]  # (first, size) of each, floats
    size: int  # floats, of all


@dataclass(frozen=True)
class Pages:
    """Large pages of a slab in which nothing lies."""

    memory: mmap.mmap
    begin: int  # bytes
    count: int

    def give(self) -> None:
        """The system has them back, and takes them anew when they are used again: some tenths of a millisecond for a megabyte."""
        self.memory.madvise(mmap.MADV_DONTNEED, self.begin, self.count)


class Arena:
    """Float32 buffers cut from large slabs, where a plan has them or else at the lowest place that fits; neighbouring free places are
    joined."""

    def __init__(self) -> None:
        self._slabs: list[np.ndarray] = []
        self._ends: list[int] = []  # of each slab, floats from its start to the end of the farthest buffer so far
        self._free: list[tuple[int, int, int]] = []  # slab, start, size; sorted
        self._taken: dict[int, tuple[int, tuple[int, int, int]]] = {}  # address -> its number, place
        self._count = 0  # buffers handed out so far
        self._plan: Iterator[tuple[int, int]] | None = None
        self._home = 0  # the slab that the plan is for
        self.kept: dict[Any, Any] = {}  # what names places in the slabs, and ends with them
        self.noting: Any = None  # who is told of pages that are given back, see `operations.replay`

    def take(self, *shape: int) -> np.ndarray:
        """An array of this shape with arbitrary content."""
        wanted = math.prod(shape)
        if wanted == 0:
            return np.empty(shape, np.float32)  # the arena's would share their address with what follows them
        size = max(GRAIN, -(-wanted // GRAIN) * GRAIN)
        at, start = self._planned(size) or self._lowest(size)
        slab, first, room = self._free.pop(at)
        around = (slab, first, start - first), (slab, start + size, first + room - start - size)
        self._free[at:at] = [place for place in around if place[2]]
        self._ends[slab] = max(self._ends[slab], start + size)
        array = self._place(slab, start, shape)
        self._taken[array.ctypes.data] = (self._count, (slab, start, size))
        self._count += 1
        return array

    def _planned(self, size: int) -> tuple[int, int] | None:
        """Which of the free places has the next one of the plan, and where that begins."""
        if self._plan is None:
            return None
        start, planned = next(self._plan, (0, 0))
        if planned != size:  # another computation
            self._plan = None
            return None
        for at, (slab, first, room) in enumerate(self._free):
            if slab == self._home and first <= start and start + size <= first + room:
                return at, start
        return None

    def _lowest(self, size: int) -> tuple[int, int]:
        """Which of the free places is the first with so much room, and where it begins."""
        at = next((at for at, place in enumerate(self._free) if place[2] >= size), None)
        if at is None:
            self._add(size)
            at = len(self._free) - 1
        return at, self._free[at][1]

    @contextlib.contextmanager
    def following(self, plan: Plan) -> Iterator[None]:
        """Within the block, buffers lie where the plan has them, as long as they are those of the plan and nothing else lies there."""
        before = self._plan, self._home
        if not any(slab.size >= plan.size for slab in self._slabs):
            if not self._taken:  # give the system back what is too small for this
                self._slabs, self._ends, self._free = [], [], []
                self.kept.clear()
            self._add(plan.size)
        self._home = next(number for number, slab in enumerate(self._slabs) if slab.size >= plan.size)
        self._plan = iter(plan.places)
        try:
            yield
        finally:
            self._plan, self._home = before

    def _add(self, size: int) -> None:
        """A further slab with room for `size` floats."""
        room = self._reserve(size)
        self._ends.append(0)
        self._free.append((len(self._ends) - 1, 0, room))

    def _reserve(self, size: int) -> int:
        """A further slab; returns its size, `size` at least. Where an address space is limited, a whole one may not be had."""
        for wanted in (SLAB, SLAB // 4, 0):
            try:
                self._slabs.append(apart(max(wanted, size)))
                break
            except MemoryError:
                if wanted <= size:
                    raise
        return self._slabs[-1].size

    def _place(self, slab: int, start: int, shape: tuple[int, ...]) -> np.ndarray:
        return self._slabs[slab][start : start + math.prod(shape)].reshape(shape)

    def take_doubles(self, size: int) -> np.ndarray:
        """A float64 array of `size` elements."""
        return self.take(2 * size).view(np.float64)

    def base(self) -> np.ndarray:
        """The first slab, from which everything is taken while it has room."""
        if not self._slabs:
            self.give(self.take(1))
        return self._slabs[0]

    def give(self, array: np.ndarray) -> None:
        """The buffer that `array` is, in any shape, may be handed out again. Raises ValueError for one that is not in use."""
        if array.size == 0:
            return
        _, place = self._taken.pop(array.ctypes.data, (0, None))
        if place is None:
            raise ValueError(f"an array of shape {array.shape} is given back that is no buffer in use")
        self._free = _joined([*self._free, place])

    def give_pages(self, size: int) -> None:
        """The system has back `size` bytes that lie unused, or what there is of them."""
        unused = list(self._unused(size))
        for pages in unused:
            pages.give()
        if self.noting is not None:
            self.noting.give(unused)

    def _unused(self, size: int) -> Iterator[Pages]:
        for slab, start, room in self._free:
            first, memory = self._slabs[slab].ctypes.data, cast(Any, self._slabs[slab].base)
            begin, end = (first + 4 * at for at in (start, min(start + room, self._ends[slab])))
            begin = -(-begin // HUGE) * HUGE
            count = min(end - begin, size) // HUGE * HUGE
            if count > 0 and isinstance(memory, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
                yield Pages(memory, begin - first, count)
                size -= count

    def mark(self) -> int:
        """For `reset`: where a computation begins."""
        return self._count

    def reset(self, mark: int = 0) -> None:
        """Take back everything that was handed out since `mark`, as after an exception."""
        late = [address for address, (number, _) in self._taken.items() if number >= mark]
        if late:
            self._free = _joined([*self._free, *(self._taken.pop(address)[1] for address in late)])

    @property
    def taken(self) -> int:
        """Buffers in use."""
        return len(self._taken)

    @property
    def peak(self) -> int:
        """Bytes of memory that buffers have reached so far."""
        return 4 * sum(self._ends)


class PlannedArena(Arena):
    """Buffers that are not there: shapes and addresses alone, of a computation for which `plan` then finds places. Their numbers must be
    neither read nor written."""

    def __init__(self) -> None:
        super().__init__()
        self._spans: list[tuple[int, int, int]] = []  # of each buffer that was given back: size, its number, that of the next one then

    def _reserve(self, size: int) -> int:
        room = max(SLAB, size)
        self._slabs.append(np.zeros(-(-room // GRAIN), np.float32))  # a number for each page: different buffers have different addresses
        return room

    def _place(self, slab: int, start: int, shape: tuple[int, ...]) -> np.ndarray:
        return as_strided(self._slabs[slab][start // GRAIN :], shape, (0,) * len(shape))

    def take_doubles(self, size: int) -> np.ndarray:
        return self.take(2 * size)

    def give_pages(self, size: int) -> None:
        pass

    def give(self, array: np.ndarray) -> None:
        number, (_, _, size) = self._taken.get(array.ctypes.data, (0, (0, 0, 0)))
        super().give(array)
        if size:
            self._spans.append((size, number, self._count))

    def plan(self) -> Plan:
        """The largest first, each at the lowest place that no other one has while it is in use."""
        kept = [(size, number, self._count) for number, (_, _, size) in self._taken.values()]
        placed: list[tuple[int, int, int, int]] = []  # begin, end, number, that of the first after it
        for size, number, after in sorted([*self._spans, *kept], key=lambda span: (-span[0], span[1])):
            begin = 0
            for other, end in sorted(place[:2] for place in placed if place[2] < after and number < place[3]):
                if other - begin >= size:
                    break
                begin = max(begin, end)
            placed.append((begin, begin + size, number, after))
        places = [(begin, end - begin) for begin, end, *_ in sorted(placed, key=lambda place: place[2])]
        return Plan(tuple(places), max((end for _, end, *_ in placed), default=0))


def _joined(places: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    result: list[tuple[int, int, int]] = []
    for slab, start, size in sorted(places):
        if result and result[-1][0] == slab and result[-1][1] + result[-1][2] == start:
            result[-1] = (slab, result[-1][1], result[-1][2] + size)
        else:
            result.append((slab, start, size))
    return result
