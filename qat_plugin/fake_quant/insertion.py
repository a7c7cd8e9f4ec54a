"""prepare, calibrate, freeze, fold and convert a whole model.

`prepare` changes the class of layers in place; `fold` bakes the quantized weights; `convert` takes everything out again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from qat_plugin.errors import QuantizationError
from qat_plugin.fake_quant.layers import (
    FakeQuantConv1d,
    FakeQuantEmbedding,
    FakeQuantLayer,
    FakeQuantLinear,
    FakeQuantPositionalEmbedding,
    InputQuantizer,
    WeightQuantizer,
)
from qat_plugin.fake_quant.observers import WeightObserver, observe_inputs, observe_weight
from qat_plugin.fake_quant.schemes import LayerScheme, Target


def fake_quant_layers(model: nn.Module) -> Iterator[tuple[str, FakeQuantLayer]]:
    """Name and module of every fake-quantized layer, in the model's order; tied layers both."""
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, FakeQuantLayer):
            yield name, module


def prepare(
    model: nn.Module,
    target: Target,
    *,
    skip_modules: Sequence[str] = (),
    weight_observer: WeightObserver = "mse",
    learned_scales: bool = True,
    activations: bool = True,
    initialize: bool = True,
) -> list[str]:
    """Put the target's fake quantization into `model`, in place, and return the names of the layers that have it.

    Every `nn.Linear`, `nn.Conv1d` and `nn.Embedding` is covered (positions and convolutions by the target's `storage`
    scheme). Layers that share a weight share one quantizer, so tied weights stay tied. Call it before the optimizer is
    made: learned scales are parameters. `initialize=False` leaves the scales at 1, for a state that is loaded next.

    `skip_modules`: globs of module names that stay float; skipping one of two tied layers skips both.

    Raises `QuantizationError` when the model is prepared already, a glob matches nothing, a weight cannot be quantized,
    or nothing is left to quantize.
    """
    if next(fake_quant_layers(model), None) is not None:
        raise QuantizationError("the model is fake-quantized already: call `convert` before preparing it again")
    layers = _layers_to_quantize(model, skip_modules)
    if not layers:
        raise QuantizationError("no layer is left to quantize: the model has none, or `skip_modules` matches all")
    by_weight: dict[int, list[str]] = {}
    for name, module in layers.items():
        by_weight.setdefault(id(module.weight), []).append(name)
    quantizers: dict[int, WeightQuantizer] = {}
    for key, names in by_weight.items():
        scheme = _scheme(names[0], layers[names[0]], tied=len(names) > 1, target=target)
        weight = layers[names[0]].weight
        assert isinstance(weight, Tensor)
        try:
            scale, zero_point = _first_scale(weight, scheme, weight_observer if initialize else None)
        except QuantizationError as error:
            raise QuantizationError(f"{names[0]}: {error}") from None
        quantizers[key] = WeightQuantizer(scheme.weight, scale, zero_point, learned=learned_scales)
    for name, module in layers.items():
        scheme = _scheme(name, module, tied=len(by_weight[id(module.weight)]) > 1, target=target)
        _change_class(name, module, scheme, quantizers[id(module.weight)], activations)
    return list(layers)


def _first_scale(weight: Tensor, scheme: LayerScheme, observer: WeightObserver | None) -> tuple[Tensor, Tensor | None]:
    if observer is not None:
        return observe_weight(weight, scheme.weight, observer)
    shape = scheme.weight.scale_shape(weight.shape[0], weight[0].numel())
    points = None if scheme.weight.symmetric else torch.zeros(shape, dtype=torch.uint8, device=weight.device)
    return torch.ones(shape, device=weight.device), points


def _layers_to_quantize(model: nn.Module, skip_modules: Sequence[str]) -> dict[str, nn.Module]:
    layers = {
        name: module
        for name, module in model.named_modules(remove_duplicate=False)
        if type(module) in (nn.Linear, nn.Conv1d) or isinstance(module, nn.Embedding)
    }
    skipped: set[int] = set()
    for pattern in skip_modules:
        hits = [name for name in layers if fnmatchcase(name, pattern)]
        if not hits:
            known = ", ".join(list(layers)[:4])
            raise QuantizationError(
                f"skip_modules has {pattern!r}, which matches no layer of the model: names look like {known}, ..."
            )
        skipped |= {id(layers[name].weight) for name in hits}
    return {name: module for name, module in layers.items() if id(module.weight) not in skipped}


def _is_positional(module: nn.Module) -> bool:
    return type(module).__name__ == "WhisperPositionalEmbedding"


def _scheme(name: str, module: nn.Module, *, tied: bool, target: Target) -> LayerScheme:
    if isinstance(module, nn.Conv1d) or _is_positional(module):
        return target.storage
    if isinstance(module, nn.Embedding):
        # A table that is not also the output layer holds positions: it is small and only looked up.
        return target.embedding if tied else target.storage
    if tied:
        return target.embedding
    return target.clip_linear if _sees_clips(name) else target.token_linear


