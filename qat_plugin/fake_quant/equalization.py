"""Taming single channels that are far more active than the rest, where one scale serves the whole input.

Some channels behind Whisper's GELUs are a hundred times as active as the others. `DynamicQuantizeLinear` has one scale for
all, so these decide it and the rest is rounded away. Equalization divides each channel by a power of two and multiplies the
weight's column by it: the product is the same, bit for bit in float, and the range shrinks (SmoothQuant, Xiao et al., 2023,
arXiv:2211.10438). Inputs that a LayerNorm gives are even enough to do without.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qat_plugin.fake_quant.functional import fake_quantize_weight
from qat_plugin.fake_quant.observers import InputObserver, search_mse
from qat_plugin.fake_quant.schemes import WeightScheme

# Ranges tried, as shares of the whole: channels beyond are divided until they fit.
_HALVINGS = range(1, 8)
_UINT8_STEPS = 255
# An extra pass over the input must earn its place.
_LEAST_GAIN = 0.1


def find_equalization(weight: Tensor, scheme: WeightScheme, observer: InputObserver) -> Tensor | None:
    """Divisors of the input channels, powers of two, float32 `(in,)`; None where the layer gains nothing by them.

    `weight`: `(out, in)`. `observer` has watched the layer's input. What is made small is the expected squared error of
    the output that the rounding of input and weight causes, taken as independent from channel to channel.
    """
    low, high = observer.range
    whole = float(high.max().clamp(min=0.0) - low.min().clamp(max=0.0))
    if whole <= 0.0:
        return None
    columns = weight.detach().float().square().sum(0)
    best, least = (
        None,
        (1.0 - _LEAST_GAIN) * _expected_error(weight, columns, torch.ones_like(low), scheme, observer),
    )
    largest = torch.maximum(high, -low)
    for halvings in _HALVINGS:
        divisors = torch.exp2(torch.ceil(torch.log2((largest / (whole * 0.5**halvings)).clamp(min=1.0))))
        error = _expected_error(weight, columns, divisors, scheme, observer)
        if error < least:
            best, least = divisors, error
    return best


def _expected_error(
    weight: Tensor,
    columns: Tensor,
    divisors: Tensor,
    scheme: WeightScheme,
    observer: InputObserver,
) -> float:
    low, high = observer.range
    step = ((high / divisors).max().clamp(min=0.0) - (low / divisors).min().clamp(max=0.0)) / _UINT8_STEPS
    # Rounding errors are uniform within a step; division by the divisor multiplied the weight's column.
    of_input = (divisors.square() * columns).sum() * step.square() / 12
    scaled = weight.detach().float() * divisors
    importance = observer.mean_square / divisors.square()
    found = search_mse(scaled, scheme, importance)
    difference = fake_quantize_weight(scaled, found.steps, found.zero_point, scheme) - scaled
    return float(of_input + (difference.square().sum(0) * importance).sum())
