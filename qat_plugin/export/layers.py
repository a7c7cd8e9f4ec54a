"""The layers of Whisper as ONNX nodes, each by the scheme of its weight."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qat_plugin.errors import ExportError
from qat_plugin.export.graph import MICROSOFT, Graph
from qat_plugin.export.packing import pack_matmul_nbits
from qat_plugin.fake_quant.checkpoint import QuantizedCheckpoint, QuantizedWeight

TENSOR_FLOAT = 1


class Layers:
    """Writes layers of `checkpoint` into graphs.

    `activations=False` writes the weight-only arithmetic: MatMulNBits at accuracy level 0, and DequantizeLinear with a
    float product instead of MatMulInteger.
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
            y = self._matmul_integer(graph, x, weight, self._int8_columns(graph, module, weight))
        else:
            array = self._array(f"{module}.weight")
            y = graph.op("MatMul", [x, graph.weights.add(f"{module}.weight_transposed", array.T)])
        return y if bias is None else graph.op("Add", [y, self.tensor(graph, bias)])

    def _matmul_nbits(self, graph: Graph, module: str, x: str, weight: QuantizedWeight, bias: str | None) -> str:
        assert weight.zero_point is not None and weight.scheme.weight.group_size is not None
        size = weight.scheme.weight.group_size
        packed, points = pack_matmul_nbits(weight.integers, weight.zero_point, size)
        inputs = [
            x,
            graph.weights.add(f"{module}.weight_quantized", packed),
            graph.weights.add(f"{module}.weight_scale", weight.scale.reshape(-1)),
            graph.weights.add(f"{module}.weight_zero_point", points.reshape(-1)),
        ]
        return self._nbits_node(graph, inputs, weight, size, bias)

    def _nbits_node(self, graph: Graph, inputs: list[str], weight: QuantizedWeight, size: int, bias: str | None) -> str:
        if bias is not None:
            inputs = [*inputs, "", self.tensor(graph, bias)]
        out, width = weight.integers.shape
        level = 4 if self.activations and weight.scheme.activation is not None else 0
        return graph.op(  # type: ignore[no-any-return]
            "MatMulNBits", inputs, domain=MICROSOFT, K=width, N=out, bits=4, block_size=size, accuracy_level=level
        )

    def _int8_columns(self, graph: Graph, module: str, weight: QuantizedWeight) -> tuple[str, str]:
        """Integers as `(in, out)` and one scale a column."""
        return (
            graph.weights.add(f"{module}.weight_quantized", weight.integers.T),
            graph.weights.add(f"{module}.weight_scale", weight.scale.reshape(-1)),
        )

    def _matmul_integer(self, graph: Graph, x: str, weight: QuantizedWeight, columns: tuple[str, str]) -> str:
        integers, scale = columns
        if not self.activations:
            # Not DequantizeLinear: ONNX Runtime would make an 8-bit MatMulNBits of it, which quantizes activations.
            floats = graph.op("Mul", [graph.op("Cast", [integers], to=TENSOR_FLOAT), scale])
            return graph.op("MatMul", [x, floats])  # type: ignore[no-any-return]
        quantized, x_scale, x_point = graph.dynamic_quantize(x)
        product = graph.op("Cast", [graph.op("MatMulInteger", [quantized, integers, x_point])], to=TENSOR_FLOAT)
        return graph.op("Mul", [product, graph.op("Mul", [x_scale, scale])])  # type: ignore[no-any-return]

    def stored(self, graph: Graph, module: str, shape: tuple[int, ...]) -> str:
        """A weight that is stored small and computed in float, as a float tensor of `shape`."""
        graph.at(module)
        weight = self.checkpoint.quantized.get(module)
        if weight is None:
            return self.tensor(graph, f"{module}.weight")
        integers = graph.weights.add(f"{module}.weight_quantized", weight.integers.reshape(shape))
        scale = graph.weights.add(f"{module}.weight_scale", weight.scale.reshape(-1))
        return graph.op("DequantizeLinear", [integers, scale], axis=0)  # type: ignore[no-any-return]

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
        weight = self.checkpoint.quantized.get(module)
        if weight is None:
            return graph.op("Gather", [self.tensor(graph, f"{module}.weight"), ids])  # type: ignore[no-any-return]
        if weight.scheme.operator == "MatMulNBits":
            packed, scale, points, size = self._embedding_blocks(graph, module, weight)
            return graph.op(  # type: ignore[no-any-return]
                "GatherBlockQuantized", [packed, ids, scale, points], domain=MICROSOFT, bits=4, block_size=size,
                gather_axis=0, quantize_axis=1,
            )  # fmt: skip
        integers, scale = self._int8_columns(graph, module, weight)
        # Stored as (dim, vocabulary), the layout of the product: columns are gathered, then moved last.
        columns = graph.op("Cast", [graph.op("Gather", [integers, ids], axis=1)], to=TENSOR_FLOAT)
        rows = graph.op("Transpose", [columns], perm=[1, 2, 0])
        return graph.op("Mul", [rows, graph.op("Unsqueeze", [graph.op("Gather", [scale, ids]), graph.ints(-1)])])  # type: ignore[no-any-return]

    def _embedding_blocks(self, graph: Graph, module: str, weight: QuantizedWeight) -> tuple[str, str, str, int]:
        """One copy for lookup and product: packed `(rows, dim / 2)`, scales and zero points `(rows, groups)`."""
        assert weight.zero_point is not None and weight.scheme.weight.group_size is not None
        size = weight.scheme.weight.group_size
        packed, points = pack_matmul_nbits(weight.integers, weight.zero_point, size)
        return (
            graph.weights.add(f"{module}.weight_quantized", packed.reshape(packed.shape[0], -1)),
            graph.weights.add(f"{module}.weight_scale", weight.scale),
            graph.weights.add(f"{module}.weight_zero_point", points),
            size,
        )

    def output(self, graph: Graph, embedding: str, x: str) -> str:
        """Logits: the product with the tied embedding, or with `proj_out` where it is not tied."""
        graph.at("proj_out")
        if "proj_out.weight" in self.checkpoint.tensors or "proj_out" in self.checkpoint.quantized:
            return self.linear(graph, "proj_out", x)
        weight = self.checkpoint.quantized.get(embedding)
        if weight is None:
            # A Transpose in front of MatMul would be folded at load into a second copy of the largest tensor.
            table = self.tensor(graph, f"{embedding}.weight")
            return graph.op("FusedMatMul", [x, table], domain=MICROSOFT, transB=1)  # type: ignore[no-any-return]
        if weight.scheme.operator == "MatMulNBits":
            packed, scale, points, size = self._embedding_blocks(graph, embedding, weight)
            out, width = weight.integers.shape
            blocks = graph.op("Reshape", [packed, graph.ints(out, width // size, size // 2)])
            inputs = [
                blocks,
                graph.op("Reshape", [scale, graph.ints(-1)]),
                graph.op("Reshape", [points, graph.ints(-1)]),
            ]
            return self._nbits_node(graph, [x, *inputs], weight, size, None)
        return self._matmul_integer(graph, x, weight, self._int8_columns(graph, embedding, weight))

    def gelu(self, graph: Graph, x: str) -> str:
        """The exact (erf) GELU."""
        return graph.op("Gelu", [x], approximate="none")  # type: ignore[no-any-return]

    def split_heads(self, graph: Graph, x: str, heads: int) -> str:
        """`(batch, length, dim)` → `(batch, heads, length, dim / heads)`."""
        width = int(self.checkpoint.config["d_model"]) // heads
        return graph.op("Transpose", [graph.op("Reshape", [x, graph.ints(0, -1, heads, width)])], perm=[0, 2, 1, 3])  # type: ignore[no-any-return]

    def query(self, graph: Graph, module: str, x: str, heads: int) -> str:
        """Scaled queries, split into heads."""
        scaling = (int(self.checkpoint.config["d_model"]) // heads) ** -0.5
        q = self.linear(graph, f"{module}.q_proj", x)
        return self.split_heads(graph, graph.op("Mul", [q, graph.constant(np.float32(scaling))]), heads)

    def attend(self, graph: Graph, module: str, q: str, k: str, v: str, mask: str | None = None) -> str:
        """Softmax attention in float; all `(batch, heads, length, width)`, result `(batch, length, dim)`."""
        graph.at(module)
        scores = graph.op("MatMul", [q, graph.op("Transpose", [k], perm=[0, 1, 3, 2])])
        if mask is not None:
            scores = graph.op("Add", [scores, mask])
        mixed = graph.op("MatMul", [graph.op("Softmax", [scores], axis=-1), v])
        merged = graph.op("Transpose", [mixed], perm=[0, 2, 1, 3])
        return graph.op("Reshape", [merged, graph.ints(0, -1, int(self.checkpoint.config["d_model"]))])  # type: ignore[no-any-return]

    def feed_forward(self, graph: Graph, module: str, x: str) -> str:
        """fc2(gelu(fc1(layer_norm(x)))) + x."""
        h = self.layer_norm(graph, f"{module}.final_layer_norm", x)
        h = self.gelu(graph, self.linear(graph, f"{module}.fc1", h))
        return graph.op("Add", [x, self.linear(graph, f"{module}.fc2", h)])  # type: ignore[no-any-return]