def _change_class(
    name: str, module: nn.Module, scheme: LayerScheme, quantizer: WeightQuantizer, activations: bool
) -> None:
    if isinstance(module, nn.Embedding) and type(module) is not nn.Embedding and not _is_positional(module):
        raise QuantizationError(
            f"{name} is a {type(module).__name__}, an embedding of unknown arithmetic: list it in `skip_modules`"
        )
    float_class = type(module)
    input_quantizer = None
    if isinstance(module, nn.Linear) and activations and scheme.activation is not None:
        input_quantizer = InputQuantizer(scheme.activation, scheme.weight.group_size, 1 if _sees_clips(name) else 2)
    if isinstance(module, nn.Linear):
        module.__class__ = FakeQuantLinear
    elif isinstance(module, nn.Conv1d):
        module.__class__ = FakeQuantConv1d
    else:
        module.__class__ = FakeQuantPositionalEmbedding if _is_positional(module) else FakeQuantEmbedding
    assert isinstance(module, FakeQuantLayer)
    module.weight_quantizer, module.input_quantizer = quantizer, input_quantizer
    module.layer_scheme, module.float_class = scheme, float_class
    module.train(module.training)


def _sees_clips(name: str) -> bool:
    """Whether a layer's input are the states of a whole clip: the encoder, and what reads its output."""
    parts = name.split(".")
    return "encoder" in parts or ("encoder_attn" in parts and parts[-1] in ("k_proj", "v_proj"))


def calibrate(model: nn.Module, run: Callable[[], None], weight_observer: WeightObserver = "mse") -> None:
    """Find the first scales again, weighting each input channel by the activations that pass while `run` runs.

    `run` makes forward passes of the model; fake quantization is off meanwhile, so the activations are the float
    model's. Embeddings and convolutions keep the scales that their weights gave.
    """
    layers: dict[str, nn.Module] = {
        name: layer for name, layer in fake_quant_layers(model) if isinstance(layer, FakeQuantLinear)
    }
    enabled = is_fake_quant_enabled(model)
    set_fake_quant(model, False)
    try:
        with torch.no_grad(), observe_inputs(layers) as observers:
            run()
    finally:
        set_fake_quant(model, enabled)
    for name, layer in layers.items():
        assert isinstance(layer, FakeQuantLinear)
        try:
            found = observe_weight(
                layer.weight, layer.layer_scheme.weight, weight_observer, observers[name].mean_square
            )
        except QuantizationError as error:
            raise QuantizationError(f"{name}: {error}") from None
        layer.weight_quantizer.set_scale(*found)


def _quantizers(model: nn.Module) -> list[WeightQuantizer]:
    return [module for module in model.modules() if isinstance(module, WeightQuantizer)]


def set_fake_quant(model: nn.Module, enabled: bool) -> None:
    """Turn the fake quantization of weights and inputs on or off."""
    for module in model.modules():
        if isinstance(module, (WeightQuantizer, InputQuantizer)):
            module.enabled = enabled


def is_fake_quant_enabled(model: nn.Module) -> bool:
    """Whether the model's weights are fake-quantized at present."""
    return any(quantizer.enabled for quantizer in _quantizers(model))


def set_activation_fake_quant(model: nn.Module, enabled: bool) -> None:
    """Turn the fake quantization of inputs alone on or off: off is the weight-only arithmetic."""
    for module in model.modules():
        if isinstance(module, InputQuantizer):
            module.enabled = enabled


def set_scale_learning_multiplier(model: nn.Module, multiplier: float) -> None:
    """Learning rate of the scales over the optimizer's. Frozen scales stay frozen."""
    for quantizer in _quantizers(model):
        if not quantizer.frozen:
            quantizer.scale_learning_multiplier = multiplier


def freeze_scales(model: nn.Module) -> None:
    """Let all scales stand still from now on; again is nothing."""
    for quantizer in _quantizers(model):
        if not quantizer.frozen:
            quantizer.freeze()


def fold(model: nn.Module) -> None:
    """Replace every weight by its quantized value, in place.

    The fake quantization stays in: `round(weight / scale)` of a folded weight gives the same integers again.
    """
    done: set[int] = set()
    with torch.no_grad():
        for _, layer in fake_quant_layers(model):
            weight = layer.weight
            assert isinstance(weight, Tensor)
            if id(weight) not in done:
                done.add(id(weight))
                weight.copy_(layer.weight_quantizer(weight))


def convert(model: nn.Module) -> None:
    """Fold, then take the fake quantization out: a vanilla model with the quantized weights."""
    fold(model)
    for _, layer in list(fake_quant_layers(model)):
        layer.__class__ = layer.float_class  # type: ignore[assignment]
        for name in ("weight_quantizer", "input_quantizer"):
            delattr(layer, name)
        del layer.layer_scheme, layer.float_class
