"""Quantizer state on disk, beside a vanilla checkpoint.

* `quantizer.json`: what `prepare` was told, and each layer's scheme; parts of a table are called NAME[:N], NAME[N:M] and so on;
  of a training also `started_from`, the digest of the weights that it began with;
* `quantizer.safetensors`: for each layer `NAME.scale` and, where it has them, `NAME.zero_point`, `NAME.multiplier` and
  `NAME.equalization` (what ships); `NAME.initial_scale` and `NAME.scale_offset` (what training resumes from). Tied layers are stored once.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from qat_plugin.errors import ModelError, QuantizationError
from qat_plugin.fake_quant.insertion import fake_quant_layers, prepare, unfreeze_scales
from qat_plugin.fake_quant.layers import WeightQuantizer
from qat_plugin.fake_quant.observers import WeightScale
from qat_plugin.fake_quant.schemes import LayerScheme, get_target

QUANTIZER_CONFIG = "quantizer.json"
QUANTIZER_WEIGHTS = "quantizer.safetensors"
# Goes up when what was trained before runs as another arithmetic. 2: convolutions are integer products.
_FORMAT_VERSION = 2


@dataclass(frozen=True)
class QuantizerConfig:
    """What `prepare` was told: enough to prepare another model the same way."""

    target: str
    group_size: int
    skip_modules: tuple[str, ...] = ()
    learned_scales: bool = True
    int8_modules: tuple[str, ...] = ()
    hot_tokens: int = 0

    def prepare(self, model: nn.Module, *, activations: bool = True, **options: Any) -> list[str]:
        """`insertion.prepare` with this configuration; `options` go to it."""
        target = get_target(self.target, self.group_size)
        options.setdefault("learned_scales", self.learned_scales)
        return prepare(
            model,
            target,
            skip_modules=self.skip_modules,
            int8_modules=self.int8_modules,
            hot_tokens=self.hot_tokens,
            activations=activations,
            **options,
        )


def _parts(model: nn.Module) -> dict[str, tuple[WeightQuantizer, LayerScheme]]:
    """Every quantizer with its scheme, by the name of its layer; tied layers count once, by the first one's name."""
    parts: dict[str, tuple[WeightQuantizer, LayerScheme]] = {}
    seen: set[int] = set()
    for name, layer in fake_quant_layers(model):
        if id(layer.weight_quantizer) not in seen:
            seen.add(id(layer.weight_quantizer))
            parts.update({f"{name}{suffix}": (quantizer, scheme) for suffix, _, quantizer, scheme in layer.parts()})
    if not parts:
        raise QuantizationError("the model is not fake-quantized: call `prepare` first")
    return parts


def weights_digest(model: nn.Module) -> str:
    """SHA-256 of the names, types and bytes of a model's own weights, quantizers left out; tied ones count once."""
    digest, seen = hashlib.sha256(), set[int]()
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def save_quantizer_state(
    model: nn.Module, config: QuantizerConfig, folder: str | Path, *, started_from: str | None = None
) -> None:
    """Write `quantizer.json` and `quantizer.safetensors` to `folder`. Raises `QuantizationError` on a float model."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    layers: dict[str, Any] = {}
    parts = _parts(model)
    with torch.no_grad():
        for name, (quantizer, scheme) in parts.items():
            tensors[f"{name}.scale"] = quantizer.scale.clone()
            tensors[f"{name}.initial_scale"] = quantizer.initial_scale
            if quantizer.scale_offset is not None:
                tensors[f"{name}.scale_offset"] = quantizer.scale_offset.detach()
            for kind in ("zero_point", "multiplier", "equalization"):
                tensor = getattr(quantizer, kind)
                if tensor is not None:
                    tensors[f"{name}.{kind}"] = tensor
            layers[name] = asdict(scheme)
    save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, folder / QUANTIZER_WEIGHTS)
    frozen = all(quantizer.frozen for quantizer, _ in parts.values())
    start = {} if started_from is None else {"started_from": started_from}
    learned = [quantizer for quantizer, _ in parts.values() if quantizer.scale_offset is not None]
    ratios = {quantizer.scale_learning_ratio for quantizer in learned if not quantizer.frozen}
    content = {
        **{"format_version": _FORMAT_VERSION, **asdict(config), **start, "scales_frozen": frozen},
        **({"scale_learning_ratio": ratios.pop()} if ratios else {}),
        "layers": layers,
    }
    (folder / QUANTIZER_CONFIG).write_text(json.dumps(content, indent=1) + "\n", encoding="utf8")


def read_quantizer_config(folder: str | Path) -> QuantizerConfig:
    """What `prepare` was told. Raises what `read_quantizer_json` does."""
    content = read_quantizer_json(folder)
    return QuantizerConfig(
        content["target"],
        content["group_size"],
        tuple(content["skip_modules"]),
        content["learned_scales"],
        tuple(content["int8_modules"]),
        content["hot_tokens"],
    )


def read_start(folder: str | Path) -> str | None:
    """Digest of the weights that a checkpoint's training began with; None where it does not say."""
    start: str | None = read_quantizer_json(folder).get("started_from")
    return start


