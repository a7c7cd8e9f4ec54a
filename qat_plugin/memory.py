"""What the C library does with memory that this process frees. On glibc; elsewhere these functions do nothing."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# mallopt(3)
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4
_NEVER = 2**31 - 1
# Where malloc begins with maps of their own for blocks, and the most that it moves this up to when such blocks are freed.
_LEAST_MAP, _LARGEST_MAP = 128 * 1024, 32 * 1024 * 1024
# How many such maps there may be, unless told otherwise.
_MAPS = 65536
_keeps_freed_memory = False


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Within, malloc keeps what tensors free, instead of giving it back to the system.

    Every training step asks for the same gigabytes again; pages that were given back are then zeroed anew, one fault at a time,
    which was a sixth of a step's time on a CPU. As batches differ in length, what is kept grows by a hundred megabytes a step:
    `return_freed_memory` now and then.
    """
    global _keeps_freed_memory
    mallopt = _of_glibc("mallopt")
    if mallopt is None:
        yield
        return
    _keeps_freed_memory = True
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, _NEVER)
    try:
        yield
    finally:
        _keeps_freed_memory = False
        mallopt(_M_MMAP_MAX, _MAPS)
        mallopt(_M_TRIM_THRESHOLD, 2 * _LARGEST_MAP)
        return_freed_memory()


def return_freed_memory() -> None:
    """Give back to the system what malloc keeps of freed memory: after loading 4-bit weights, several times the file."""
    malloc_trim = _of_glibc("malloc_trim")
    if malloc_trim is not None:
        malloc_trim(0)


def release_memory() -> None:
    """Give back what nobody holds any more, models among it: their modules refer to each other, so that only a collection frees
    them."""
    gc.collect()
    return_freed_memory()


@contextmanager
def freed_blocks_returned_at_once() -> Iterator[None]:
    """Within, blocks of 128 KiB and more go back to the system when they are freed; not within `freed_memory_kept`.

    While a graph is loaded, its weights are freed one by one and others are made of them. Once malloc has seen large blocks
    freed, it keeps those that follow: a fifth more memory than is in use. Afterwards it keeps them as before, since
    computing asks for the same ones again.
    """
    mallopt = _of_glibc("mallopt")
    if mallopt is None or _keeps_freed_memory:
        yield
        return
    mallopt(_M_MMAP_THRESHOLD, _LEAST_MAP)
    try:
        yield
    finally:
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_MAP)
        mallopt(_M_TRIM_THRESHOLD, 2 * _LARGEST_MAP)


def _of_glibc(function: str) -> Any:
    return getattr(ctypes.CDLL(None), function, None) if sys.platform == "linux" else None
