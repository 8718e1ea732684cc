"""The process's memory: kept for the next step instead of given back to the system."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h


def keep_freed_memory() -> None:
    """Have this process keep what it frees, where its allocator is glibc's; elsewhere nothing changes.

    Every step needs as much as the one before. Given back to the system in between, as glibc always does with blocks
    of more than 32 MiB, its pages would be cleared and mapped anew each time. The process stays as large as it was.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)
