"""The target's format without training: what QAT has to beat."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import WhisperForConditionalGeneration

from qat_plugin.fake_quant import QuantizerConfig
from qat_plugin.fake_quant.observers import WeightObserver
from qat_plugin.training.callback import QATCallback


def quantize_without_training(
    model: WhisperForConditionalGeneration,
    quantizer: QuantizerConfig,
    folder: str | Path,
    *,
    weight_observer: WeightObserver = "mse",
    calibration_batches: Iterable[dict[str, Any]] | None = None,
) -> None:
    """Calibrate and round `model` (in place) and write the checkpoint to `folder`, ready to export."""
    qat = QATCallback(quantizer, weight_observer=weight_observer, calibration_batches=calibration_batches)
    qat.prepare(model)
    qat.calibrate(model, torch.device("cpu"))
    qat.finish(model, folder)
