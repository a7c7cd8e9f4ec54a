"""Integers and scales as ONNX Runtime's operators want them, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]


def pack_nibbles(values: NDArray[Any]) -> Bytes:
    """Pairs of 4-bit integers along the last axis, the first in the low half; an odd end is filled with 0."""
    if values.shape[-1] % 2:
        values = np.concatenate([values, np.zeros((*values.shape[:-1], 1), values.dtype)], axis=-1)
    values = values.astype(np.uint8)
    packed: Bytes = values[..., 0::2] | (values[..., 1::2] << 4)
    return packed


def unpack_nibbles(packed: Bytes, count: int) -> Bytes:
    """The first `count` 4-bit integers along the last axis of what `pack_nibbles` made."""
    both = np.stack([packed & 15, packed >> 4], axis=-1)
    return both.reshape(*packed.shape[:-1], -1)[..., :count]


def pack_matmul_nbits(integers: Bytes, zero_point: Bytes, group_size: int) -> tuple[Bytes, Bytes]:
    """`integers` `(out, in)` → `(out, in / group, group / 2)`; `zero_point` `(out, groups)` → `(out, ceil(groups / 2))`."""
    out, width = integers.shape
    return pack_nibbles(integers.reshape(out, width // group_size, group_size)), pack_nibbles(zero_point)


def unpack_matmul_nbits(packed: Bytes, zero_point: Bytes) -> tuple[Bytes, Bytes]:
    """Inverse of `pack_matmul_nbits`: `(out, in)` integers and `(out, groups)` zero points."""
    out, groups, half = packed.shape
    return unpack_nibbles(packed, 2 * half).reshape(out, -1), unpack_nibbles(zero_point.reshape(out, -1), groups)
