"""Quantizer state on disk, beside a vanilla checkpoint.

* `quantizer.json`: target, group size, skipped globs, and each layer's scheme;
* `quantizer.safetensors`: for each layer `NAME.scale` and, where the scheme has one, `NAME.zero_point` (what ships);
  `NAME.initial_scale` and `NAME.scale_offset` (what training resumes from). Tied layers are stored once.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from qat_plugin.errors import QuantizationError
from qat_plugin.fake_quant.insertion import fake_quant_layers, prepare
from qat_plugin.fake_quant.layers import FakeQuantLayer, WeightQuantizer
from qat_plugin.fake_quant.schemes import get_target

QUANTIZER_CONFIG = "quantizer.json"
QUANTIZER_WEIGHTS = "quantizer.safetensors"


@dataclass(frozen=True)
class QuantizerConfig:
    """What `prepare` was told: enough to prepare another model the same way."""

    target: str
    group_size: int
    skip_modules: tuple[str, ...] = ()
    learned_scales: bool = True

    def prepare(self, model: nn.Module, *, activations: bool = True, **options: Any) -> list[str]:
        """`insertion.prepare` with this configuration; `options` go to it."""
        target = get_target(self.target, self.group_size)
        options.setdefault("learned_scales", self.learned_scales)
        return prepare(model, target, skip_modules=self.skip_modules, activations=activations, **options)


def _owners(model: nn.Module) -> dict[str, FakeQuantLayer]:
    """The first layer of each quantizer, by name: tied layers count once."""
    owners: dict[str, FakeQuantLayer] = {}
    seen: set[int] = set()
    for name, layer in fake_quant_layers(model):
        if id(layer.weight_quantizer) not in seen:
            seen.add(id(layer.weight_quantizer))
            owners[name] = layer
    if not owners:
        raise QuantizationError("the model is not fake-quantized: call `prepare` first")
    return owners


def save_quantizer_state(model: nn.Module, config: QuantizerConfig, folder: str | Path) -> None:
    """Write `quantizer.json` and `quantizer.safetensors` to `folder`. Raises `QuantizationError` on a float model."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    layers: dict[str, Any] = {}
    with torch.no_grad():
        for name, layer in _owners(model).items():
            quantizer = layer.weight_quantizer
            tensors[f"{name}.scale"] = quantizer.scale.clone()
            tensors[f"{name}.initial_scale"] = quantizer.initial_scale
            if quantizer.scale_offset is not None:
                tensors[f"{name}.scale_offset"] = quantizer.scale_offset.detach()
            if quantizer.zero_point is not None:
                tensors[f"{name}.zero_point"] = quantizer.zero_point
            layers[name] = asdict(layer.layer_scheme)
    save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, folder / QUANTIZER_WEIGHTS)
    frozen = all(layer.weight_quantizer.frozen for layer in _owners(model).values())
    content = {"format_version": 1, **asdict(config), "scales_frozen": frozen, "layers": layers}
    (folder / QUANTIZER_CONFIG).write_text(json.dumps(content, indent=1) + "\n", encoding="utf8")


def read_quantizer_config(folder: str | Path) -> QuantizerConfig:
    """Read `quantizer.json`. Raises `QuantizationError` when it is missing."""
    content = _read(Path(folder))
    return QuantizerConfig(
        content["target"], content["group_size"], tuple(content["skip_modules"]), content["learned_scales"]
    )


def _read(folder: Path) -> dict[str, Any]:
    path = folder / QUANTIZER_CONFIG
    if not path.is_file():
        raise QuantizationError(
            f"{folder} has no {QUANTIZER_CONFIG}: it was not written by a QATTrainer or a QATCallback, or the run was "
            "stopped while saving; go back to an earlier checkpoint"
        )
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf8"))
    return content


def load_quantizer_state(model: nn.Module, folder: str | Path, *, training: bool) -> None:
    """Give a prepared model the quantizers saved in `folder`.

    `training=True` restores the initial scales and offsets, to go on training; False the scales in force, to run or
    export. Raises `QuantizationError` naming the first layer that the model and the file do not share.
    """
    folder = Path(folder)
    content = _read(folder)
    saved = set(content["layers"])
    owners = _owners(model)
    if saved != set(owners):
        odd = sorted(saved ^ set(owners))[0]
        where = "the file only" if odd in saved else "the model only"
        raise QuantizationError(
            f"{folder / QUANTIZER_CONFIG}: layer {odd!r} is quantized in {where}; use the target, group_size and "
            "skip_modules that the checkpoint was trained with"
        )
    tensors = load_file(folder / QUANTIZER_WEIGHTS)
    for name, layer in owners.items():
        _load(name, layer.weight_quantizer, tensors, training, folder)
        if content["scales_frozen"]:
            # What the optimizer made of the offsets since then does not count.
            layer.weight_quantizer.scale_learning_multiplier = 0.0


def _load(name: str, quantizer: WeightQuantizer, tensors: dict[str, Tensor], training: bool, folder: Path) -> None:
    scale = tensors[f"{name}.initial_scale" if training else f"{name}.scale"]
    if scale.shape != quantizer.initial_scale.shape:
        raise QuantizationError(
            f"{folder / QUANTIZER_WEIGHTS}: the scale of {name} has shape {tuple(scale.shape)}, the model needs "
            f"{tuple(quantizer.initial_scale.shape)}; use the group_size that the checkpoint was trained with"
        )
    quantizer.set_scale(scale, tensors.get(f"{name}.zero_point"))
    if training and quantizer.scale_offset is not None:
        with torch.no_grad():
            quantizer.scale_offset.copy_(tensors[f"{name}.scale_offset"])
