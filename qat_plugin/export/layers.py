"""The layers of Whisper as ONNX nodes, each by the scheme of its weight."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from qat_plugin.errors import ExportError
from qat_plugin.export.graph import MICROSOFT, Graph
from qat_plugin.export.packing import pack_groups, pack_halves, pack_matmul_nbits
from qat_plugin.fake_quant.checkpoint import QuantizedCheckpoint, QuantizedWeight
from qat_plugin.fake_quant.positions import are_sinusoids, inverse_timescales

TENSOR_FLOAT = 1


class Layers:
    """Writes layers of `checkpoint` into graphs.

    `activations=False` writes the weight-only arithmetic: MatMulNBits at accuracy level 0, and a float product instead
    of MatMulInteger.
    """

    def __init__(self, checkpoint: QuantizedCheckpoint, *, activations: bool = True) -> None:
        self.checkpoint = checkpoint
        self.activations = activations

    def tensor(self, graph: Graph, name: str) -> str:
        """A float tensor under its own name. Raises `ExportError` when the checkpoint lacks it."""
        return graph.weights.add(name, self._array(name))

    def _array(self, name: str) -> NDArray[np.float32]:
        if name not in self.checkpoint.tensors:
            raise ExportError(
                f"{self.checkpoint.folder} has no tensor {name!r}: it is not a whole WhisperForConditionalGeneration; save "
                "the model again with `save_pretrained`"
            )
        return self.checkpoint.tensors[name]

    def layer_norm(self, graph: Graph, module: str, x: str) -> str:
        """LayerNormalization over the last axis with transformers' epsilon."""
        graph.at(module)
        inputs = [x, self.tensor(graph, f"{module}.weight"), self.tensor(graph, f"{module}.bias")]
        return graph.op("LayerNormalization", inputs, axis=-1, epsilon=1e-5)  # type: ignore[no-any-return]

    def linear(self, graph: Graph, module: str, x: str) -> str:
        """`x @ weight.T + bias` of shape `(..., out)`."""
        graph.at(module)
        weight = self.checkpoint.quantized.get(module)
        bias = f"{module}.bias" if f"{module}.bias" in self.checkpoint.tensors else None
        if weight is not None and weight.scheme.operator == "MatMulNBits":
            return self._matmul_nbits(graph, module, x, weight, bias)
        if weight is not None:
            if weight.equalization is not None:
                x = graph.op("Mul", [x, graph.weights.add(f"{module}.input_scale", 1 / weight.equalization)])
            y = self._matmul_integer(graph, x, self._int8_columns(graph, module, weight))
        else:
            array = self._array(f"{module}.weight")
            y = graph.op("MatMul", [x, graph.weights.add(f"{module}.weight_transposed", array.T)])
        return y if bias is None else graph.op("Add", [y, self.tensor(graph, bias)])

    def convolution(self, graph: Graph, module: str, x: str, stride: int) -> str:
        """nn.Conv1d with a kernel of 3 and padding of 1 over the frames of `x` `(batch, frames, in)`: `(batch, kept, out)`."""
        graph.at(module)
        weight, bias = self.checkpoint.quantized.get(module), self.tensor(graph, f"{module}.bias")
        if weight is None:
            # ONNX Runtime cancels what two such layers turn to and fro.
            inputs = [graph.op("Transpose", [x], perm=[0, 2, 1]), self.tensor(graph, f"{module}.weight"), bias]
            y = graph.op("Conv", inputs, kernel_shape=[3], pads=[1, 1], strides=[stride])
            return graph.op("Transpose", [y], perm=[0, 2, 1])  # type: ignore[no-any-return]
        # Of bytes, three frames side by side cost little beside the product: ConvInteger is slower than a float Conv.
        y = self._matmul_integer(graph, x, self._int8_columns(graph, module, weight), stride)
        return graph.op("Add", [y, bias])  # type: ignore[no-any-return]

    def _windows(self, graph: Graph, x: str, padding: str, stride: int) -> str:
        """Each frame that is kept with its neighbours, `(batch, kept, 3 * in)`; beyond the ends there is `padding` ("": 0)."""
        padded = graph.op("Pad", [x, graph.ints(1, 1), padding, graph.ints(1)])
        ends, step = (-2, -1, np.iinfo(np.int64).max), graph.ints(stride)
        neighbours = [
            graph.op("Slice", [padded, graph.ints(first), graph.ints(end), graph.ints(1), step])
            for first, end in enumerate(ends)
        ]
        return graph.op("Concat", neighbours, axis=2)  # type: ignore[no-any-return]

    def _matmul_nbits(self, graph: Graph, module: str, x: str, weight: QuantizedWeight, bias: str | None) -> str:
        blocks, scale, points = self._blocks(graph, module, weight)
        return self._nbits_node(graph, x, (blocks, scale, points), weight, bias)

    def _blocks(self, graph: Graph, module: str, weight: QuantizedWeight) -> tuple[str, str, str]:
        """Packed integers `(out, groups, bytes)`, scales `(out, groups)` and zero points ("" where there are none)."""
        size = weight.scheme.weight.group_size
        assert size is not None
        packed, points = pack_matmul_nbits(weight.integers, weight.zero_point, size)
        scale = weight.scale.astype(np.float16) if weight.scheme.weight.half_scale else weight.scale
        stored = graph.weights.add(f"{module}.weight_scale", scale)
        return (
            graph.weights.add(f"{module}.weight_quantized", packed),
            # A constant once the file is loaded.
            graph.op("Cast", [stored], to=TENSOR_FLOAT) if scale.dtype == np.float16 else stored,
            "" if points is None else graph.weights.add(f"{module}.weight_zero_point", points),
        )

    def _nbits_node(
        self, graph: Graph, x: str, blocks: tuple[str, str, str], weight: QuantizedWeight, bias: str | None
    ) -> str:
        scheme, (out, width) = weight.scheme.weight, weight.integers.shape
        inputs = [x, *blocks, *([] if bias is None else ["", self.tensor(graph, bias)])]
        level = 4 if self.activations and weight.scheme.activation is not None else 0
        return graph.op(  # type: ignore[no-any-return]
            "MatMulNBits", inputs[: len(inputs) if inputs[-1] else -1], domain=MICROSOFT, K=width, N=out,
            bits=scheme.num_bits, block_size=scheme.group_size, accuracy_level=level,
        )  # fmt: skip

    def _int8_columns(self, graph: Graph, module: str, weight: QuantizedWeight) -> tuple[str, str]:
        """Integers as `(in, out)`, of a convolution `(3 * in, out)`, and one scale a column."""
        scale = graph.weights.add(f"{module}.weight_scale", weight.scale.reshape(-1))
        if weight.multiplier is not None:
            return self._unpacked_columns(graph, module, weight), scale
        return graph.weights.add(f"{module}.weight_quantized", weight.columns()), scale

    def _unpacked_columns(self, graph: Graph, module: str, weight: QuantizedWeight) -> str:
        """8-bit `(integers - zero_point) * multiplier`, `(in, out)`, of a weight that is stored in 4 bits.

        All inputs are constants: ONNX Runtime computes this once, when it loads the file.
        """
        assert weight.zero_point is not None and weight.multiplier is not None
        (out, width), groups = weight.integers.shape, weight.zero_point.shape[1]
        packed = graph.weights.add(f"{module}.weight_quantized", pack_groups(weight.integers, groups))
        points = graph.weights.add(f"{module}.weight_zero_point", pack_groups(weight.zero_point, groups))
        multipliers = graph.weights.add(
            f"{module}.weight_multiplier", pack_halves(weight.multiplier.T.reshape(groups, 1, out))
        )
        one, zero, size = graph.constant(np.float32(1)), graph.constant(np.int8(0)), width // groups
        identity = graph.constant(np.eye(size, dtype=np.int8), f"identity_{size}")
        # Until all layers are loaded, every step's result stays in memory: there are to be few, and none wider than the 8 bits
        # that are wanted. So both halves of the groups are taken out at once, and nothing is shifted down: integers and zero
        # points of the first half stay 16 times as large, multipliers those of the second, and the product with the identity,
        # the only operator that subtracts and multiplies bytes, divides by 16.
        high_then_low = np.array([0xF0, 0x0F], np.uint8).reshape(2, 1, 1, 1)
        taken, other = graph.constant(high_then_low.view(np.int8)), graph.constant(high_then_low[::-1])
        blocks, point = (graph.op("BitwiseAnd", [both, taken]) for both in (packed, points))
        multiplier = graph.op("Cast", [graph.op("BitwiseAnd", [multipliers, other])], to=TENSOR_FLOAT)
        inputs = [identity, graph.constant(np.float32(1 / 16)), zero, blocks, multiplier, point, one, zero]
        columns = graph.op("QLinearMatMul", inputs)
        columns = graph.op("Reshape", [columns, graph.ints(-1, out)])
        if groups % 2:
            columns = graph.op("Slice", [columns, graph.ints(0), graph.ints(width), graph.ints(0)])
        return columns  # type: ignore[no-any-return]

    def _matmul_integer(self, graph: Graph, x: str, columns: tuple[str, str], stride: int | None = None) -> str:
        """The product of `x`, or of its `_windows` where there is a `stride`, and what `_int8_columns` gave."""
        integers, scale = columns
        if not self.activations:
            rows = x if stride is None else self._windows(graph, x, "", stride)
            # Not DequantizeLinear: ONNX Runtime would make an 8-bit MatMulNBits of it, which quantizes activations. And the
            # scale behind the product: before it, a large model would be in memory twice.
            product = graph.op("MatMul", [rows, graph.op("Cast", [integers], to=TENSOR_FLOAT)])
            return graph.op("Mul", [product, scale])  # type: ignore[no-any-return]
        quantized, x_scale, x_point = graph.dynamic_quantize(x)
        rows = quantized if stride is None else self._windows(graph, quantized, x_point, stride)
        product = graph.op("Cast", [graph.op("MatMulInteger", [rows, integers, x_point])], to=TENSOR_FLOAT)
        return graph.op("Mul", [product, graph.op("Mul", [x_scale, scale])])  # type: ignore[no-any-return]

    def stored_rows(self, graph: Graph, module: str, rows: str) -> str:
        """Rows of a table that is stored small, `(len(rows), dim)` in float."""
        graph.at(module)
        weight = self.checkpoint.quantized.get(module)
        if weight is None:
            return graph.op("Gather", [self.tensor(graph, f"{module}.weight"), rows])  # type: ignore[no-any-return]
        integers = graph.weights.add(f"{module}.weight_quantized", weight.integers)
        scale = graph.weights.add(f"{module}.weight_scale", weight.scale)
        picked = graph.op("Cast", [graph.op("Gather", [integers, rows])], to=TENSOR_FLOAT)
        return graph.op("Mul", [picked, graph.op("Gather", [scale, rows])])  # type: ignore[no-any-return]

    def embedding(self, graph: Graph, module: str, ids: str) -> str:
        """Rows of the token embedding, `(batch, length, dim)`."""
        graph.at(module)
        parts = self.checkpoint.parts(module)
        if not parts:
            return graph.op("Gather", [self.tensor(graph, f"{module}.weight"), ids])  # type: ignore[no-any-return]
        if parts[0][1].scheme.operator == "Cast":
            # Not the output layer as well: stored small, computed in float.
            return self.stored_rows(graph, module, ids)
        start, found = 0, None
        for name, weight in parts:
            # Ids of other parts read some row of this one, which is then not taken.
            last = graph.constant(np.int64(len(weight.integers) - 1))
            first = graph.constant(np.int64(start))
            local = (
                graph.op("Clip", [graph.op("Sub", [ids, first]), graph.constant(np.int64(0)), last])
                if len(parts) > 1
                else ids
            )
            rows = self._lookup(graph, name, weight, local)
            if found is None:
                found = rows
            else:
                is_before = graph.op("Unsqueeze", [graph.op("Less", [ids, first]), graph.ints(-1)])
                found = graph.op("Where", [is_before, found, rows])
            start += len(weight.integers)
        assert found is not None
        return found

    def _lookup(self, graph: Graph, name: str, weight: QuantizedWeight, ids: str) -> str:
        assert weight.scheme.operator == "MatMulNBits"
        blocks, scale, points = self._blocks(graph, name, weight)
        out, groups = weight.scale.shape
        # In the shape that the product reads: in another one the largest tensor would be there twice once it is loaded.
        inputs = [blocks, ids, graph.op("Reshape", [scale, graph.ints(out, groups, 1)])]
        if points:
            low = graph.op("BitwiseAnd", [points, graph.constant(np.uint8(15))])
            high = graph.op("BitShift", [points, graph.constant(np.uint8(4))], direction="RIGHT")
            halves = [graph.op("Unsqueeze", [half, graph.ints(-1)]) for half in (low, high)]
            both = graph.op("Reshape", [graph.op("Concat", halves, axis=2), graph.ints(out, -1, 1)])
            inputs.append(graph.op("Slice", [both, graph.ints(0), graph.ints(groups), graph.ints(1)]))
        rows = graph.op(
            "GatherBlockQuantized", inputs, domain=MICROSOFT, bits=weight.scheme.weight.num_bits,
            block_size=weight.scheme.weight.group_size, gather_axis=0, quantize_axis=2,
        )  # fmt: skip
        return graph.op("Reshape", [rows, graph.ints(0, 0, -1)])  # type: ignore[no-any-return]

    def output(self, graph: Graph, embedding: str, x: str) -> str:
        """Logits: the product with the tied embedding, or with `proj_out` where it is not tied."""
        graph.at("proj_out")
        if "proj_out.weight" in self.checkpoint.tensors or "proj_out" in self.checkpoint.quantized:
            return self.linear(graph, "proj_out", x)
        parts = self.checkpoint.parts(embedding)
        if not parts:
            # A Transpose in front of MatMul would be folded at load into a second copy of the largest tensor.
            table = self.tensor(graph, f"{embedding}.weight")
            return graph.op("FusedMatMul", [x, table], domain=MICROSOFT, transB=1)  # type: ignore[no-any-return]
        logits = [self._matmul_nbits(graph, name, x, weight, None) for name, weight in parts]
        return logits[0] if len(logits) == 1 else graph.op("Concat", logits, axis=-1)

    def encoder_positions(self, graph: Graph, module: str, positions: str) -> str:
        """Rows of the encoder's positions, `(len(positions), dim)`: not stored where they are the formula's."""
        table = self.checkpoint.tensors.get(f"{module}.weight")
        if table is None or not are_sinusoids(torch.from_numpy(table)):
            return self.stored_rows(graph, module, positions)
        graph.at(module)
        scales = graph.constant(inverse_timescales(table.shape[1]).numpy(), f"{module}.inverse_timescales")
        # Of constants alone: computed once, when the file is loaded.
        first, end, step = (graph.constant(np.float32(number)) for number in (0, len(table), 1))
        places = graph.op("Unsqueeze", [graph.op("Range", [first, end, step]), graph.ints(1)])
        angles = graph.op("Mul", [places, scales])
        rows = graph.op("Concat", [graph.op("Sin", [angles]), graph.op("Cos", [angles])], axis=-1)
        return graph.op("Gather", [rows, positions])  # type: ignore[no-any-return]

    def gelu(self, graph: Graph, x: str) -> str:
        """The exact (erf) GELU."""
        return graph.op("Gelu", [x], approximate="none")  # type: ignore[no-any-return]

    def split_heads(self, graph: Graph, x: str, heads: int) -> str:
        """`(batch, length, dim)` → `(batch, heads, length, dim / heads)`."""
        width = int(self.checkpoint.config["d_model"]) // heads
        return graph.op("Transpose", [graph.op("Reshape", [x, graph.ints(0, -1, heads, width)])], perm=[0, 2, 1, 3])  # type: ignore[no-any-return]

    def feed_forward(self, graph: Graph, module: str, x: str) -> str:
        """fc2(gelu(fc1(layer_norm(x)))) + x."""
        h = self.layer_norm(graph, f"{module}.final_layer_norm", x)
        h = self.gelu(graph, self.linear(graph, f"{module}.fc1", h))
        return graph.op("Add", [x, self.linear(graph, f"{module}.fc2", h)])  # type: ignore[no-any-return]
