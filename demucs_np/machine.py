"""What the system tells of itself and of this process."""

from __future__ import annotations

import contextlib
import platform
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from .errors import UsageError

ROOT = Path("/")


def peak_memory() -> float | None:
    """The largest resident memory of this process so far, bytes. None where the system does not tell."""
    peak = _of_process("VmHWM")
    if peak is not None:
        return float(peak)
    try:
        import resource
    except ImportError:
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(most if sys.platform == "darwin" else 1024 * most)


def resident_memory() -> int:
    """Bytes of memory that this process has now; 0 where the system does not tell."""
    return _of_process("VmRSS") or 0


def _of_process(field: str) -> int | None:
    try:
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.split(f"{field}:")[1].split()[0])
    except (OSError, IndexError):
        return None


def free_memory(root: Path = ROOT) -> int | None:
    """Bytes that this process can still take without being swapped out, refused or killed: the least of what the system has available, what
    its control groups leave it (both versions), and its own limit on address space. None where the system tells none of them.

    `root` is where /proc and /sys are.
    """
    free = list(_left_by_groups(root))
    with contextlib.suppress(OSError, IndexError, ValueError):
        free.append(1024 * int((root / "proc/meminfo").read_text().split("MemAvailable:")[1].split()[0]))
    space = address_space()
    return min([*free, *([] if space is None else [space])], default=None)


def address_space() -> int | None:
    """Bytes of address space that this process may still map; None: no limit (`ulimit -v`)."""
    try:
        import resource
    except ImportError:
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else max(0, limit - (_of_process("VmSize") or 0))


def _left_by_groups(root: Path) -> Iterator[int]:
    """What each control group above this process leaves; pages of files that can be dropped count as free."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mount, limits, used, cached = root / "sys/fs/cgroup", ["memory.max", "memory.high"], "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            mount, limits, used = root / "sys/fs/cgroup/memory", ["memory.limit_in_bytes"], "memory.usage_in_bytes"
            cached = "total_inactive_file"
        else:
            continue
        group = mount / path.strip("/")
        # A container sees its own group as the root, though its path is told as from outside.
        for folder in [group, *group.parents] if group.is_dir() else [mount]:
            for name in limits:
                limit = _number(folder / name)
                if limit is not None and limit < 1 << 60:  # without a limit, version 1 tells of nearly 2^63 bytes
                    yield max(0, limit - (_number(folder / used) or 0) + _statistic(folder / "memory.stat", cached))
            if folder == mount:
                break


def _number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _statistic(path: Path, name: str) -> int:
    try:
        fields = dict(line.split(" ", 1) for line in path.read_text().splitlines() if " " in line)
    except OSError:
        return 0
    return int(fields.get(name, 0))


def memory_limit(memory: float | str | None) -> int | None:
    """The bytes that a process may take, from an option: a number, or a size as "2GB" (None: there is no limit). Raises UsageError."""
    if memory is None or isinstance(memory, str):
        return None if memory is None else parse_size(memory)
    if not 0 < memory < float("inf"):
        raise UsageError(f'memory is {memory}, but must be a number of bytes, or a size as "2GB"')
    return int(memory)


def parse_size(text: str) -> int:
    """Bytes of a size as it is written: 2GB, 1500MB, 1.5GiB. Raises UsageError for what is none."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([KMGT])(i?)B?\s*", text, re.IGNORECASE)
    if match is None or float(match[1]) == 0:
        raise UsageError(f'"{text}" is no size of memory: write a number with its unit, as in 2GB, 1500MB or 1.5GiB')
    power = "KMGT".index(match[2].upper()) + 1
    return int(float(match[1]) * (1024 if match[3] else 1000) ** power)


def shown_size(size: float) -> str:
    """Bytes, for a message."""
    return f"{size / 1e9:.1f} GB" if size >= 0.95e9 else f"{size / 1e6:.0f} MB"


def processor() -> str:
    """The processor's name, as far as the system tells."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
