"""GPTQ: rounding a weight column by column, each column's error made good by the columns that are still to come.

Frantar et al., 2022, arXiv:2210.17323, with groups whose scales and zero points are fixed beforehand.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qat_plugin.errors import QuantizationError
from qat_plugin.fake_quant.functional import fake_quantize_weight
from qat_plugin.fake_quant.observers import WeightScale
from qat_plugin.fake_quant.schemes import WeightScheme

_BLOCK_COLUMNS = 128
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
    rest = weight.detach().float()[:, order]
    factor = _inverse_factor(second_moments[order][:, order])
    steps, points = found.steps, found.zero_point
    groups = (order // (width // steps.shape[1])).tolist()
    one_column = WeightScheme(scheme.num_bits, scheme.qmin, scheme.qmax, scheme.symmetric)
    quantized = torch.empty_like(rest)
    for start in range(0, width, _BLOCK_COLUMNS):
        stop = min(start + _BLOCK_COLUMNS, width)
        errors = torch.empty(rest.shape[0], stop - start, device=rest.device)
        for column in range(start, stop):
            group = slice(groups[column], groups[column] + 1)
            point = None if points is None else points[:, group]
            rounded = fake_quantize_weight(rest[:, column, None], steps[:, group], point, one_column)[:, 0]
            quantized[:, column] = rounded
            error = (rest[:, column] - rounded) / factor[column, column]
            rest[:, column:stop] -= torch.outer(error, factor[column, column:stop])
            errors[:, column - start] = error
        rest[:, stop:] -= errors @ factor[start:stop, stop:]
    return quantized[:, order.argsort()]


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
