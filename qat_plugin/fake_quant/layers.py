"""Where fake quantization happens: layers whose class is changed in place.

The parameter objects, their names and their order stay what they were, so that optimizers, DDP, gradient checkpointing
and `state_dict()` go on as before. Nothing of a quantizer appears in `state_dict()`: checkpoints stay vanilla, and
`qat_plugin.fake_quant.state` keeps the quantizers beside them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qat_plugin.fake_quant.functional import fake_quantize_row_group, fake_quantize_tensor, fake_quantize_weight
from qat_plugin.fake_quant.observers import WeightScale
from qat_plugin.fake_quant.schemes import ActivationScheme, LayerScheme, WeightScheme

_HALF = torch.finfo(torch.float16)


def _nearest_half(scale: Tensor) -> Tensor:
    """The normal float16 nearest to each scale, in the type of `scale`; gradients pass as they are."""
    half = scale.detach().clamp(_HALF.smallest_normal, _HALF.max).half().to(scale.dtype)
    return half + (scale - scale.detach())


class Switched(nn.Module):
    """A quantizer that can be off: `enabled` False, or, while the model is in training mode, `waits` True."""

    def __init__(self) -> None:
        super().__init__()
        self.enabled = True
        self.waits = False

    @property
    def active(self) -> bool:
        """Whether it quantizes at present."""
        return self.enabled and not (self.waits and self.training)


class WeightQuantizer(Switched):
    """Scale and zero point of one weight; calling it fake-quantizes the weight.

    `scale = initial_scale * exp(scale_learning_ratio * scale_offset)`, where `scale_offset` is the parameter that
    trains, from 0. So scales stay positive, one step of the optimizer changes a scale by a share of itself whatever its
    size, weight decay pulls towards the calibrated scale, and the scales have a learning rate of their own (its
    ratio to the optimizer's is `scale_learning_ratio`) under any optimizer, schedule and Trainer. Zero points and, of a scheme with two
    levels, multipliers stand still.

    `equalization` `(in,)`, powers of two, or None: what is quantized is the weight with each column multiplied by it. The
    result is divided by it again, so that callers see the weight that the float layer has.

    Shapes: `scale`, `initial_scale` and `scale_offset` are those of `WeightScale.scale`; `steps` has every group's scale.
    """

    initial_scale: Tensor
    zero_point: Tensor | None
    multiplier: Tensor | None
    equalization: Tensor | None

    def __init__(self, scheme: WeightScheme, first: WeightScale, *, learned: bool) -> None:
        super().__init__()
        self.scheme = scheme
        self.scale_learning_ratio = 1.0
        self.register_buffer("initial_scale", first.scale, persistent=False)
        self.register_buffer("zero_point", first.zero_point, persistent=False)
        self.register_buffer("multiplier", first.multiplier, persistent=False)
        self.register_buffer("equalization", None, persistent=False)
        self.scale_offset = nn.Parameter(torch.zeros_like(first.scale)) if learned else None
        self._baked: tuple[tuple[Any, ...], Tensor] | None = None

    @property
    def scale(self) -> Tensor:
        """Scale in force, float32, positive; one that float16 has where the scheme says so."""
        return _nearest_half(self._trained_scale()) if self.scheme.half_scale else self._trained_scale()

    def _trained_scale(self) -> Tensor:
        if self.scale_offset is None:
            return self.initial_scale
        if self.frozen:
            # A zero gradient instead of none, because DDP waits for the gradient of every parameter.
            return self.initial_scale + 0.0 * self.scale_offset
        return self.initial_scale * torch.exp(self.scale_learning_ratio * self.scale_offset)

    @property
    def steps(self) -> Tensor:
        """Scale of every group in force, float32."""
        return WeightScale(self.scale, self.zero_point, self.multiplier).steps

    def set_scale(self, first: WeightScale) -> None:
        """Start again from a scale."""
        with torch.no_grad():
            self.initial_scale.copy_(first.scale)
            for buffer, value in ((self.zero_point, first.zero_point), (self.multiplier, first.multiplier)):
                if buffer is not None and value is not None:
                    buffer.copy_(value)
            if self.scale_offset is not None:
                self.scale_offset.zero_()

    @property
    def frozen(self) -> bool:
        """Whether the scale stands still."""
        return self.scale_learning_ratio == 0.0

    def freeze(self) -> None:
        """Let the scale stand still where it is, whatever the optimizer's momentum does to `scale_offset`."""
        with torch.no_grad():
            self.initial_scale.copy_(self.scale)
        self.scale_learning_ratio = 0.0

    def unfreeze(self) -> None:
        """Let the scale learn from where it is, at the optimizer's own rate until another ratio is set."""
        if self.scale_offset is not None:
            with torch.no_grad():
                self.scale_offset.zero_()
        self.scale_learning_ratio = 1.0

    def forward(self, weight: Tensor) -> Tensor:
        """Fake-quantized `weight`; itself while not active. Without gradients the result is computed once and reused."""
        if not self.active:
            if self.scale_offset is None or not torch.is_grad_enabled():
                return weight
            # In the graph all the same: DistributedDataParallel waits for every parameter's gradient.
            return weight + 0.0 * self.scale_offset.sum()
        if torch.is_grad_enabled():
            self._baked = None
            return self._fake_quantize(weight)
        offset = self.scale_offset
        key = (
            weight.data_ptr(), weight._version, self.initial_scale._version, self.scale_learning_ratio, id(self.equalization),
            *(None if tensor is None else tensor._version for tensor in (offset, self.zero_point, self.multiplier)),
        )  # fmt: skip
        if self._baked is None or self._baked[0] != key:
            self._baked = key, self._fake_quantize(weight)
        return self._baked[1]

    def forget(self) -> None:
        """Free the result that is kept for reuse, which is as large as the weight."""
        self._baked = None

    def _fake_quantize(self, weight: Tensor) -> Tensor:
        if self.equalization is None:
            return fake_quantize_weight(weight, self.steps, self.zero_point, self.scheme)
        scaled = weight * self.equalization
        return fake_quantize_weight(scaled, self.steps, self.zero_point, self.scheme) / self.equalization

    def rows(self, weight: Tensor, indices: Tensor) -> Tensor:
        """Fake-quantized rows `weight[indices]`, of shape `(*indices.shape, dim)`: an embedding need not pay for all."""
        if not self.active or not torch.is_grad_enabled():
            return F.embedding(indices, self(weight))
        flat = indices.reshape(-1)
        points = None if self.zero_point is None else self.zero_point[flat]
        picked = fake_quantize_weight(F.embedding(flat, weight), F.embedding(flat, self.steps), points, self.scheme)
        return picked.reshape(*indices.shape, -1)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        """Nothing: a checkpoint's weights carry the vanilla names only."""

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        """Nothing is expected."""


class RowSplitQuantizer(nn.Module):
    """Quantizers of one table's rows, in the order of the rows: `parts[i]` has those from `starts[i]` to the next start.

    A few rows are read far more often than the others, and can have more bits.
    """

    equalization = None

    def __init__(self, parts: Sequence[WeightQuantizer], starts: Sequence[int]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.slices = [slice(*bounds) for bounds in zip(starts, [*starts[1:], None], strict=True)]

    def items(self) -> Iterator[tuple[slice, WeightQuantizer]]:
        """The rows of each part and what quantizes them."""
        for rows, part in zip(self.slices, self.parts, strict=True):
            assert isinstance(part, WeightQuantizer)
            yield rows, part

    def forward(self, weight: Tensor) -> Tensor:
        """Fake-quantized `weight`, as `WeightQuantizer` gives it."""
        return torch.cat([part(weight[rows]) for rows, part in self.items()])

    def forget(self) -> None:
        """Free what the parts keep for reuse."""
        for _, part in self.items():
            part.forget()

    def rows(self, weight: Tensor, indices: Tensor) -> Tensor:
        """Fake-quantized rows `weight[indices]`, of shape `(*indices.shape, dim)`."""
        found: Tensor | None = None
        for rows, part in self.items():
            table = weight[rows]
            picked = part.rows(table, (indices - rows.start).clamp(0, len(table) - 1))
            found = picked if found is None else torch.where((indices < rows.start).unsqueeze(-1), found, picked)
        assert found is not None
        return found

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        """Nothing, as of its parts."""


class InputQuantizer(Switched):
    """What the operator does to a layer's input.

    In evaluation the whole tensor that arrives is quantized as the operator will. In training a batch stands for many
    calls: `kept_axes` says which leading axes count separately, 1 for whole clips (encoder states), 2 for single tokens
    (decoder states, which arrive one by one when text is generated).
    """

    def __init__(self, scheme: ActivationScheme, group_size: int | None, kept_axes: int) -> None:
        super().__init__()
        self.scheme = scheme
        self.group_size = group_size
        self.kept_axes = kept_axes

    def forward(self, x: Tensor, equalization: Tensor | None = None) -> Tensor:
        """`x` of shape `(batch, length, in)`, of a convolution `(batch, in, length)`, as the operator sees it.

        `equalization` is the weight quantizer's.
        """
        if not self.active:
            return x
        if equalization is not None:
            return self._quantize(x / equalization) * equalization
        return self._quantize(x)

    def _quantize(self, x: Tensor) -> Tensor:
        if self.scheme.granularity == "row_group":
            assert self.group_size is not None
            return fake_quantize_row_group(x, self.group_size)
        return fake_quantize_tensor(x, min(self.kept_axes, x.dim() - 1) if self.training else 0)


class FakeQuantLayer(nn.Module):
    """What all fake-quantized layers have beside their own parameters; see `insertion.prepare`."""

    weight_quantizer: WeightQuantizer | RowSplitQuantizer
    input_quantizer: InputQuantizer | None
    layer_scheme: LayerScheme
    float_class: type[nn.Module]

    def parts(self) -> Iterator[tuple[str, slice, WeightQuantizer, LayerScheme]]:
        """What is quantized by a scheme of its own: how it is called after the layer's name, rows, quantizer, scheme."""
        quantizer, scheme = self.weight_quantizer, self.layer_scheme
        if isinstance(quantizer, RowSplitQuantizer):
            for rows, part in quantizer.items():
                bounds = ("" if not bound else str(bound) for bound in (rows.start, rows.stop))
                yield f"[{':'.join(bounds)}]", rows, part, replace(scheme, weight=part.scheme)
        else:
            yield "", slice(None), quantizer, scheme


class FakeQuantLinear(FakeQuantLayer, nn.Linear):
    """`nn.Linear` with fake-quantized input and weight; the bias stays float."""

    def forward(self, input: Tensor) -> Tensor:
        """As the float layer."""
        if self.input_quantizer is not None:
            input = self.input_quantizer(input, self.weight_quantizer.equalization)
        return F.linear(input, self.weight_quantizer(self.weight), self.bias)


class FakeQuantConv1d(FakeQuantLayer, nn.Conv1d):
    """`nn.Conv1d` with fake-quantized input and weight; the bias stays float, and what it pads with is exactly 0."""

    def forward(self, input: Tensor) -> Tensor:
        """As the float layer."""
        if self.input_quantizer is not None:
            input = self.input_quantizer(input)
        output: Tensor = self._conv_forward(input, self.weight_quantizer(self.weight), self.bias)
        return output


class FakeQuantEmbedding(FakeQuantLayer, nn.Embedding):
    """`nn.Embedding` whose rows are fake-quantized."""

    def forward(self, input: Tensor) -> Tensor:
        """As the float layer."""
        return self.weight_quantizer.rows(self.weight, input)


class FakeQuantPositionalEmbedding(FakeQuantLayer, nn.Embedding):
    """transformers' `WhisperPositionalEmbedding`, an embedding that is called with the tokens and where they begin."""

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """As the float layer, whose arguments change their names from version to version: it reads nothing but a weight."""
        stand_in = SimpleNamespace(weight=self.weight_quantizer(self.weight))
        rows: Tensor = self.float_class.forward(stand_in, *args, **kwargs)
        return rows
