"""Processes that train together begin with what the first of them has found."""

from __future__ import annotations

import torch
from torch import Tensor, distributed, nn

from qat_plugin.fake_quant.insertion import weight_quantizers
from qat_plugin.fake_quant.observers import WeightScale


def take_from_first(model: nn.Module) -> None:
    """Give every process the first one's weights and quantizers; of a single process nothing is changed.

    DistributedDataParallel makes weights equal when it wraps the model, which is before calibration moves them.
    """
    if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
        return
    quantizers = weight_quantizers(model)
    # A layer may be equalized in the first process alone, or in all others.
    shapes = [None if q.equalization is None else q.equalization.shape for q in quantizers]
    distributed.broadcast_object_list(shapes, src=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(_received(parameter))
        for quantizer, shape in zip(quantizers, shapes, strict=True):
            points, multiplier, own = quantizer.zero_point, quantizer.multiplier, quantizer.equalization
            # `set_scale` lets offsets begin at 0, where calibration leaves them.
            quantizer.set_scale(
                WeightScale(
                    _received(quantizer.initial_scale),
                    None if points is None else _received(points),
                    None if multiplier is None else _received(multiplier),
                )
            )
            if shape is None:
                quantizer.equalization = None
            else:
                empty = quantizer.initial_scale.new_empty(shape)
                quantizer.equalization = _received(empty if own is None else own)


def _received(tensor: Tensor) -> Tensor:
    # Not in place, for autograd and what is computed once and reused would not notice.
    copy = tensor.detach().clone()
    distributed.broadcast(copy, src=0)
    return copy
