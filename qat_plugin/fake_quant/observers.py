"""How the first scales are found: from the weights alone, or weighted by the activations that calibration saw.

`minmax` clips nothing. `mse` searches the range with the least squared error, then solves for the best scale of the
integers found (alternating least squares, as in OMSE, Kravchik et al. 2019, and half-quadratic methods). With
calibration the error of input channel j counts `E[x_j ** 2]` times: the error of the layer's output if inputs were
uncorrelated.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from qat_plugin.errors import QuantizationError
from qat_plugin.fake_quant.schemes import WeightScheme

WeightObserver = Literal["mse", "minmax"]

# Shares of the full range that the search tries.
_SHRINKS = tuple(1.0 - 0.04 * step for step in range(14))
_LEAST_SQUARES_ROUNDS = 2
_ROWS_AT_ONCE_ELEMENTS = 1 << 20


def observe_weight(
    weight: Tensor, scheme: WeightScheme, method: WeightObserver, importance: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """First `scale` (float32) and `zero_point` (uint8, None where the scheme is symmetric) of a weight.

    `weight`: `(out, in)` or `(out, in, kernel)`. `importance`: `(in,)`, how much the squared error of each input channel
    counts; None: all alike; only 'mse' uses it. Both results have the shape `scheme.scale_shape(out, in * kernel)`.

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
    scale = torch.cat([scale for scale, _ in parts])
    return scale, None if scheme.symmetric else torch.cat([point for _, point in parts]).to(torch.uint8)


def _observe_rows(
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
            # The scale that fits these integers best; where all are 0 there is nothing to fit.
            norm = (importance * integers * integers).sum(-1)
            fitted = (importance * groups * integers).sum(-1) / norm.clamp(min=1e-30)
            scale = torch.where((norm > 0) & (fitted > 0), fitted, scale)
    return best_scale, best_point


def _range_to_scale(low: Tensor, high: Tensor, scheme: WeightScheme) -> tuple[Tensor, Tensor]:
    scale = (high - low) / (scheme.qmax - scheme.qmin)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
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
    """Mean square of a layer's input per channel, summed over everything that passes while it watches."""

    def __init__(self) -> None:
        self.total: Tensor | None = None
        self.count = 0

    def update(self, x: Tensor) -> None:
        """Add `x` of shape `(..., in)`."""
        rows = x.detach().reshape(-1, x.shape[-1]).double()
        squares = rows.square().sum(0)
        self.total = squares if self.total is None else self.total + squares
        self.count += rows.shape[0]

    @property
    def mean_square(self) -> Tensor:
        """`E[x_j ** 2]`, shape `(in,)`, float32. Raises `QuantizationError` when nothing has passed."""
        if self.total is None or self.count == 0:
            raise QuantizationError(
                "calibration saw no input of this layer: give it clips, or set `calibration_samples` to 0"
            )
        return (self.total / self.count).float()


@contextmanager
def observe_inputs(layers: dict[str, nn.Module]) -> Iterator[dict[str, InputObserver]]:
    """Watch the inputs of `layers` during the forward passes made inside the `with` block."""
    observers = {name: InputObserver() for name in layers}
    handles = [
        layer.register_forward_pre_hook(lambda _module, args, name=name: observers[name].update(args[0]))
        for name, layer in layers.items()
    ]
    try:
        yield observers
    finally:
        for handle in handles:
            handle.remove()
