"""Processes that train together begin with what the first of them has found."""

from __future__ import annotations

import torch
from torch import Tensor, distributed, nn

from qat_plugin.fake_quant.insertion import weight_quantizers


def take_from_first(model: nn.Module) -> None:
    """Give every process the first one's weights and quantizers; of a single process nothing is changed.

    DistributedDataParallel makes weights equal when it wraps the model, which is before calibration moves them. The others wait
    for the first one as long as `ddp_timeout` allows.
    """
    if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
        return
    quantizers = weight_quantizers(model)
    # A layer may be equalized in the first process alone, or in all others.
    shapes = [None if q.equalization is None else q.equalization.shape for q in quantizers]
    distributed.broadcast_object_list(shapes, src=0)
    found = [t for q in quantizers for t in (q.initial_scale, q.zero_point, q.multiplier) if t is not None]
    with torch.no_grad():
        for tensor in [*model.parameters(), *found]:
            tensor.copy_(_received(tensor))
        for quantizer, shape in zip(quantizers, shapes, strict=True):
            if shape is None:
                quantizer.equalization = None
            else:
                own = quantizer.equalization
                quantizer.equalization = _received(quantizer.initial_scale.new_empty(shape) if own is None else own)


def _received(tensor: Tensor) -> Tensor:
    # Not in place, for autograd and what is computed once and reused would not notice.
    copy = tensor.detach().clone()
    distributed.broadcast(copy, src=0)
    return copy
