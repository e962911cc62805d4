"""Memory: what is freed is kept on a CPU, and how a lack of it is known.

glibc gives large blocks back to the system as maps are freed, and every page of the next one is then faulted in and
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


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was short, a GPU's or the machine's; PyTorch has an error of its own for a GPU's allocator alone,
    and is not imported for this."""
    said = (
        "DefaultCPUAllocator", "CUDA error: out of memory", "ALLOC_FAILED", "ALLOCATION_FAILED",
        "Cuda failure 2",  # NCCL's
    )  # fmt: skip
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in said)
