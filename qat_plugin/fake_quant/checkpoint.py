"""A checkpoint as the export reads it: float tensors, and the integers and scales that were trained."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor

from qat_plugin.errors import ModelError
from qat_plugin.fake_quant.functional import quantize
from qat_plugin.fake_quant.schemes import ActivationScheme, LayerScheme, WeightScheme
from qat_plugin.fake_quant.state import QUANTIZER_CONFIG, QUANTIZER_WEIGHTS


@dataclass(frozen=True)
class QuantizedWeight:
    """One weight as it ships.

    `integers`: `(out, in)`, int8 (symmetric) or uint8 (with zero points); convolutions as `(out, in * kernel)`.
    `scale`: float32 `(out, 1)` or `(out, groups)`; `zero_point`: uint8 of the same shape, or None.
    """

    integers: NDArray[Any]
    scale: NDArray[np.float32]
    zero_point: NDArray[np.uint8] | None
    scheme: LayerScheme

    def dequantize(self) -> NDArray[np.float32]:
        """`(integers - zero_point) * scale`, shape `(out, in)`, float32."""
        out, groups = self.scale.shape
        values = self.integers.astype(np.float32).reshape(out, groups, -1)
        if self.zero_point is not None:
            values -= self.zero_point.astype(np.float32)[..., None]
        values *= self.scale[..., None]
        return values.reshape(out, -1)


@dataclass(frozen=True)
class QuantizedCheckpoint:
    """All tensors of a Whisper checkpoint by vanilla names.

    `tensors`: float32, tensor name → array, without the tied `proj_out.weight`. `quantized`: module name → weight; such a
    module's float weight is not in `tensors`. `target` is None for a float checkpoint.
    """

    folder: Path
    config: dict[str, Any]
    tensors: dict[str, NDArray[np.float32]]
    quantized: dict[str, QuantizedWeight]
    target: str | None
    skip_modules: tuple[str, ...] = ()


def read_checkpoint(folder: str | Path) -> QuantizedCheckpoint:
    """Read a vanilla checkpoint and, where `quantizer.json` lies beside it, its integers and scales.

    Raises `ModelError` when the folder is no saved Whisper.
    """
    folder = Path(folder)
    config = _read_config(folder)
    weights = _read_tensors(folder)
    if config.get("tie_word_embeddings", True):
        weights.pop("proj_out.weight", None)
    quantized: dict[str, QuantizedWeight] = {}
    target, skip_modules = None, ()
    if (folder / QUANTIZER_CONFIG).is_file():
        content = json.loads((folder / QUANTIZER_CONFIG).read_text(encoding="utf8"))
        target, skip_modules = content["target"], tuple(content["skip_modules"])
        with safe_open(folder / QUANTIZER_WEIGHTS, framework="pt") as file:
            names = set(file.keys())
            for module, scheme in content["layers"].items():
                point = f"{module}.zero_point"
                quantized[module] = _quantize(
                    weights.pop(f"{module}.weight"),
                    file.get_tensor(f"{module}.scale"),
                    file.get_tensor(point) if point in names else None,
                    _layer_scheme(scheme),
                )
    tensors = {name: tensor.float().numpy() for name, tensor in weights.items()}
    return QuantizedCheckpoint(folder, config, tensors, quantized, target, skip_modules)


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(f"{folder} has no config.json: give the folder of a saved Whisper checkpoint")
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf8"))
    if config.get("model_type") != "whisper":
        raise ModelError(f"{path}: model_type is {config.get('model_type')!r}: only 'whisper' models are supported")
    return config


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    index = folder / "model.safetensors.index.json"
    single = folder / "model.safetensors"
    if index.is_file():
        files = sorted(set(json.loads(index.read_text(encoding="utf8"))["weight_map"].values()))
    elif single.is_file():
        files = [single.name]
    else:
        raise ModelError(f"{folder} has no model.safetensors: save the model with `save_pretrained`")
    tensors: dict[str, Tensor] = {}
    for name in files:
        with safe_open(folder / name, framework="pt") as file:
            tensors.update({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118 - a safe_open is no dict
    return tensors


def _layer_scheme(content: dict[str, Any]) -> LayerScheme:
    activation = content["activation"]
    return LayerScheme(
        WeightScheme(**content["weight"]),
        None if activation is None else ActivationScheme(**activation),
        content["operator"],
    )


def _quantize(weight: Tensor, scale: Tensor, zero_point: Tensor | None, scheme: LayerScheme) -> QuantizedWeight:
    integers: Tensor = quantize(weight, scale, zero_point, scheme.weight)
    point = None if zero_point is None else zero_point.numpy()
    return QuantizedWeight(integers.numpy(), scale.numpy(), point, scheme)
