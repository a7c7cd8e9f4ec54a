"""A checkpoint as the export reads it: float tensors, and the integers and scales that were trained."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from qat_plugin.errors import ModelError
from qat_plugin.fake_quant.functional import quantize
from qat_plugin.fake_quant.observers import WeightScale
from qat_plugin.fake_quant.schemes import ActivationScheme, LayerScheme, WeightScheme
from qat_plugin.fake_quant.state import QUANTIZER_CONFIG, QUANTIZER_WEIGHTS, read_quantizer_json, read_tensors


@dataclass(frozen=True)
class QuantizedWeight:
    """One weight as it ships.

    `integers`: `(out, in)`, int8 (symmetric) or uint8 (with zero points); convolutions as `(out, in * kernel)`.
    `scale`: float32 `(out, 1)` or `(out, groups)`; `zero_point`: uint8 `(out, groups)`, or None; `multiplier`: uint8
    `(out, groups)` where the scheme has scales of two levels, or None. `equalization`: float32 `(in,)`, what the input's
    channels are divided by before they meet these integers, or None. `kernel`: a convolution's width, otherwise 1.
    """

    integers: NDArray[Any]
    scale: NDArray[np.float32]
    zero_point: NDArray[np.uint8] | None
    multiplier: NDArray[np.uint8] | None
    equalization: NDArray[np.float32] | None
    scheme: LayerScheme
    kernel: int = 1

    def columns(self) -> NDArray[Any]:
        """The integers as the right side of a product, `(kernel * in, out)`: a convolution's inputs frame by frame."""
        out = len(self.integers)
        columns: NDArray[Any] = self.integers.reshape(out, -1, self.kernel).T.reshape(-1, out)
        return columns

    def products(self) -> NDArray[np.int8]:
        """`(integers - zero_point) * multiplier`, shape `(out, in)`: what MatMulInteger multiplies."""
        values = self.integers.astype(np.int32)
        for operate, groups in ((np.subtract, self.zero_point), (np.multiply, self.multiplier)):
            if groups is not None:
                grouped = values.reshape(*groups.shape, -1)
                values = operate(grouped, groups.astype(np.int32)[..., None]).reshape(values.shape)
        return values.astype(np.int8)


@dataclass(frozen=True)
class QuantizedCheckpoint:
    """All tensors of a Whisper checkpoint by vanilla names.

    `tensors`: float32, tensor name → array, without the tied `proj_out.weight`. `quantized`: module name → weight; such a
    module's float weight is not in `tensors`. A table some of whose rows have a scheme of their own is several
    weights, called NAME[:N], NAME[N:M] and so on. `target` is None for a float checkpoint.
    """

    folder: Path
    config: dict[str, Any]
    tensors: dict[str, NDArray[np.float32]]
    quantized: dict[str, QuantizedWeight]
    target: str | None
    skip_modules: tuple[str, ...] = ()

    def parts(self, module: str) -> list[tuple[str, QuantizedWeight]]:
        """The quantized weights that make up a module's, in the order of their rows, by name; none where it is float."""
        found = [(name, weight) for name, weight in self.quantized.items() if split_part(name)[0] == module]
        return sorted(found, key=lambda part: split_part(part[0])[1].start or 0)


def split_part(name: str) -> tuple[str, slice]:
    """Module and rows that NAME, NAME[:N], NAME[N:M] or NAME[M:] stands for."""
    module, bracket, rows = name.partition("[")
    if not bracket:
        return module, slice(None)
    start, stop = (int(bound) if bound else None for bound in rows.rstrip("]").split(":"))
    return module, slice(start, stop)


def read_checkpoint(folder: str | Path) -> QuantizedCheckpoint:
    """Read a vanilla checkpoint and, where `quantizer.json` lies beside it, its integers and scales.

    Raises `ModelError` when the folder is no saved Whisper, or a file of it is missing or not whole; `QuantizationError` when
    it was trained for another arithmetic.
    """
    folder = Path(folder)
    config = _read_config(folder)
    weights = _read_tensors(folder)
    if config.get("tie_word_embeddings", True):
        weights.pop("proj_out.weight", None)
    quantized: dict[str, QuantizedWeight] = {}
    target, skip_modules = None, ()
    if (folder / QUANTIZER_CONFIG).is_file():
        content = read_quantizer_json(folder)
        target, skip_modules = content["target"], tuple(content["skip_modules"])
        quantizers = read_tensors(folder / QUANTIZER_WEIGHTS)
        for part, scheme in content["layers"].items():
            kinds = ("scale", "zero_point", "multiplier", "equalization")
            found = {kind: quantizers.get(f"{part}.{kind}") for kind in kinds}
            module, rows = split_part(part)
            quantized[part] = _quantize(weights[f"{module}.weight"][rows], found, _layer_scheme(scheme))
        for part in content["layers"]:
            weights.pop(f"{split_part(part)[0]}.weight", None)
        # A tensor that is left keeps the whole file in memory, of which it is a view.
        weights = {name: tensor.clone() for name, tensor in weights.items()}
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
        tensors.update(read_tensors(folder / name))
    return tensors


def _layer_scheme(content: dict[str, Any]) -> LayerScheme:
    activation = content["activation"]
    return LayerScheme(
        WeightScheme(**content["weight"]),
        None if activation is None else ActivationScheme(**activation),
        content["operator"],
    )


def _quantize(weight: Tensor, parts: dict[str, Tensor | None], scheme: LayerScheme) -> QuantizedWeight:
    equalization = parts["equalization"]
    scale = parts["scale"]
    assert scale is not None
    if equalization is not None:
        weight = weight * equalization
    steps = WeightScale(scale, parts["zero_point"], parts["multiplier"]).steps
    integers: Tensor = quantize(weight, steps, parts["zero_point"], scheme.weight)
    arrays = {kind: None if tensor is None else tensor.numpy() for kind, tensor in parts.items()}
    kernel = weight.shape[2] if weight.dim() == 3 else 1
    return QuantizedWeight(integers.numpy(), scheme=scheme, kernel=kernel, **arrays)  # type: ignore[arg-type]
