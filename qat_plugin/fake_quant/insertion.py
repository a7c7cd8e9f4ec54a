"""prepare, calibrate, freeze, fold and convert a whole model.

`prepare` changes the class of layers in place; `fold` bakes the quantized weights; `convert` takes everything out again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from qat_plugin.errors import QuantizationError
from qat_plugin.fake_quant.equalization import find_equalization
from qat_plugin.fake_quant.gptq import gptq
from qat_plugin.fake_quant.layers import (
    FakeQuantConv1d,
    FakeQuantEmbedding,
    FakeQuantLayer,
    FakeQuantLinear,
    FakeQuantPositionalEmbedding,
    InputQuantizer,
    RowSplitQuantizer,
    Switched,
    WeightQuantizer,
)
from qat_plugin.fake_quant.observers import (
    InputObserver,
    ScaleSearch,
    WeightObserver,
    WeightScale,
    observe_inputs,
    observe_weight,
    search_mse,
)
from qat_plugin.fake_quant.positions import ENCODER_POSITIONS, sharpen_positions
from qat_plugin.fake_quant.requirements import check_full_precision, check_no_adapters
from qat_plugin.fake_quant.schemes import BYTES, LayerScheme, Target, WeightScheme, get_target

# The Linear whose input no LayerNorm has made even.
_BEHIND_GELU = ".fc2"

# Whisper's tokens for times, 0.00 to 30.00 s in steps of 0.02, are the last of every vocabulary.
_TIMES = 1501

# Of a step, from an integer: as far as a weight may be off and surely round to it.
_WITHIN_STEP = 0.45


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
    int8_modules: Sequence[str] = (),
    hot_tokens: int = 0,
    weight_observer: WeightObserver = "mse",
    learned_scales: bool = True,
    activations: bool = True,
    initialize: bool = True,
) -> list[str]:
    """Put the target's fake quantization into `model`, in place, and return the names of the layers that have it.

    Every `nn.Linear`, `nn.Conv1d` and `nn.Embedding` is covered (positions by the target's `storage` scheme). Layers that share
    a weight share one quantizer, so tied weights stay tied. Call it before the optimizer is made: learned scales are
    parameters. `initialize=False` leaves the scales at 1, for a state that is loaded next.
    An encoder's positions that are Whisper's sinusoids get their exact values, which need no storage.

    `skip_modules`: globs of module names that stay float; skipping one of two tied layers skips both. `int8_modules`: globs
    of what gets the int8 target's scheme instead. `hot_tokens`: so many first rows of the tied token embedding get 8 bits, and those of
    Whisper's special tokens with them.

    Raises `QuantizationError` when the model is prepared already, has weights in half precision or adapters that are not
    merged, a glob matches nothing, a weight cannot be quantized, or nothing is left to quantize.
    """
    if next(fake_quant_layers(model), None) is not None:
        raise QuantizationError("the model is fake-quantized already: call `convert` before preparing it again")
    check_no_adapters(model)
    check_full_precision(model)
    layers = _layers_to_quantize(model, skip_modules)
    finer = _matching(layers, int8_modules, "int8_modules")
    if not layers:
        raise QuantizationError("no layer is left to quantize: the model has none, or `skip_modules` matches all")
    by_weight: dict[int, list[str]] = {}
    for name, module in layers.items():
        by_weight.setdefault(id(module.weight), []).append(name)
    for names in by_weight.values():
        tied = len(names) > 1
        kind = get_target("int8") if finer.intersection(names) else target
        scheme = _scheme(names[0], layers[names[0]], tied=tied, target=kind)
        weight = layers[names[0]].weight
        assert isinstance(weight, Tensor)
        # The scale of a frozen weight stands still, too.
        learned = learned_scales and weight.requires_grad
        options: dict[str, Any] = {"observer": weight_observer if initialize else None, "learned": learned}
        try:
            hot_rows = _hot_rows(model, len(weight), hot_tokens) if tied else []
            quantizer = _make_quantizer(weight, scheme.weight, hot_rows, **options)
        except QuantizationError as error:
            raise QuantizationError(f"{names[0]}: {error}") from None
        for name in names:
            own = _scheme(name, layers[name], tied=tied, target=kind)
            _change_class(name, layers[name], own, quantizer, activations)
    return list(layers)


def _make_quantizer(
    weight: Tensor, scheme: WeightScheme, hot_rows: Sequence[slice], *, observer: WeightObserver | None, learned: bool
) -> WeightQuantizer | RowSplitQuantizer:
    if not hot_rows or scheme.num_bits == 8:
        return WeightQuantizer(scheme, _first_scale(weight, scheme, observer), learned=learned)
    # In groups of the same size, so that one rounding of the input serves all.
    fine = WeightScheme(*BYTES, symmetric=True, group_size=scheme.group_size, half_scale=scheme.half_scale)
    schemes, end = {}, 0
    for rows in hot_rows:
        if rows.start > end:
            schemes[end] = scheme
        schemes[rows.start], end = fine, rows.stop
    if end < len(weight):
        schemes[end] = scheme
    parts = [
        WeightQuantizer(own, _first_scale(weight[start:stop], own, observer), learned=learned)
        for (start, own), stop in zip(schemes.items(), [*list(schemes)[1:], None], strict=True)
    ]
    return RowSplitQuantizer(parts, list(schemes))


def _hot_rows(model: nn.Module, rows: int, hot_tokens: int) -> list[slice]:
    """Rows of the token embedding that are read most: the first `hot_tokens`, and Whisper's special tokens.

    Byte-pair encoding numbers tokens by frequency; behind them come end, start, languages and tasks, which every
    transcript has, and times.
    """
    if hot_tokens == 0:
        return []
    if hot_tokens >= rows:
        raise QuantizationError(f"hot_tokens is {hot_tokens}, and the table has {rows} rows: set it lower")
    special = getattr(getattr(model, "config", None), "eos_token_id", None)
    stop = rows - _TIMES
    if special is None or special >= stop:
        return [slice(0, hot_tokens)]
    if special <= hot_tokens:
        return [slice(0, max(hot_tokens, stop))]
    return [slice(0, hot_tokens), slice(special, stop)]


def _first_scale(weight: Tensor, scheme: WeightScheme, observer: WeightObserver | None) -> WeightScale:
    if observer is not None:
        return observe_weight(weight, scheme, observer)
    shape = scheme.scale_shape(weight.shape[0], weight[0].numel())
    ones = torch.ones(shape, device=weight.device)
    points = None if scheme.symmetric else torch.zeros_like(ones, dtype=torch.uint8)
    if scheme.max_product is None:
        return WeightScale(ones, points)
    return WeightScale(ones[:, :1].clone(), points, torch.ones_like(ones, dtype=torch.uint8))


def _matching(layers: dict[str, nn.Module], patterns: Sequence[str], field: str) -> set[str]:
    """Names that any of the globs matches. Raises `QuantizationError` for a glob without a match."""
    found: set[str] = set()
    for pattern in patterns:
        hits = [name for name in layers if fnmatchcase(name, pattern)]
        if not hits:
            known = ", ".join(list(layers)[:4])
            raise QuantizationError(
                f"{field} has {pattern!r}, which matches no layer of the model: names look like {known}, ..."
            )
        found.update(hits)
    return found


def _layers_to_quantize(model: nn.Module, skip_modules: Sequence[str]) -> dict[str, nn.Module]:
    layers = {
        name: module
        for name, module in model.named_modules(remove_duplicate=False)
        if type(module) in (nn.Linear, nn.Conv1d) or isinstance(module, nn.Embedding)
    }
    skipped = {id(layers[name].weight) for name in _matching(layers, skip_modules, "skip_modules")}
    layers = {name: module for name, module in layers.items() if id(module.weight) not in skipped}
    for name in [name for name in layers if name.endswith(ENCODER_POSITIONS)]:
        if sharpen_positions(layers[name].weight):
            del layers[name]
    return layers


def _is_positional(module: nn.Module) -> bool:
    return type(module).__name__ == "WhisperPositionalEmbedding"


def _scheme(name: str, module: nn.Module, *, tied: bool, target: Target) -> LayerScheme:
    kind = _kind(name, module, tied=tied, target=target)
    weight = module.weight
    assert isinstance(weight, Tensor)
    return replace(kind, weight=kind.weight.fitted(weight[0].numel()))


def _kind(name: str, module: nn.Module, *, tied: bool, target: Target) -> LayerScheme:
    if isinstance(module, nn.Conv1d):
        return target.convolution
    if _is_positional(module):
        return target.storage
    if isinstance(module, nn.Embedding):
        # A table that is not also the output layer holds positions: it is small and only looked up.
        return target.embedding if tied else target.storage
    if tied:
        return target.embedding
    return target.clip_linear if _sees_clips(name) else target.token_linear


def _change_class(
    name: str,
    module: nn.Module,
    scheme: LayerScheme,
    quantizer: WeightQuantizer | RowSplitQuantizer,
    activations: bool,
) -> None:
    if isinstance(module, nn.Embedding) and type(module) is not nn.Embedding and not _is_positional(module):
        raise QuantizationError(
            f"{name} is a {type(module).__name__}, an embedding of unknown arithmetic: list it in `skip_modules`"
        )
    float_class = type(module)
    input_quantizer = None
    if not isinstance(module, nn.Embedding) and activations and scheme.activation is not None:
        clips = isinstance(module, nn.Conv1d) or _sees_clips(name)
        input_quantizer = InputQuantizer(scheme.activation, scheme.weight.group_size, 1 if clips else 2)
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


def calibrate(
    model: nn.Module, run: Callable[[], None] | None, search: ScaleSearch = search_mse, *, with_gptq: bool = False
) -> None:
    """Find the first scales again, weighting each input channel by the activations that pass while `run` runs; None: by the
    weights alone.

    Where one scale serves a Linear's whole input that no LayerNorm has made even, its channels are equalized first. `run` makes
    forward passes of the model; fake quantization is off meanwhile, so the activations are the float model's. Embeddings
    and convolutions keep the scales that their weights gave. `with_gptq` moves each weight, in place, to where it rounds to
    GPTQ's integers, and no further, so that training starts between what it was and what it should become. The table of
    tokens is rounded for its output; that it is also looked up is what `gptq`'s damping stands for.
    """
    layers: dict[str, nn.Module] = {
        name: layer for name, layer in fake_quant_layers(model) if isinstance(layer, FakeQuantLinear)
    }
    observers: dict[str, InputObserver] = {}
    if run is not None:
        enabled = is_fake_quant_enabled(model)
        set_fake_quant(model, False)
        try:
            with torch.no_grad(), observe_inputs(layers, moments=with_gptq) as observers:
                run()
        finally:
            set_fake_quant(model, enabled)
    for name, layer in tqdm(layers.items(), desc="searching scales", unit="layer"):
        assert isinstance(layer, FakeQuantLinear)
        try:
            _calibrate_layer(name, layer, observers.get(name), search, with_gptq)
        except QuantizationError as error:
            raise QuantizationError(f"{name}: {error}") from None


def _calibrate_layer(
    name: str, layer: FakeQuantLinear, observer: InputObserver | None, search: ScaleSearch, with_gptq: bool
) -> None:
    activation = layer.layer_scheme.activation
    per_tensor = activation is not None and activation.granularity == "tensor"
    for _, rows, quantizer, scheme in layer.parts():
        weight = layer.weight.detach()[rows]
        if observer is None:
            quantizer.set_scale(search(weight, scheme.weight, None))
            continue
        importance = observer.mean_square
        if per_tensor and name.endswith(_BEHIND_GELU):
            quantizer.equalization = find_equalization(weight, scheme.weight, observer)
        divisors = torch.ones_like(importance) if quantizer.equalization is None else quantizer.equalization
        scaled = weight * divisors
        found = search(scaled, scheme.weight, importance / divisors.square())
        quantizer.set_scale(found)
        if with_gptq:
            # As it is in force: some schemes have scales in half precision.
            found = replace(found, scale=quantizer.scale.detach())
            moments = observer.second_moments / torch.outer(divisors, divisors)
            rounded = gptq(scaled, moments, found, scheme.weight)
            reach = _WITHIN_STEP * found.steps.repeat_interleave(scaled.shape[1] // found.steps.shape[1], dim=1)
            weight.copy_((rounded + (scaled - rounded).clamp(-reach, reach)) / divisors)


def weight_quantizers(model: nn.Module) -> list[WeightQuantizer]:
    """Every quantizer of weights, in the model's order; that of tied layers once."""
    return [module for module in model.modules() if isinstance(module, WeightQuantizer)]


def set_fake_quant(model: nn.Module, enabled: bool) -> None:
    """Turn the fake quantization of weights and inputs on or off."""
    for module in model.modules():
        if isinstance(module, Switched):
            module.enabled = enabled


def set_fake_quant_in_training(model: nn.Module, enabled: bool) -> None:
    """Let fake quantization act in training mode, or wait; in evaluation mode it acts all the same."""
    for module in model.modules():
        if isinstance(module, Switched):
            module.waits = not enabled


def is_fake_quant_enabled(model: nn.Module) -> bool:
    """Whether the model's weights are fake-quantized at present."""
    return any(quantizer.enabled for quantizer in weight_quantizers(model))


def set_activation_fake_quant(model: nn.Module, enabled: bool) -> None:
    """Turn the fake quantization of inputs alone on or off: off is the weight-only arithmetic."""
    for module in model.modules():
        if isinstance(module, InputQuantizer):
            module.enabled = enabled


def set_scale_learning_ratio(model: nn.Module, ratio: float) -> None:
    """Learning rate of the scales over the optimizer's. Frozen scales stay frozen."""
    for quantizer in weight_quantizers(model):
        if not quantizer.frozen:
            quantizer.scale_learning_ratio = ratio


def freeze_scales(model: nn.Module) -> None:
    """Let all scales stand still from now on; again is nothing."""
    for quantizer in weight_quantizers(model):
        if not quantizer.frozen:
            quantizer.freeze()


def unfreeze_scales(model: nn.Module) -> None:
    """Let scales that stand still learn again, from where they are."""
    for quantizer in weight_quantizers(model):
        if quantizer.frozen:
            quantizer.unfreeze()


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
                layer.weight_quantizer.forget()


def convert(model: nn.Module) -> None:
    """Fold, then take the fake quantization out: a vanilla model with the quantized weights."""
    fold(model)
    for _, layer in list(fake_quant_layers(model)):
        layer.__class__ = layer.float_class  # type: ignore[assignment]
        for name in ("weight_quantizer", "input_quantizer"):
            delattr(layer, name)
        del layer.layer_scheme, layer.float_class
