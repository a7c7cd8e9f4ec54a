"""The systems that an evaluation compares, in the order of every table.

Float arms are what quantization starts from. `fp` computes Whisper's whole window whatever the recipe says, as everybody
else does; all others follow the recipe's `encoder_context`. The ptq arms put them into the target's format without training;
they differ in how they find scales and integers. ptq-dynamic and ptq-static are ONNX Runtime's own 8 bits. `fp-ft` is trained
on the same data for as many steps as `qat`, without fake quantization: what it gains over `fp` is fine-tuning, not
quantization.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PTQMethod = Literal["rtn", "kquant", "hqq", "mse", "gptq"]
ORTMethod = Literal["dynamic", "static"]


@dataclass(frozen=True)
class Arm:
    """One system.

    Attributes:
        name: what tables, folders and `--arms` call it.
        description: for readers of reports and cards.
        method: how it was put into the target's format without training; None: it was not.
        onnxruntime: ONNX Runtime's quantizer that made 8 bits of the float model in its own way, whatever the target.
        reduce_range: that quantizer's weights have 7 bits.
        fine_tuned: whether it derives from the fine-tuned float model.
    """

    name: str
    description: str
    method: PTQMethod | None = None
    fine_tuned: bool = False
    onnxruntime: ORTMethod | None = None
    reduce_range: bool = False

    @property
    def needs_speech(self) -> bool:
        """Whether it cannot be made without clips to calibrate on."""
        return self.method == "gptq" or self.onnxruntime == "static"


FLOAT, FLOAT_FOLDED, FINE_TUNED, TRAINED = "fp", "fp-auto", "fp-ft", "qat"
# What training starts from, where the recipe does not say otherwise.
PTQ_START = "ptq-gptq"

ARMS: dict[str, Arm] = {
    arm.name: arm
    for arm in (
        Arm(FLOAT, "float"),
        Arm(FLOAT_FOLDED, "float, silence folded (encoder_context: auto)"),
        Arm(FINE_TUNED, "float, trained like qat but without fake quantization", fine_tuned=True),
        Arm("ptq-dynamic", "ONNX Runtime's quantize_dynamic, as most 8-bit models on the Hub", onnxruntime="dynamic"),
        Arm(
            "ptq-dynamic-7bit",
            "ONNX Runtime's quantize_dynamic, weights of 7 bits (reduce_range)",
            onnxruntime="dynamic",
            reduce_range=True,
        ),
        Arm("ptq-static", "ONNX Runtime's quantize_static, calibrated; the decoder dynamic", onnxruntime="static"),
        Arm(
            "ptq-static-7bit",
            "ONNX Runtime's quantize_static, calibrated, weights of 7 bits (reduce_range); the decoder dynamic",
            onnxruntime="static",
            reduce_range=True,
        ),
        Arm("ptq-rtn", "quantized without training: plain rounding", "rtn"),
        Arm("ptq-kquant", "quantized without training: k-quant, as ONNX Runtime ships it", "kquant"),
        Arm("ptq-hqq", "quantized without training: half-quadratic (HQQ), as ONNX Runtime ships it", "hqq"),
        Arm("ptq-mse", "quantized without training: error-minimising scales, calibrated", "mse"),
        Arm(PTQ_START, "quantized without training: GPTQ from error-minimising scales, calibrated", "gptq"),
        Arm("ptq-ft", "float, trained like qat, then quantized by GPTQ without training", "gptq", fine_tuned=True),
        Arm(TRAINED, "quantization-aware training"),
    )
}


def arm_order(name: str) -> int:
    """Place of an arm in tables; unknown ones come last."""
    names = list(ARMS)
    return names.index(name) if name in names else len(names)


def needs_fine_tuning(arms: list[str]) -> bool:
    """Whether any of these arms derives from the fine-tuned float model."""
    return any(ARMS[arm].fine_tuned for arm in arms)
