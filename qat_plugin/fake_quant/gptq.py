"""GPTQ: rounding a weight column by column, each column's error made good by the columns that are still to come.

Frantar et al., 2022, arXiv:2210.17323, with groups whose scales and zero points are fixed beforehand.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qat_plugin.errors import QuantizationError
from qat_plugin.fake_quant.observers import WeightScale
from qat_plugin.fake_quant.schemes import WeightScheme

_BLOCK_INPUTS = 64
# Share of the mean moment that is added to all inputs: twenty times the usual, for speech in languages that calibration
# has not heard loses less so.
_DAMPING = 0.2


def gptq(weight: Tensor, second_moments: Tensor, found: WeightScale, scheme: WeightScheme) -> Tensor:
    """The quantized values of `weight` `(out, in)` that lose least of the layer's output, float32; they round to themselves.

    `second_moments`: `(in, in)`, `E[x x^T]` of the layer's input. `found`: scale and zero points to round with. The most
    active inputs are rounded first, so that all others can make their errors good ("act order").

    Raises `QuantizationError` when the moments cannot be inverted.
    """
    width = weight.shape[1]
    order = second_moments.diagonal().argsort(descending=True, stable=True)
    factor = _inverse_factor(second_moments[order][:, order])
    steps, points = found.steps, found.zero_point
    groups = (order // (width // steps.shape[1])).tolist()
    # Input by input and group by group in rows, which lie in one piece of memory.
    rest, quantized = weight.detach().float().T[order], torch.empty(width, weight.shape[0], device=weight.device)
    steps = steps.T.contiguous()
    offset = torch.zeros_like(steps) if points is None else points.T.float()
    low, high = scheme.qmin - offset, scheme.qmax - offset
    for start in range(0, width, _BLOCK_INPUTS):
        stop = min(start + _BLOCK_INPUTS, width)
        errors = torch.empty(stop - start, rest.shape[1], device=rest.device)
        for row in range(start, stop):
            group = groups[row]
            step = steps[group]
            # The operations of `fake_quantize_weight`, one by one, for its integers.
            rounded = torch.div(rest[row], step, out=quantized[row]).round_().clamp_(low[group], high[group]).mul_(step)
            error = torch.sub(rest[row], rounded, out=errors[row - start]).div_(factor[row, row])
            rest[row + 1 : stop].addr_(factor[row, row + 1 : stop], error, alpha=-1)
        rest[stop:].addmm_(factor[start:stop, stop:].T, errors, alpha=-1)
    return quantized[order.argsort()].T.contiguous()


def _inverse_factor(second_moments: Tensor) -> Tensor:
    """Upper Cholesky factor of the inverse of the damped moments."""
    moments = second_moments.double()
    diagonal = moments.diagonal()
    damping = _DAMPING * float(diagonal.mean()) + 1e-12
    damped = moments + damping * torch.eye(len(moments), dtype=moments.dtype, device=moments.device)
    lower, failed = torch.linalg.cholesky_ex(damped)
    if int(failed):
        raise QuantizationError("the second moments of the input cannot be inverted: calibrate on more clips")
    upper: Tensor = torch.linalg.cholesky(torch.cholesky_inverse(lower), upper=True)
    return upper.float()
