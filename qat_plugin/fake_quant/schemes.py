"""What is quantized, how finely, and which ONNX Runtime operator executes it.

A `Target` is the one definition of an arithmetic: fake quantization, the packer, the operator census and the
parity tolerances all read it here. Imports nothing but the standard library, so that every stage may use it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from qat_plugin.errors import QuantizationError

Operator = Literal["MatMulInteger", "MatMulNBits", "DequantizeLinear"]


@dataclass(frozen=True)
class WeightScheme:
    """Bits, symmetry and granularity of one weight.

    A weight of shape `(out, in)` (convolutions are flattened to `(out, in * kernel)`, embeddings are `(rows, dim)`)
    has a `scale` of shape

    * `(out, 1)` when `group_size` is None: per output channel;
    * `(out, in / group_size)` otherwise: groups along the input axis.

    `zero_point`, where there is one, has the shape of `scale`. Bounds are inclusive:
    `q = clamp(round_half_to_even(w / scale) + zero_point, qmin, qmax)`, as in ONNX QuantizeLinear.
    """

    num_bits: int
    qmin: int
    qmax: int
    symmetric: bool
    group_size: int | None = None

    def scale_shape(self, out_features: int, in_features: int) -> tuple[int, int]:
        """Shape of `scale` for a weight of shape `(out_features, in_features)`."""
        if self.group_size is None:
            return (out_features, 1)
        if in_features % self.group_size:
            raise QuantizationError(
                f"the input axis has {in_features} elements, which groups of {self.group_size} do not divide: "
                "set `group_size` to one of 16, 32, 64, 128 or 256 that does, or list the layer in `skip_modules`"
            )
        return (out_features, in_features // self.group_size)


@dataclass(frozen=True)
class ActivationScheme:
    """How the operator quantizes its input while it runs.

    * `"tensor"`: ONNX DynamicQuantizeLinear: uint8, one scale for the whole tensor, range widened to include 0;
    * `"row_group"`: MatMulNBits at `accuracy_level=4`: symmetric int8, `scale = max|a| / 127` per row and per group
      of the weight's `group_size`.
    """

    granularity: Literal["tensor", "row_group"]


@dataclass(frozen=True)
class LayerScheme:
    """One kind of layer: its weight, its input (None: float) and the operator that executes it."""

    weight: WeightScheme
    activation: ActivationScheme | None
    operator: Operator


@dataclass(frozen=True)
class Target:
    """The arithmetic that ships.

    `clip_linear` holds for every `nn.Linear` that sees the states of whole clips (the encoder, and the keys and values
    that the decoder makes of its output), `token_linear` for those that see one token at a time, `embedding` for the tied
    token embedding and `proj_out`, `storage` for weights that are only stored small and computed in float: convolutions and positions.
    `max_weight_only_logit_difference` bounds |Δlogits| against torch with float activations.
    """

    name: str
    clip_linear: LayerScheme
    token_linear: LayerScheme
    embedding: LayerScheme
    storage: LayerScheme
    max_weight_only_logit_difference: float = 1e-4


# Stored in int8 and computed in float: the full 8 bits are exact, nothing multiplies integers.
_STORAGE = LayerScheme(WeightScheme(8, -127, 127, symmetric=True), None, "DequantizeLinear")

# 7-bit weights: without VNNI, x86 multiplies u8 by s8 and adds pairs in int16, so 2 * 255 * |w| must stay
# below 32768: |w| <= 64 is exact on every CPU.
_INT8 = WeightScheme(8, -64, 64, symmetric=True)


def _int4(group_size: int) -> WeightScheme:
    return WeightScheme(4, 0, 15, symmetric=False, group_size=group_size)


GROUP_SIZES = (16, 32, 64, 128, 256)
TARGET_NAMES = ("int8", "int4")


def get_target(name: str, group_size: int = 64) -> Target:
    """The target called `name`; `group_size` matters to 4-bit weights only.

    Raises `QuantizationError` for a name not in `TARGET_NAMES` or a group size that MatMulNBits does not have.
    """
    if name == "int8":
        layer = LayerScheme(_INT8, ActivationScheme("tensor"), "MatMulInteger")
        return Target("int8", clip_linear=layer, token_linear=layer, embedding=layer, storage=_STORAGE)
    if name == "int4":
        if group_size not in GROUP_SIZES:
            raise QuantizationError(
                f"group_size is {group_size}: MatMulNBits has groups of {', '.join(map(str, GROUP_SIZES))}"
            )
        weight = _int4(group_size)
        token = LayerScheme(weight, ActivationScheme("row_group"), "MatMulNBits")
        # Over a clip's 1500 rows the weights are unpacked once and multiplied in float: 8-bit activations would gain no
        # time there, cost accuracy, and let one float rounding grow through every layer.
        clip = LayerScheme(weight, None, "MatMulNBits")
        return Target("int4", clip_linear=clip, token_linear=token, embedding=token, storage=_STORAGE)
    raise QuantizationError(f"target is {name!r}: choose one of {', '.join(TARGET_NAMES)}")
