"""What a model must be before fake quantization goes in: weights in full precision, no adapters beside them."""

from __future__ import annotations

import torch
from torch import nn

from qat_plugin.errors import QuantizationError

_HALF_TYPES = (torch.float16, torch.bfloat16)


def check_full_precision(model: nn.Module) -> None:
    """Raise `QuantizationError` when a parameter is float16 or bfloat16.

    Export computes `round(weight / scale)` in float32; a half-precision weight holds too few bits to train towards those
    integers, and its updates are lost in rounding.
    """
    for name, parameter in model.named_parameters():
        if parameter.dtype in _HALF_TYPES:
            raise QuantizationError(
                f"{name} is {parameter.dtype}: the integers that half-precision weights train are not those that would be "
                "exported. Load the model with from_pretrained(..., dtype=torch.float32); --bf16 or --fp16 then trains it in "
                "mixed precision by autocast, with weights in float32"
            )


def check_no_adapters(model: nn.Module) -> None:
    """Raise `QuantizationError` when a module is wrapped by an adapter, as PEFT's LoRA does.

    The sum of weight and adapter is what ships; quantizing its terms one by one is another arithmetic.
    """
    for name, module in model.named_modules():
        if isinstance(getattr(module, "base_layer", None), nn.Module):
            raise QuantizationError(
                f"{name} is a {type(module).__name__} around a base_layer, an adapter of PEFT, and what ships is their sum: "
                "merge first (`model = peft_model.merge_and_unload().requires_grad_(True)`), then train the merged model"
            )


def check_trainable(model: nn.Module) -> None:
    """Raise `QuantizationError` when no parameter of the model is trained, as PEFT leaves a merged one."""
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise QuantizationError(
            "every weight of the model is frozen, as PEFT leaves them after merging: call model.requires_grad_(True) before "
            "the trainer is made"
        )
