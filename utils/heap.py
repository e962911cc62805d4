"""The C library's heap on a CPU: keep the memory of freed maps, which the next step asks for again.

glibc gives large blocks back to the system as they are freed, and every page of the next one is then faulted in and
cleared anew (docs/performance.md has what that costs).
"""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
LARGEST = 2**31 - 1  # bytes: what an int holds


def keep_freed_memory() -> bool:
    """Let this process reuse large freed blocks; whether it does (False where the C library is not glibc).

    The process's memory stays at its peak until it ends.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(name, LARGEST) == 1 for name in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD))
