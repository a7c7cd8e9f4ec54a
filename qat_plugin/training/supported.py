"""What a Trainer may be asked for beside fake quantization; the rest would train something else without a word."""

from __future__ import annotations

from typing import Any

from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from transformers import TrainingArguments, WhisperForConditionalGeneration

from qat_plugin.errors import QuantizationError

# Weights in pieces: neither a scale nor what a checkpoint of quantizers holds can be told from one.
_SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)


def check_arguments(args: TrainingArguments, accelerated: AcceleratorState) -> None:
    """Raise `QuantizationError` for what the Trainer or accelerate is told and quantizers, loss or silence cannot go with."""
    if accelerated.distributed_type in _SHARDED:
        raise QuantizationError(
            f"accelerate is set to {accelerated.distributed_type.value}, which gives each process a piece of the weights, and "
            "quantizers are found for whole ones: start with `accelerate launch --multi_gpu`, without its config file's "
            "entries for it"
        )
    if args.label_smoothing_factor > 0:
        raise QuantizationError(
            f"label_smoothing_factor is {args.label_smoothing_factor}: the Trainer would take the labels away from the loss "
            "that trains here; leave it out, and smooth by LossWeights(kl=..., temperature=...)"
        )
    if args.torch_compile:
        raise QuantizationError(
            "torch_compile is true: the loss and the folded silence are hooks, which a compiled graph may leave out or keep from "
            "another batch; leave it out"
        )


def check_optimizer(model: WhisperForConditionalGeneration, optimizer: Any) -> None:
    """Raise `QuantizationError` for an optimizer that does not know the learned scales, because it was made before them."""
    if optimizer is None:
        return
    known = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    for name, parameter in model.named_parameters():
        if name.endswith(".scale_offset") and parameter.requires_grad and id(parameter) not in known:
            raise QuantizationError(
                f"the optimizer does not have {name}: it was made before the trainer, which puts learned scales into the model. "
                "Let the trainer make it (`optim`, `optimizer_cls_and_kwargs`), or quantize with learned_scales=False"
            )
