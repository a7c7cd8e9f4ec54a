"""Which parts of a model quantization hurts: each part quantized alone, and all but its weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import WhisperForConditionalGeneration

from qat_plugin.encoder_context import EncoderContext, in_context
from qat_plugin.errors import QuantizationError
from qat_plugin.fake_quant import fake_quant_layers
from qat_plugin.fake_quant.layers import FakeQuantLayer
from qat_plugin.models import part_of
from qat_plugin.training.distillation import kl_divergence

ALL = "all"


@dataclass(frozen=True)
class Sensitivity:
    """What quantizing one part does to the model's next tokens.

    `kl`: mean over tokens of KL(float || quantized), nats, this part quantized alone. `won`: by how much the KL of the whole
    quantized model falls when this part's weights are float, about what 8 bits for them would win; of few clips, it can come out
    below zero. `weights`: how many weights the part has. `bits`: of most of them. `extra_megabytes`: what 8 bits for those of
    its weights that have fewer would add to the files.
    """

    part: str
    kl: float
    won: float
    weights: int
    bits: int
    extra_megabytes: float


def measure_sensitivity(
    quantized: WhisperForConditionalGeneration,
    teacher: WhisperForConditionalGeneration,
    batches: Iterable[dict[str, Any]],
    context: EncoderContext | None,
) -> list[Sensitivity]:
    """Quantize each part of the model alone, and all of it but the part's weights, on the same clips; "all" comes first.

    Args:
        quantized: fake-quantized and folded, as `load_fake_quant` gives it. Its weights are changed meanwhile.
        teacher: the float model that it was made from.
        batches: as the collator makes them, labels included.
        context: both models fold silence like this, so that only quantization tells them apart.

    Raises `QuantizationError` when there is no batch, or the model is not fake-quantized.
    """
    layers = dict(fake_quant_layers(quantized))
    batches = list(batches)
    if not layers or not batches:
        raise QuantizationError(
            "sensitivity needs a fake-quantized model and clips: set `calibration_samples` to 1 or more"
        )
    quantized.eval()
    teacher.eval()
    answers = [label_logits(teacher, batch, context) for batch in batches]
    names = sorted({part_of(name) for name in layers}, key=_order)

    def measure() -> float:
        kl = tokens = 0.0
        for batch, answer in zip(batches, answers, strict=True):
            kl += float(kl_divergence(label_logits(quantized, batch, context), answer, 1.0)) * len(answer)
            tokens += len(answer)
        return kl / tokens

    found: list[Sensitivity] = []
    for part in tqdm([ALL, *names], desc="quantizing part by part", unit="part"):
        chosen = {name: layer for name, layer in layers.items() if part in (ALL, part_of(name))}
        with _as_float({name: layer for name, layer in layers.items() if name not in chosen}, teacher):
            kl = measure()
        whole = found[0].kl if found else kl
        # Quantized alone, a part also loses what its inputs' 8 bits cost, which finer weights do not win back.
        with _as_float(chosen, teacher, inputs=False):
            won = whole - measure()
        by_weight = {id(layer.weight): layer for layer in chosen.values()}.values()
        counts = Counter[int]()
        for layer in by_weight:
            counts.update(_weights_by_bits(layer))
        extra = sum(count * max(0, 8 - bits) for bits, count in counts.items()) / 8 / 1e6
        found.append(Sensitivity(part, kl, won, counts.total(), counts.most_common(1)[0][0], extra))
    return found


def _weights_by_bits(layer: FakeQuantLayer) -> dict[int, int]:
    weight, counts = layer.weight, Counter[int]()
    assert isinstance(weight, Tensor)
    for _, rows, _, scheme in layer.parts():
        counts[scheme.weight.num_bits] += weight[rows].numel()
    return counts


def _order(part: str) -> tuple[bool, int, str]:
    digits = "".join(filter(str.isdigit, part))
    return part.startswith("decoder"), int(digits or -1), part


def label_logits(model: Any, batch: dict[str, Any], context: EncoderContext | None) -> Tensor:
    """Logits at the tokens of a batch's labels, `(tokens, vocabulary)`; `context`: how the model folds silence."""
    labels = batch["labels"]
    with torch.no_grad(), in_context(model, context, batch["input_features"]) as features:
        logits: Tensor = model(input_features=features, labels=labels).logits
    return logits[labels.ne(-100)]


@contextmanager
def _as_float(layers: dict[str, FakeQuantLayer], teacher: nn.Module, *, inputs: bool = True) -> Iterator[None]:
    """Inside, these layers have the teacher's weights and no fake quantization, of their inputs neither with `inputs`."""
    # By identity: a tied weight is kept once.
    kept: dict[int, tuple[Tensor, Tensor]] = {}
    with torch.no_grad():
        for name, layer in layers.items():
            weight, own = layer.weight, teacher.get_submodule(name).weight
            assert isinstance(weight, Tensor) and isinstance(own, Tensor)
            if id(weight) not in kept:
                kept[id(weight)] = weight, weight.clone()
                weight.copy_(own)
    for layer in layers.values():
        _enable(layer, False, inputs=inputs)
    try:
        yield
    finally:
        for layer in layers.values():
            _enable(layer, True, inputs=inputs)
        with torch.no_grad():
            for weight, before in kept.values():
                weight.copy_(before)


def _enable(layer: FakeQuantLayer, enabled: bool, *, inputs: bool) -> None:
    for _, _, quantizer, _ in layer.parts():
        quantizer.enabled = enabled
    if inputs and layer.input_quantizer is not None:
        layer.input_quantizer.enabled = enabled
