"""What is quantized, how finely, and which ONNX Runtime operator executes it.

A `Target` is the one definition of an arithmetic: fake quantization, the packer, the operator census and the
parity tolerances all read it here. Imports nothing but the standard library, so that every stage may use it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from qat_plugin.errors import QuantizationError

# "Cast": rows that are looked up become float.
Operator = Literal["MatMulInteger", "MatMulNBits", "Cast"]
GROUP_SIZES = (16, 32, 64, 128, 256)
TARGET_NAMES = ("int8", "int4")


@dataclass(frozen=True)
class WeightScheme:
    """Bits, symmetry and granularity of one weight.

    A weight of shape `(out, in)` (convolutions are flattened to `(out, in * kernel)`, embeddings are `(rows, dim)`)
    has a `scale` of shape

    * `(out, 1)` when `group_size` is None: per output channel;
    * `(out, in / group_size)` otherwise: groups along the input axis.

    `zero_point`, where there is one, has the shape of `scale`. Bounds are inclusive:
    `q = clamp(round_half_to_even(w / scale) + zero_point, qmin, qmax)`, as in ONNX QuantizeLinear.

    With `max_product` the scale has two levels (progressive quantization, QServe, Lin et al., 2024, arXiv:2405.04532): a
    float `channel_scale` `(out, 1)` times an integer `multiplier` of the shape of `scale`. Then
    `(q - zero_point) * multiplier` is an 8-bit integer of the output channel's scale, at most `max_product` in absolute
    value, so that an integer product takes all groups of a channel at once while the file holds `num_bits` a weight.

    With `half_scale` every scale is one that float16 has, and is stored as such, so that small groups cost little more than half.
    """

    num_bits: int
    qmin: int
    qmax: int
    symmetric: bool
    group_size: int | None = None
    max_product: int | None = None
    half_scale: bool = False

    def __post_init__(self) -> None:
        if self.max_product is not None and (self.symmetric or self.group_size is None):
            raise QuantizationError("a scale of two levels (`max_product`) needs groups with zero points")

    def fitted(self, in_features: int) -> WeightScheme:
        """This scheme with groups halved until they divide the input axis; unchanged where none of 16 or more does."""
        size = self.group_size
        while size is not None and in_features % size and size > GROUP_SIZES[0]:
            size //= 2
        return self if size is None or in_features % size else replace(self, group_size=size)

    def scale_shape(self, out_features: int, in_features: int) -> tuple[int, int]:
        """Shape of `scale` for a weight of shape `(out_features, in_features)`."""
        if self.group_size is None:
            return (out_features, 1)
        if in_features % self.group_size:
            raise QuantizationError(
                f"the input axis has {in_features} elements, which groups of {self.group_size} do not divide: "
                "list the layer in `skip_modules`"
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
    that the decoder makes of its output), `convolution` for the two in front of these, `token_linear` for those that see one
    token at a time, `embedding` for the tied token embedding and `proj_out`, `storage` for weights that are only stored small
    and looked up as float: positions.
    `max_weight_only_logit_difference` bounds |Δlogits| against torch with float activations, where float32 allows it.
    """

    name: str
    clip_linear: LayerScheme
    convolution: LayerScheme
    token_linear: LayerScheme
    embedding: LayerScheme
    storage: LayerScheme
    max_weight_only_logit_difference: float = 1e-4


# Full 8 bits: computed in float, or by MatMulNBits, whose integer kernels do not saturate.
BYTES = (8, -127, 127)
_STORAGE = LayerScheme(WeightScheme(*BYTES, symmetric=True), None, "Cast")

# MatMulInteger on x86 without VNNI multiplies u8 by s8 and adds pairs in int16, so 2 * 255 * |w| must stay below 32768:
# |w| <= 64 is exact on every CPU.
EXACT_PRODUCT = 64


def get_target(name: str, group_size: int = 32) -> Target:
    """The target called `name`; `group_size` matters to 4-bit weights only.

    Raises `QuantizationError` for a name not in `TARGET_NAMES` or a group size that MatMulNBits does not have.
    """
    tensor, rows = ActivationScheme("tensor"), ActivationScheme("row_group")
    # Over a clip's hundreds of rows MatMulInteger is about three times as fast as float or MatMulNBits.
    exact = LayerScheme(WeightScheme(8, -EXACT_PRODUCT, EXACT_PRODUCT, symmetric=True), tensor, "MatMulInteger")
    if name == "int8":
        # At one row MatMulNBits is as fast, and its activations have a scale for each row and group: single channels that
        # are a hundred times as active as the rest (start tokens have them) coarsen their own group only.
        in_groups = WeightScheme(*BYTES, symmetric=True, group_size=GROUP_SIZES[-1], half_scale=True)
        token = LayerScheme(in_groups, rows, "MatMulNBits")
        return Target(
            "int8", clip_linear=exact, convolution=exact, token_linear=token, embedding=token, storage=_STORAGE
        )
    if name == "int4":
        if group_size not in GROUP_SIZES:
            raise QuantizationError(
                f"group_size is {group_size}: MatMulNBits has groups of {', '.join(map(str, GROUP_SIZES))}"
            )
        token = LayerScheme(_int4(group_size), rows, "MatMulNBits")
        # Two-level scales let MatMulInteger execute 4-bit weights, which become 8-bit integers once, at load.
        clip = LayerScheme(_int4(group_size, EXACT_PRODUCT), tensor, "MatMulInteger")
        # Groups twice as large: half of a small Whisper's weights are this table, which is read whole for every token.
        embedding = LayerScheme(_int4(min(2 * group_size, GROUP_SIZES[-1])), rows, "MatMulNBits")
        # Convolutions have few weights: 4 bits would make Whisper base's file smaller by a hundredth.
        return Target(
            "int4", clip_linear=clip, convolution=exact, token_linear=token, embedding=embedding, storage=_STORAGE
        )
    raise QuantizationError(f"target is {name!r}: choose one of {', '.join(TARGET_NAMES)}")


def _int4(group_size: int, max_product: int | None = None) -> WeightScheme:
    return WeightScheme(
        4, 0, 15, symmetric=False, group_size=group_size, max_product=max_product, half_scale=max_product is None
    )
