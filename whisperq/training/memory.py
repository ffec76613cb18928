"""Memory of a process that trains on a CPU: what it keeps, and what is free.

A step frees and takes tensors of tens of megabytes hundreds of times. glibc gives each back to the system, which clears
every page of the next one anew: a seventh of a step (whisper-tiny.en on a core of Zen 5).
"""

import ctypes
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4  # of malloc.h
LEAST = 2**28  # bytes that are taken from the system at a time
# Control groups, old and new: where they lie, their limit, what they have taken, and what of that is idle file cache.
OLD = ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
NEW = ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file")


def keep_freed_memory() -> None:
    """Make glibc keep freed memory for the rest of the process; does nothing with another C library."""
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for what, value in ((MMAP_MAX, 0), (TRIM_THRESHOLD, 2**31 - 1), (TOP_PAD, LEAST)):
            mallopt(what, value)


def free_memory(root: Path = Path("/")) -> int:
    """Bytes that this process may still take: the machine's, or fewer where a job's limit is nearer.

    Zero where the system does not say. root: where its files are.
    """
    with suppress(OSError, KeyError, ValueError):
        available = 1024 * int(_table(root / "proc/meminfo")["MemAvailable:"].split()[0])
        return max(0, min([available, *_left_to_jobs(root)]))
    return 0


def _left_to_jobs(root: Path) -> Iterator[int]:
    """What is left of the limit of each control group that holds this process."""
    for line in (root / "proc/self/cgroup").read_text().splitlines():
        _, kinds, place = line.split(":", 2)
        if kinds not in ("", "memory"):
            continue
        where, limit, taken, idle = OLD if kinds else NEW
        inner = Path(place.lstrip("/"))
        for folder in (root / where / path for path in (inner, *inner.parents)):
            with suppress(OSError, KeyError, ValueError):  # "max" is no limit
                left = int((folder / limit).read_text()) - int((folder / taken).read_text())
                yield left + int(_table(folder / "memory.stat")[idle])


def _table(path: Path) -> dict[str, str]:
    """Lines of a name and a value."""
    return dict(line.split(maxsplit=1) for line in path.read_text().splitlines())
