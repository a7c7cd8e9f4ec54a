"""How the first scales are found: from the weights alone, or weighted by the activations that calibration saw.

`minmax` clips nothing. `mse` searches the range with the least squared error, then solves for the best scale of the
integers found (alternating least squares, as in OMSE, Kravchik et al. 2019, and half-quadratic methods). With
calibration the error of input channel j counts `E[x_j ** 2]` times: the error of the layer's output if inputs were
uncorrelated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from qat_plugin.errors import QuantizationError
from qat_plugin.fake_quant.schemes import WeightScheme

WeightObserver = Literal["mse", "minmax"]


@dataclass(frozen=True)
class WeightScale:
    """What quantizes one weight; shapes as `WeightScheme` says.

    Attributes:
        scale: float32, positive: `(out, 1)` or `(out, groups)`; of a scheme with two levels, the channels' `(out, 1)`.
        zero_point: uint8 `(out, groups)`; None where the scheme is symmetric.
        multiplier: uint8 `(out, groups)`, 1 or more; None where the scheme has a single level.
    """

    scale: Tensor
    zero_point: Tensor | None = None
    multiplier: Tensor | None = None

    @property
    def steps(self) -> Tensor:
        """The scale of every group: `scale`, times `multiplier` where there is one."""
        return self.scale if self.multiplier is None else self.scale * self.multiplier


ScaleSearch = Callable[[Tensor, WeightScheme, "Tensor | None"], WeightScale]
"""Finds the scale of a weight `(out, in)`, given how much each input channel counts, `(in,)` or None."""

# Shares of the full range that the search tries.
_SHRINKS = tuple(1.0 - 0.04 * step for step in range(14))
_LEAST_SQUARES_ROUNDS = 2
# Multipliers tried for the group with the largest scale of a channel: larger ones are finer, until some group exceeds its own.
_LARGEST_MULTIPLIERS = (4, 5, 6, 7, 8)
_ROWS_AT_ONCE_ELEMENTS = 1 << 20


def observe_weight(
    weight: Tensor, scheme: WeightScheme, method: WeightObserver, importance: Tensor | None = None
) -> WeightScale:
    """First scale of a weight.

    `weight`: `(out, in)` or `(out, in, kernel)`. `importance`: `(in,)`, how much the squared error of each input channel
    counts; None: all alike; only 'mse' uses it.

    Raises `QuantizationError` when the weight holds NaN or infinity, or the group size does not divide the input axis.
    """
    flat = weight.detach().float().flatten(1)
    if not torch.isfinite(flat).all():
        raise QuantizationError(
            "the weight holds NaN or infinite values: train or load it again, it cannot be quantized"
        )
    shape = scheme.scale_shape(flat.shape[0], flat.shape[1])
    if importance is None or method == "minmax":
        importance = torch.ones(flat.shape[1])
    elif importance.numel() != flat.shape[1]:
        raise QuantizationError(f"importance has {importance.numel()} elements, the weight {flat.shape[1]} inputs")
    # A channel that calibration never saw active still must not lose its weights altogether.
    importance = importance.to(flat).clamp(min=float(importance.mean()) * 1e-3 + 1e-12).reshape(1, shape[1], -1)
    rows = max(1, _ROWS_AT_ONCE_ELEMENTS // flat.shape[1])
    parts = [
        _observe_rows(part.reshape(part.shape[0], shape[1], -1), scheme, method, importance)
        for part in flat.split(rows)
    ]
    scale, point, multiplier = (torch.cat(found) for found in zip(*parts, strict=True))
    return WeightScale(
        scale,
        None if scheme.symmetric else point.to(torch.uint8),
        None if scheme.max_product is None else multiplier.to(torch.uint8),
    )


def search_mse(weight: Tensor, scheme: WeightScheme, importance: Tensor | None = None) -> WeightScale:
    """`observe_weight` by least squared error, as a `ScaleSearch`."""
    return observe_weight(weight, scheme, "mse", importance)


def two_level_scale(weight: Tensor, scheme: WeightScheme, groups_scale: Tensor, points: Tensor) -> WeightScale:
    """The scale of two levels nearest to what another method found for each group, `(out, groups)`, alone."""
    groups = weight.reshape(*groups_scale.shape, -1)
    ones = torch.ones(1, *groups.shape[1:], device=weight.device)
    scale, point, multiplier = _search_multipliers(groups, groups_scale, points.float(), scheme, "mse", ones)
    return WeightScale(scale, point.to(torch.uint8), multiplier.to(torch.uint8))


def _observe_rows(
    groups: Tensor, scheme: WeightScheme, method: WeightObserver, importance: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Scale, zero point and multiplier of some output channels; `groups` is `(out, groups, elements)`."""
    scale, point = _search_groups(groups, scheme, method, importance)
    if scheme.max_product is None:
        return scale, point, torch.ones_like(scale)
    return _search_multipliers(groups, scale, point, scheme, method, importance)


