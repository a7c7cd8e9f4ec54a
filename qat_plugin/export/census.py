"""What is in an ONNX file: operators, bytes, and the integers packed in it. Read from the file, not from what wrote it."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import AttributeProto, NodeProto, numpy_helper

from qat_plugin.errors import ParityError
from qat_plugin.export.packing import unpack_groups, unpack_halves, unpack_matmul_nbits
from qat_plugin.fake_quant.checkpoint import QuantizedCheckpoint, QuantizedWeight, split_part
from qat_plugin.fake_quant.positions import ENCODER_POSITIONS, are_sinusoids, inverse_timescales

QUANTIZED, SCALE, ZERO_POINT, MULTIPLIER = (
    ".weight_quantized",
    ".weight_scale",
    ".weight_zero_point",
    ".weight_multiplier",
)
INPUT_SCALE = ".input_scale"
_COUNTED = (
    "MatMulInteger",
    "MatMulNBits",
    "GatherBlockQuantized",
    "DynamicQuantizeLinear",
    "MatMul",
    "Conv",
)

# Shapes, masks and the like: a few dozen bytes each.
_CONSTANT_BYTES = 65536

Array = NDArray[Any]


@dataclass(frozen=True)
class FileContent:
    """Nodes and initializers of one ONNX file; `If` branches included. The weights are in memory once."""

    name: str
    nodes: list[NodeProto]
    initializers: dict[str, Array]

    @property
    def operators(self) -> dict[str, int]:
        """How often each operator that computes with weights occurs."""
        counts = Counter(node.op_type for node in self.nodes)
        return {kind: counts[kind] for kind in _COUNTED if counts[kind]}

    @property
    def weight_bytes(self) -> int:
        """Bytes of all initializers."""
        return sum(array.nbytes for array in self.initializers.values())

    @property
    def quantized_bytes(self) -> int:
        """Bytes of packed integers with their scales, zero points and multipliers."""
        ends = (QUANTIZED, SCALE, ZERO_POINT, MULTIPLIER, INPUT_SCALE)
        return sum(array.nbytes for name, array in self.initializers.items() if name.endswith(ends))


def read_file(path: Path) -> FileContent:
    """Load an ONNX file with its external data."""
    model = onnx.load(str(path))
    initializers = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    # A node of the loaded model would keep all of it in memory, its weights included.
    nodes = [copy.deepcopy(node) for node in model.graph.node]
    return FileContent(path.name, list(_walk(nodes)), initializers)


def _walk(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from _walk(attribute.g.node)


def check_weights(files: list[FileContent], checkpoint: QuantizedCheckpoint) -> int:
    """Compare every integer, scale, zero point and float tensor of the files with the checkpoint.

    Returns how many integers were compared. Raises `ParityError` naming the first layer that differs, is missing, is
    there as a float copy as well, or is executed by another operator than its scheme's.
    """
    initializers: dict[str, Array] = {}
    for file in files:
        initializers.update(file.initializers)
    compared = 0
    for module, weight in checkpoint.quantized.items():
        _check_quantized(module, weight, initializers)
        compared += weight.integers.size
        whole = split_part(module)[0]
        if f"{whole}.weight" in initializers or f"{whole}.weight_transposed" in initializers:
            raise ParityError(f"{whole}: the file holds a float copy of its weight beside the integers")
        consumers = {
            node.op_type
            for file in files
            for node in file.nodes
            for name in node.input
            if name == f"{module}{QUANTIZED}"
        }
        operator = weight.scheme.operator
        # A table that is only looked up, or reshaped for the product, is read by other operators; 4-bit integers that
        # become 8-bit ones at load are taken apart first.
        reader = "BitwiseAnd" if weight.multiplier is not None else operator
        allowed = {reader, "Gather", "GatherBlockQuantized", "Reshape"}
        if not consumers or not consumers <= allowed:
            raise ParityError(f"{module}: its integers are read by {sorted(consumers)}, expected {operator}")
    for name, tensor in checkpoint.tensors.items():
        if not _is_computed(name, tensor, initializers):
            _check_float(name, tensor, initializers)
    _check_bytes(files, checkpoint, initializers)
    return compared


def _is_computed(name: str, tensor: Array, initializers: dict[str, Array]) -> bool:
    """Whether the file computes positions by the formula, with the right angles, instead of storing them."""
    scales = initializers.get(name.removesuffix("weight") + "inverse_timescales")
    if (
        not name.endswith(f"{ENCODER_POSITIONS}.weight")
        or scales is None
        or not are_sinusoids(torch.from_numpy(tensor))
    ):
        return False
    return np.array_equal(scales, inverse_timescales(tensor.shape[1]).numpy())


def _check_bytes(files: list[FileContent], checkpoint: QuantizedCheckpoint, initializers: dict[str, Array]) -> None:
    """Whatever is neither packed integers nor a float tensor of the checkpoint must be no more than small constants."""
    known = sum(
        tensor.nbytes for name, tensor in checkpoint.tensors.items() if not _is_computed(name, tensor, initializers)
    )
    # With these, 4-bit integers become 8-bit ones; see `Layers`.
    identities = {name: array for name, array in initializers.items() if name.startswith("identity_")}
    known += sum(array.nbytes for array in identities.values() if np.array_equal(array, np.eye(len(array))))
    odd = sum(file.weight_bytes - file.quantized_bytes for file in files) - known
    if odd > _CONSTANT_BYTES:
        raise ParityError(
            f"the files hold {odd} bytes of weights that are neither packed integers nor in the checkpoint"
        )


def _check_quantized(module: str, weight: QuantizedWeight, initializers: dict[str, Array]) -> None:
    try:
        integers, zero_point, multiplier = _unpack(module, weight, initializers)
        scale = initializers[f"{module}{SCALE}"]
    except KeyError as error:
        raise ParityError(f"{module}: the file has no initializer {error}") from None
    if integers.shape != weight.integers.shape or not np.array_equal(integers, weight.integers):
        count = int((integers != weight.integers).sum()) if integers.shape == weight.integers.shape else integers.size
        raise ParityError(f"{module}: {count} of its {weight.integers.size} integers are not the trained ones")
    parts: tuple[tuple[str, Array | None, Array | None], ...] = (
        ("zero points", zero_point, weight.zero_point),
        ("multipliers", multiplier, weight.multiplier),
        ("scales", scale.reshape(-1).astype(np.float32), weight.scale.reshape(-1)),
        (
            "input scales",
            initializers.get(f"{module}{INPUT_SCALE}"),
            None if weight.equalization is None else 1 / weight.equalization,
        ),
    )
    for what, found, trained in parts:
        if found is None and trained is None:
            continue
        if found is None or trained is None or not np.array_equal(found, trained):
            raise ParityError(f"{module}: its {what} are not the trained ones")


def _unpack(
    module: str, weight: QuantizedWeight, initializers: dict[str, Array]
) -> tuple[Array, Array | None, Array | None]:
    """Integers `(out, in)`, zero points and multipliers `(out, groups)` of one weight, as they are in the file."""
    packed, out = initializers[f"{module}{QUANTIZED}"], weight.integers.shape[0]
    if weight.scheme.operator == "MatMulNBits":
        points = None if weight.zero_point is None else initializers[f"{module}{ZERO_POINT}"]
        return *unpack_matmul_nbits(packed, points), None
    if weight.scheme.weight.max_product is not None:
        points, multipliers = initializers[f"{module}{ZERO_POINT}"], initializers[f"{module}{MULTIPLIER}"]
        groups = weight.scheme.weight.scale_shape(*weight.integers.shape)[1]
        return unpack_groups(packed, groups), unpack_groups(points, groups), unpack_halves(multipliers[:, 0], groups).T
    if weight.scheme.operator == "MatMulInteger":
        # The inverse of `QuantizedWeight.columns`.
        return packed.reshape(weight.kernel, -1, out).T.reshape(out, -1), None, None
    return packed, None, None


def _check_float(name: str, tensor: Array, initializers: dict[str, Array]) -> None:
    stored = initializers.get(name)
    if stored is None and f"{name}_transposed" in initializers:
        stored = initializers[f"{name}_transposed"].T
    if stored is None or not np.array_equal(stored, tensor):
        raise ParityError(f"{name}: {'missing from the file' if stored is None else 'differs from the checkpoint'}")


def check_operators(files: list[FileContent], checkpoint: QuantizedCheckpoint, *, activations: bool) -> None:
    """Compare the number of quantized products with what the checkpoint's schemes ask for.

    Raises `ParityError` with both numbers.
    """
    found = Counter(node.op_type for file in files for node in file.nodes)
    kinds = Counter(weight.scheme.operator for weight in checkpoint.quantized.values())
    table = checkpoint.parts("model.decoder.embed_tokens")
    is_tied = "proj_out" not in checkpoint.quantized
    for operator in ("MatMulNBits", "MatMulInteger"):
        # The tied embedding counts once either way: one weight, or one for each of its parts, one product.
        expected = kinds[operator] if activations or operator == "MatMulNBits" else 0
        if found[operator] != expected:
            raise ParityError(
                f"the files hold {found[operator]} {operator}, the checkpoint's schemes ask for {expected}"
            )
    lookups = found["GatherBlockQuantized"]
    expected_lookups = sum(weight.scheme.operator == "MatMulNBits" for _, weight in table) if is_tied else 0
    if lookups != expected_lookups:
        raise ParityError(f"the files hold {lookups} GatherBlockQuantized, expected {expected_lookups}")
