"""Freed memory stays with a process that trains on a CPU.

A step frees and takes tensors of tens of megabytes hundreds of times. glibc gives each back to the system, which clears
every page of the next one anew: a seventh of a step (whisper-tiny.en on a core of Zen 5).
"""

import ctypes
from contextlib import suppress

TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4  # of malloc.h
LEAST = 2**28  # bytes that are taken from the system at a time


def keep_freed_memory() -> None:
    """Make glibc keep freed memory for the rest of the process; does nothing with another C library."""
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for what, value in ((MMAP_MAX, 0), (TRIM_THRESHOLD, 2**31 - 1), (TOP_PAD, LEAST)):
            mallopt(what, value)
