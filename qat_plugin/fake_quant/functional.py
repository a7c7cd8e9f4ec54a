"""The arithmetic of quantization as differentiable torch functions.

Every function here is what one ONNX (Runtime) operator computes, written in float:

* weights: `QuantizeLinear` then `DequantizeLinear` (https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html),
  rounding half to even before the zero point is added;
* `fake_quantize_tensor`: `DynamicQuantizeLinear` (https://onnx.ai/onnx/operators/onnx__DynamicQuantizeLinear.html);
* `fake_quantize_row_group`: the activations of `com.microsoft.MatMulNBits` at `accuracy_level=4`.

Gradients are straight-through (Bengio et al., 2013, arXiv:1308.3432); scales learn by LSQ (Esser et al., 2020,
arXiv:1902.08153).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qat_plugin.fake_quant.schemes import WeightScheme

# Elements handled at once on a CPU: small enough that the half dozen passes over a chunk stay in the processor's cache.
_CHUNK_ELEMENTS = 1 << 18


def round_ste(x: Tensor) -> Tensor:
    """Round half to even; the gradient passes as if nothing had been rounded.

    >>> x = torch.tensor([0.5, 1.5, -1.2], requires_grad=True)
    >>> y = round_ste(x)
    >>> y.tolist()
    [0.0, 2.0, -1.0]
    >>> y.sum().backward()
    >>> x.grad.tolist()
    [1.0, 1.0, 1.0]
    """
    return x + (x.round() - x).detach()


def _grouped(weight: Tensor, scale: Tensor) -> Tensor:
    """`(out, in)` or `(out, in, kernel)` seen as `(out, groups, elements that share a scale)`."""
    return weight.reshape(weight.shape[0], scale.shape[1], -1)


def _limits(scheme: WeightScheme, zero_point: Tensor | None) -> tuple[Any, Any]:
    """Bounds of `q - zero_point`: what is rounded is clamped before the zero point is added, which is the same."""
    if zero_point is None:
        return scheme.qmin, scheme.qmax
    point = zero_point.unsqueeze(-1).to(torch.float32)
    return scheme.qmin - point, scheme.qmax - point


def quantize(weight: Tensor, scale: Tensor, zero_point: Tensor | None, scheme: WeightScheme) -> Tensor:
    """Integers of `weight`: int8 where the scheme is symmetric, uint8 where it has zero points.

    `weight`: `(out, in)` or `(out, in, kernel)`, float. `scale` and `zero_point`: `scheme.scale_shape(...)`.
    Returns `(out, in * kernel)`.
    """
    with torch.no_grad():
        low, high = _limits(scheme, zero_point)
        grouped = _grouped(weight.float(), scale)
        integers = torch.clamp((grouped / scale.unsqueeze(-1)).round(), low, high)
        if zero_point is not None:
            integers += zero_point.unsqueeze(-1)
        return integers.to(torch.int8 if zero_point is None else torch.uint8).reshape(weight.shape[0], -1)


def dequantize(integers: Tensor, scale: Tensor, zero_point: Tensor | None) -> Tensor:
    """`(integers - zero_point) * scale` in float32, of the shape of `integers` `(out, in)`."""
    grouped = _grouped(integers.to(torch.float32), scale)
    if zero_point is not None:
        grouped = grouped - zero_point.unsqueeze(-1).to(torch.float32)
    return (grouped * scale.unsqueeze(-1)).reshape(integers.shape)


class _FakeQuantizeWeight(torch.autograd.Function):
    """Quantize-dequantize with the gradients of LSQ; of its size, nothing but its inputs is kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, scale: Tensor, zero_point: Tensor | None, scheme: WeightScheme) -> Tensor:
        ctx.save_for_backward(weight, scale)
        grouped, steps = _grouped(weight, scale), scale.unsqueeze(-1)
        ctx.limits = low, high = _limits(scheme, zero_point)
        out = torch.empty_like(grouped)
        for rows in _chunks(grouped):
            part = torch.div(grouped[rows], steps[rows], out=out[rows]).round_()
            part.clamp_(_take(low, rows), _take(high, rows)).mul_(steps[rows])
        return out.view_as(weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        weight, scale = ctx.saved_tensors
        grouped, steps = _grouped(weight, scale), scale.unsqueeze(-1)
        low, high = ctx.limits
        grad = _grouped(grad.contiguous(), scale)
        grad_weight, grad_scale = torch.empty_like(grouped), torch.empty_like(scale)
        for rows in _chunks(grouped):
            ratio = grouped[rows] / steps[rows]
            rounded = ratio.round()
            clamped = rounded.clamp(_take(low, rows), _take(high, rows))
            inside = rounded.eq_(clamped)
            torch.mul(grad[rows], inside, out=grad_weight[rows])
            # d/d scale of scale * clamp(round(w / scale)): the integer, less w / scale where nothing was clamped.
            grad_scale[rows] = torch.linalg.vecdot(grad[rows], clamped.sub_(ratio.mul_(inside)))
        return grad_weight.view_as(weight), grad_scale, None, None


def _chunks(grouped: Tensor) -> list[slice]:
    if grouped.device.type != "cpu":
        # A GPU has no use for small pieces: each pass over one is a kernel to launch.
        return [slice(None)]
    rows = max(1, _CHUNK_ELEMENTS * grouped.shape[0] // max(1, grouped.numel()))
    return [slice(start, start + rows) for start in range(0, grouped.shape[0], rows)]


def _take(bound: Tensor | int, rows: slice) -> Any:
    return bound[rows] if isinstance(bound, Tensor) else bound


def fake_quantize_weight(weight: Tensor, scale: Tensor, zero_point: Tensor | None, scheme: WeightScheme) -> Tensor:
    """`dequantize(quantize(weight))`, differentiable in `weight` and `scale`.

    `weight`: `(out, in)` or `(out, in, kernel)`; `scale`, `zero_point`: `scheme.scale_shape(...)`. Computed in float32
    (what ships has float32 scales) and returned in the weight's own type.

    >>> scheme = WeightScheme(4, 0, 15, symmetric=False, group_size=2)
    >>> w = torch.tensor([[0.3, -0.9]], requires_grad=True)
    >>> s = torch.tensor([[0.1]], requires_grad=True)
    >>> y = fake_quantize_weight(w, s, torch.tensor([[7]], dtype=torch.uint8), scheme)
    >>> [round(v, 3) for v in y[0].tolist()]
    [0.3, -0.7]
    >>> y.sum().backward()
    >>> w.grad.tolist(), round(s.grad.item(), 3)
    ([[1.0, 0.0]], -7.0)
    """
    quantized: Tensor = _FakeQuantizeWeight.apply(weight.float(), scale, zero_point, scheme)  # type: ignore[no-untyped-call]
    return quantized.to(weight.dtype)


def fake_quantize_tensor(x: Tensor, kept_axes: int = 0) -> Tensor:
    """`DynamicQuantizeLinear` and back: uint8, the range widened to include 0, half to even.

    One scale for each index of the first `kept_axes` axes: 0 is the operator itself; 1 is what it would do to each clip
    of a batch alone, 2 to each token. Identity gradient: nothing is clamped.
    """
    with torch.no_grad():
        values = x.float()
        axes = tuple(range(kept_axes, x.dim()))
        low = values.amin(dim=axes, keepdim=True).clamp_(max=0.0)
        high = values.amax(dim=axes, keepdim=True).clamp_(min=0.0)
        scale = (high - low) / 255.0
        scale = torch.where(scale == 0, torch.ones_like(scale), scale)
        zero_point = (-low / scale).round_().clamp_(0, 255)
        quantized = (values / scale).round_().add_(zero_point).clamp_(0, 255).sub_(zero_point).mul_(scale).to(x.dtype)
    return _straight_through(x, quantized)


def fake_quantize_row_group(x: Tensor, group_size: int) -> Tensor:
    """The activations of MatMulNBits at `accuracy_level=4`: symmetric int8 per row and group of the last axis.

    `x`: `(..., in)`; `in` is a multiple of `group_size`. Identity gradient: nothing is clamped.
    """
    with torch.no_grad():
        groups = x.float().unflatten(-1, (-1, group_size))
        scale = groups.abs().amax(dim=-1, keepdim=True) / 127.0
        # The kernel multiplies by the reciprocal; dividing would round the last bit differently.
        reciprocal = torch.where(scale == 0, torch.zeros_like(scale), 1.0 / scale)
        quantized = (groups * reciprocal).round_().mul_(scale).flatten(-2).to(x.dtype)
    return _straight_through(x, quantized)


def _straight_through(x: Tensor, quantized: Tensor) -> Tensor:
    if not x.requires_grad:
        return quantized
    return _Replace.apply(x, quantized)  # type: ignore[no-any-return, no-untyped-call]


class _Replace(torch.autograd.Function):
    """Value of the second argument, gradient to the first: exact, where `x + (q - x)` would round again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, quantized: Tensor) -> Tensor:
        return quantized.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None
