"""The C library's heap on a CPU: keep the memory of freed maps, which the next step asks for again.

glibc gives large blocks back to the system as they are freed, and every page of the next one is then faulted in and
cleared anew (docs/performance.md has what that costs).
"""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
LARGEST = 2**31 - 1  # bytes: what an int holds
USUAL = 2**25  # bytes: where glibc's own threshold ends as it adapts


def keep_freed_memory(largest: int = LARGEST) -> bool:
    """Let this process reuse freed blocks of up to `largest` bytes; whether it does (False where there is no glibc).

    The process's memory stays at its peak until it ends. glibc by itself goes up to `USUAL`.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    limits = {M_MMAP_THRESHOLD: largest, M_TRIM_THRESHOLD: min(2 * largest, LARGEST)}
    return mallopt is not None and all(mallopt(name, limit) == 1 for name, limit in limits.items())
