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


def pack_matmul_nbits(integers: NDArray[Any], zero_point: Bytes | None, group_size: int) -> tuple[Bytes, Bytes | None]:
    """Blocks and zero points of MatMulNBits.

    `integers` `(out, in)`: uint8 of 4 bits → `(out, in / group, group / 2)`; int8 → `(out, in / group, group)`, moved up by
    128, which the operator takes for their zero point when none is given. `zero_point` `(out, groups)` of 4 bits →
    `(out, ceil(groups / 2))`, or None.
    """
    blocks = integers.reshape(len(integers), -1, group_size)
    if zero_point is None:
        return (blocks.astype(np.int16) + 128).astype(np.uint8), None
    return pack_nibbles(blocks), pack_nibbles(zero_point)


def unpack_matmul_nbits(packed: Bytes, zero_point: Bytes | None) -> tuple[NDArray[Any], Bytes | None]:
    """Inverse of `pack_matmul_nbits`: `(out, in)` integers and `(out, groups)` zero points."""
    out, groups, size = packed.shape
    if zero_point is None:
        return (packed.astype(np.int16) - 128).astype(np.int8).reshape(out, -1), None
    return unpack_nibbles(packed, 2 * size).reshape(out, -1), unpack_nibbles(zero_point.reshape(out, -1), groups)


def pack_halves(values: Bytes) -> Bytes:
    """4-bit integers of the first half of the first axis in the low halves of bytes, those of the second in the high ones.

    An odd end is filled with 0.
    """
    if len(values) % 2:
        values = np.concatenate([values, np.zeros((1, *values.shape[1:]), np.uint8)])
    low, high = np.split(values, 2)
    packed: Bytes = low | (high << np.uint8(4))
    return packed


def unpack_halves(packed: Bytes, count: int) -> Bytes:
    """The first `count` 4-bit integers along the first axis of what `pack_halves` made."""
    return np.concatenate([packed & 15, packed >> 4])[:count]


def pack_groups(values: Bytes, groups: int) -> NDArray[np.int8]:
    """4-bit `(out, n)` → int8 `(ceil(groups / 2), n / groups, out)`: the first half of the groups in the high halves of bytes.

    Those are moved down by 8, so that a byte without its low half is a signed number: 16 times as large.
    """
    both = _exchange_halves(pack_halves(values.T.reshape(groups, -1, len(values)))) ^ np.uint8(0x80)
    packed: NDArray[np.int8] = both.view(np.int8)
    return packed


def unpack_groups(packed: NDArray[np.int8], groups: int) -> Bytes:
    """Inverse of `pack_groups`: `(out, n)`."""
    values = unpack_halves(_exchange_halves(packed.view(np.uint8) ^ np.uint8(0x80)), groups)
    return np.ascontiguousarray(values.reshape(-1, values.shape[-1]).T)


def _exchange_halves(packed: Bytes) -> Bytes:
    exchanged: Bytes = (packed << np.uint8(4)) | (packed >> np.uint8(4))
    return exchanged
