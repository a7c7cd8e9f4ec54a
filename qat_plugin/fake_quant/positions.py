"""Whisper's encoder positions are a formula: an exported model need not carry them.

Published weights were rounded to half precision, so the formula differs from them by up to 2.5e-4; a model that is trained
may as well have the exact values.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

ENCODER_POSITIONS = "encoder.embed_positions"
_TIMESCALE = 10000.0
_HALF_PRECISION = 5e-4


def inverse_timescales(channels: int) -> Tensor:
    """Angle from one position to the next for each pair of channels, float32 `(channels / 2,)`.

    Computed in float64: what float32 makes of it differs from machine to machine, and the last of 1500 positions multiplies
    the difference, so that what one has trained the other would not know for the formula.
    """
    count = channels // 2
    return torch.exp(-math.log(_TIMESCALE) / (count - 1) * torch.arange(count, dtype=torch.float64)).float()


def sinusoids(length: int, channels: int) -> Tensor:
    """Sines, then cosines, of `position * inverse_timescales`: float32 `(length, channels)` (Vaswani et al., 2017)."""
    angles = torch.arange(length, dtype=torch.float32).unsqueeze(1) * inverse_timescales(channels)
    return torch.cat([angles.double().sin(), angles.double().cos()], dim=1).float()


def are_sinusoids(table: Tensor, tolerance: float = 1e-6) -> bool:
    """Whether a table of positions `(length, channels)` is the formula's."""
    if table.shape[1] % 2 or table.shape[1] < 4:
        return False
    return bool((table.float().cpu() - sinusoids(*table.shape)).abs().max() <= tolerance)


def sharpen_positions(table: Any) -> bool:
    """Give a table that is the formula's, but for rounding to half precision, its exact values; False for any other.

    They are no parameter then: from_pretrained of transformers 5 leaves them trainable.
    """
    if not are_sinusoids(table.detach(), _HALF_PRECISION):
        return False
    with torch.no_grad():
        table.copy_(sinusoids(*table.shape))
    table.requires_grad_(False)
    return True
