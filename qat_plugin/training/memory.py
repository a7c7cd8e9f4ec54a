"""Memory of training on a CPU."""

from __future__ import annotations

import ctypes
import sys

# mallopt(3)
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_NEVER = 2**31 - 1


def keep_freed_memory() -> None:
    """Let malloc keep what tensors free, instead of giving it back to the system.

    Every step asks for the same gigabytes again; pages that were given back are then zeroed anew, one fault at a time, which
    was a sixth of a step's time. Takes effect in processes with glibc; elsewhere nothing is done.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, _NEVER)