def read_scale_learning_ratio(folder: str | Path) -> float | None:
    """What the learning rate of the scales was over the optimizer's; None where they stood still."""
    ratio: float | None = read_quantizer_json(folder).get("scale_learning_ratio")
    return ratio


def read_quantizer_json(folder: str | Path) -> dict[str, Any]:
    """`quantizer.json`. Raises `QuantizationError` when it is missing, or was written for another arithmetic."""
    path = Path(folder) / QUANTIZER_CONFIG
    if not path.is_file():
        raise QuantizationError(
            f"{folder} has no {QUANTIZER_CONFIG}: it was not written by a QATTrainer or a QATCallback, or the run was "
            "stopped while saving; go back to an earlier checkpoint"
        )
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf8"))
    version = content.get("format_version")
    if version != _FORMAT_VERSION:
        raise QuantizationError(
            f"{path}: format_version is {version}, this qat_plugin has {_FORMAT_VERSION}: what was trained for another arithmetic "
            "does not run as this one; train again in a new output_dir, or use the qat_plugin that wrote it"
        )
    return content


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a safetensors file. Raises `ModelError` when it is missing or not whole."""
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except FileNotFoundError as error:
        raise ModelError(f"{path} is missing: copy the whole folder again") from error
    except SafetensorError as error:
        raise ModelError(f"{path} is no whole safetensors file ({error}): copy or download it again") from error
    return tensors


def load_quantizer_state(model: nn.Module, folder: str | Path, *, training: bool) -> None:
    """Give a prepared model the quantizers saved in `folder`.

    `training=True` restores the initial scales and offsets, to go on training; False the scales in force, to run or
    export. Raises `QuantizationError` naming the first layer that the model and the file do not share.
    """
    folder = Path(folder)
    content = read_quantizer_json(folder)
    saved = set(content["layers"])
    parts = _parts(model)
    if saved != set(parts):
        odd = sorted(saved ^ set(parts))[0]
        where = "the file only" if odd in saved else "the model only"
        raise QuantizationError(
            f"{folder / QUANTIZER_CONFIG}: layer {odd!r} is quantized in {where}; use the target, skip_modules and hot_tokens "
            "that the checkpoint was trained with"
        )
    tensors = read_tensors(folder / QUANTIZER_WEIGHTS)
    unfreeze_scales(model)
    for name, (quantizer, _) in parts.items():
        _load(name, quantizer, tensors, training, folder)
        if content["scales_frozen"]:
            # What the optimizer made of the offsets since then does not count.
            quantizer.scale_learning_ratio = 0.0


def _load(name: str, quantizer: WeightQuantizer, tensors: dict[str, Tensor], training: bool, folder: Path) -> None:
    scale = tensors[f"{name}.initial_scale" if training else f"{name}.scale"]
    saved = WeightScale(scale, tensors.get(f"{name}.zero_point"), tensors.get(f"{name}.multiplier"))
    # Groups show in the shape of the steps; of two levels, the scale itself has one a channel whatever they are.
    if saved.steps.shape != quantizer.steps.shape:
        raise QuantizationError(
            f"{folder / QUANTIZER_WEIGHTS}: the scale of {name} has shape {tuple(saved.steps.shape)}, the model needs "
            f"{tuple(quantizer.steps.shape)}; use the group_size that the checkpoint was trained with"
        )
    quantizer.set_scale(saved)
    equalization = tensors.get(f"{name}.equalization")
    quantizer.equalization = None if equalization is None else equalization.to(quantizer.initial_scale.device)
    if training and quantizer.scale_offset is not None:
        with torch.no_grad():
            quantizer.scale_offset.copy_(tensors[f"{name}.scale_offset"])