def _search_multipliers(
    groups: Tensor, wanted: Tensor, point: Tensor, scheme: WeightScheme, method: WeightObserver, importance: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Channel scales and multipliers near the scales that the groups want each for itself; zero points stay."""
    assert scheme.max_product is not None
    # The farthest integer from the zero point times the multiplier must not exceed the product's limit.
    limit = torch.floor(scheme.max_product / torch.maximum(point - scheme.qmin, scheme.qmax - point))
    # A group of zeros is content with any scale.
    wanted = torch.where(groups.abs().amax(-1) > 0, wanted, 0.0)
    channel = _positive((wanted / limit).amax(-1, keepdim=True))
    multiplier = (wanted / channel - 1e-4).ceil_().clamp_(min=1)
    if method == "minmax":
        return channel, point, multiplier
    error, _ = _error(groups, channel * multiplier, point, scheme, importance)
    candidates = [(error.sum(-1, keepdim=True), channel, multiplier)]
    for largest in _LARGEST_MULTIPLIERS:
        channel = _positive(wanted.amax(-1, keepdim=True) / largest)
        for _ in range(_LEAST_SQUARES_ROUNDS):
            multiplier = (wanted / channel).round_().clamp_(min=1).minimum(limit)
            error, integers = _error(groups, channel * multiplier, point, scheme, importance)
            candidates.append((error.sum(-1, keepdim=True), channel, multiplier))
            channel = _fitted(channel, groups, integers * multiplier.unsqueeze(-1), importance, (-1, -2), keepdim=True)
    best = torch.stack([error for error, _, _ in candidates]).argmin(0)
    channels, multipliers = (torch.stack(list(column)) for column in list(zip(*candidates, strict=True))[1:])
    chosen = best.unsqueeze(0)
    return channels.gather(0, chosen)[0], point, multipliers.gather(0, chosen.expand(1, *multipliers.shape[1:]))[0]


def _positive(scale: Tensor) -> Tensor:
    return torch.where(scale > 0, scale, torch.ones_like(scale))


def _fitted(
    scale: Tensor, groups: Tensor, integers: Tensor, importance: Tensor, axes: Any, *, keepdim: bool = False
) -> Tensor:
    """The scale that fits these integers best; `scale` where all are 0 and there is nothing to fit."""
    norm = (importance * integers * integers).sum(axes)
    fitted = (importance * groups * integers).sum(axes) / norm.clamp(min=1e-30)
    if keepdim:
        norm, fitted = norm.unsqueeze(-1), fitted.unsqueeze(-1)
    return torch.where((norm > 0) & (fitted > 0), fitted, scale)


def _search_groups(
    groups: Tensor, scheme: WeightScheme, method: WeightObserver, importance: Tensor
) -> tuple[Tensor, Tensor]:
    low, high = groups.amin(-1).clamp_(max=0.0), groups.amax(-1).clamp_(min=0.0)
    if scheme.symmetric:
        high = torch.maximum(-low, high)
        low = -high
    best_scale, best_point = _range_to_scale(low, high, scheme)
    if method == "minmax":
        return best_scale, best_point
    best_error = _error(groups, best_scale, best_point, scheme, importance)[0]
    for shrink in _SHRINKS:
        scale, point = _range_to_scale(low * shrink, high * shrink, scheme)
        for _ in range(_LEAST_SQUARES_ROUNDS):
            error, integers = _error(groups, scale, point, scheme, importance)
            better = error < best_error
            best_error = torch.where(better, error, best_error)
            best_scale, best_point = torch.where(better, scale, best_scale), torch.where(better, point, best_point)
            scale = _fitted(scale, groups, integers, importance, -1)
    return best_scale, best_point


def _range_to_scale(low: Tensor, high: Tensor, scheme: WeightScheme) -> tuple[Tensor, Tensor]:
    scale = _positive((high - low) / (scheme.qmax - scheme.qmin))
    if scheme.symmetric:
        return scale, torch.zeros_like(scale)
    return scale, (-low / scale).round_().clamp_(scheme.qmin, scheme.qmax)


def _error(
    groups: Tensor, scale: Tensor, point: Tensor, scheme: WeightScheme, importance: Tensor
) -> tuple[Tensor, Tensor]:
    steps, points = scale.unsqueeze(-1), point.unsqueeze(-1)
    integers = (groups / steps).round_().clamp_(scheme.qmin - points, scheme.qmax - points)
    difference = (integers * steps).sub_(groups)
    return (importance * difference.mul_(difference)).sum(-1), integers


class InputObserver:
    """Mean square and range of a layer's input per channel, over everything that passes while it watches.

    With `moments`, the products of channels too, which take `(in, in)` memory.
    """

    def __init__(self, moments: bool = False) -> None:
        self.total: Tensor | None = None
        self.count = 0
        self._products: Tensor | None = None
        self._watch_moments = moments
        self._low = self._high = torch.empty(0)

    def update(self, x: Tensor) -> None:
        """Add `x` of shape `(..., in)`."""
        rows = x.detach().reshape(-1, x.shape[-1]).float()
        squares, low, high = rows.square().sum(0, dtype=torch.float64), rows.amin(0), rows.amax(0)
        if self.total is None:
            self.total, self._low, self._high = squares, low, high
        else:
            self.total += squares
            self._low, self._high = torch.minimum(self._low, low), torch.maximum(self._high, high)
        self.count += rows.shape[0]
        if self._watch_moments:
            # Sums over thousands of rows need float32, whatever the model runs in.
            with torch.autocast(rows.device.type, enabled=False):
                products = rows.T @ rows
            self._products = products if self._products is None else self._products + products

    @property
    def second_moments(self) -> Tensor:
        """`E[x x^T]`, shape `(in, in)`, float32. Raises `QuantizationError` when nothing has passed."""
        self._seen()
        assert self._products is not None, "made without moments"
        return self._products / self.count

    @property
    def mean_square(self) -> Tensor:
        """`E[x_j ** 2]`, shape `(in,)`, float32. Raises `QuantizationError` when nothing has passed."""
        return (self._seen() / self.count).float()

    @property
    def range(self) -> tuple[Tensor, Tensor]:
        """Least and greatest value of each channel, `(in,)`. Raises `QuantizationError` when nothing has passed."""
        self._seen()
        return self._low, self._high

    def _seen(self) -> Tensor:
        if self.total is None:
            raise QuantizationError(
                "calibration saw no input of this layer: give it clips, or set `calibration_samples` to 0"
            )
        return self.total


@contextmanager
def observe_inputs(layers: dict[str, nn.Module], *, moments: bool = False) -> Iterator[dict[str, InputObserver]]:
    """Watch the inputs of `layers` during the forward passes made inside the `with` block."""
    observers = {name: InputObserver(moments) for name in layers}
    handles = [
        layer.register_forward_pre_hook(lambda _module, args, name=name: observers[name].update(args[0]))
        for name, layer in layers.items()
    ]
    try:
        yield observers
    finally:
        for handle in handles:
            handle.remove()
