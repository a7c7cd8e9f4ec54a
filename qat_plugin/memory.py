"""What the C library does with memory that this process frees. On glibc; elsewhere these functions do nothing."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

# mallopt(3)
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_NEVER = 2**31 - 1


def keep_freed_memory() -> None:
    """Let malloc keep what tensors free, instead of giving it back to the system.

    Every training step asks for the same gigabytes again; pages that were given back are then zeroed anew, one fault at a time,
    which was a sixth of a step's time on a CPU.
    """
    mallopt = _of_glibc("mallopt")
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, _NEVER)


def return_freed_memory() -> None:
    """Give back to the system what malloc keeps of freed memory: after loading 4-bit weights, several times the file."""
    malloc_trim = _of_glibc("malloc_trim")
    if malloc_trim is not None:
        malloc_trim(0)


def _of_glibc(function: str) -> Any:
    return getattr(ctypes.CDLL(None), function, None) if sys.platform == "linux" else None
