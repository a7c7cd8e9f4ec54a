"""The target's format without training: what QAT has to beat, and where it starts."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import WhisperForConditionalGeneration

from qat_plugin.arms import PTQMethod
from qat_plugin.encoder_context import EncoderContext
from qat_plugin.errors import QuantizationError
from qat_plugin.fake_quant import QuantizerConfig
from qat_plugin.fake_quant.observers import ScaleSearch, WeightScale, search_mse, two_level_scale
from qat_plugin.fake_quant.schemes import WeightScheme
from qat_plugin.training.callback import QATCallback


def quantize_without_training(
    model: WhisperForConditionalGeneration,
    quantizer: QuantizerConfig,
    folder: str | Path,
    *,
    method: PTQMethod = "mse",
    calibration_batches: Iterable[dict[str, Any]] | None = None,
    encoder_context: EncoderContext | None = None,
) -> None:
    """Quantize `model` (in place) and write the checkpoint to `folder`, ready to export.

    `method`: "rtn" rounds within each group's range; "kquant" and "hqq" are ONNX Runtime's own; "mse" minimises the error
    of the output, and "gptq" rounds to that end, too. "mse" and "gptq" use `calibration_batches` (as the collator makes them),
    and "gptq" needs them; where one scale serves an uneven input, "kquant" and "hqq" even it out by them.

    Raises `QuantizationError` when a method lacks what it needs.
    """
    qat = QATCallback(
        quantizer,
        weight_observer="minmax" if method == "rtn" else "mse",
        calibration_batches=None if method == "rtn" else calibration_batches,
        initial_rounding="gptq" if method == "gptq" else "nearest",
        encoder_context=encoder_context,
    )
    qat.prepare(model)
    searches: dict[str, ScaleSearch] = {"kquant": search_kquant, "hqq": search_hqq}
    qat.calibrate(model, torch.device("cpu"), searches.get(method, search_mse))
    qat.finish(model, folder)


def search_kquant(weight: Tensor, scheme: WeightScheme, importance: Tensor | None = None) -> WeightScale:
    """Scales and zero points by ONNX Runtime's k-quant, which weights alone decide."""
    if scheme.symmetric:
        return search_mse(weight, scheme)
    quant_tensor_k_quant_cpu = _from_onnxruntime("neural_compressor.weight_only").quant_tensor_k_quant_cpu
    assert scheme.group_size is not None
    _, scale, points = quant_tensor_k_quant_cpu(weight.numpy(), scheme.num_bits, scheme.group_size)
    return _from_groups(weight, scheme, torch.from_numpy(scale).float(), torch.from_numpy(points))


def search_hqq(weight: Tensor, scheme: WeightScheme, importance: Tensor | None = None) -> WeightScale:
    """Scales and zero points (rounded: the format has integers) by ONNX Runtime's HQQ, which weights alone decide."""
    if scheme.symmetric:
        return search_mse(weight, scheme)
    shipped = _from_onnxruntime("matmul_nbits_quantizer")
    config = shipped.HQQWeightOnlyQuantConfig(block_size=scheme.group_size, bits=scheme.num_bits)
    quantizer = shipped.HQQWeightOnlyQuantizer(config)
    _, scale, points = quantizer.quantize_internal(weight, scheme.num_bits, group_size=scheme.group_size)
    return _from_groups(weight, scheme, scale.float(), points.round().clamp(scheme.qmin, scheme.qmax))


def _from_onnxruntime(module: str) -> Any:
    try:
        return importlib.import_module(f"onnxruntime.quantization.{module}")
    except ModuleNotFoundError as error:
        raise QuantizationError(
            f"ONNX Runtime's own quantizers need the package {error.name!r}: pip install 'qat_plugin[rivals]'"
        ) from error


def _from_groups(weight: Tensor, scheme: WeightScheme, scale: Tensor, points: Tensor) -> WeightScale:
    shape = (weight.shape[0], -1)
    scale, points = scale.reshape(shape), points.reshape(shape)
    if scheme.max_product is not None:
        return two_level_scale(weight, scheme, scale, points)
    return WeightScale(scale, points.to(torch.uint8))
