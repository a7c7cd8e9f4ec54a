"""A thin layer over `onnx.helper` that collects nodes and initializers under readable names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

OPSET = 21
IR_VERSION = 10
MICROSOFT = "com.microsoft"

Array = NDArray[Any]


class Weights:
    """Initializers by name; the same name is stored once, however often it is used."""

    def __init__(self) -> None:
        self.tensors: dict[str, TensorProto] = {}

    def add(self, name: str, array: Array) -> str:
        """Store `array` as `name` unless it is there; returns `name`."""
        if name not in self.tensors:
            self.tensors[name] = numpy_helper.from_array(array, name)
        return name


class Graph:
    """Nodes of one graph, or of one branch of an `If`, over shared weights."""

    def __init__(self, weights: Weights, prefix: str = "") -> None:
        self.weights = weights
        self.nodes: list[NodeProto] = []
        self.prefix = prefix
        self._counts: dict[str, int] = {}
        self._quantized: dict[str, tuple[str, str, str]] = {}

    def op(
        self,
        kind: str,
        inputs: Sequence[str],
        *,
        outputs: Sequence[str] = (),
        count: int = 1,
        domain: str = "",
        **attributes: Any,
    ) -> Any:
        """Add a node; returns the name of its output, or the tuple of names when there are several."""
        stem = f"{self.prefix}/{kind}"
        number = self._counts.get(stem, 0)
        self._counts[stem] = number + 1
        name = f"{stem}_{number}" if number else stem
        names = list(outputs) or [f"{name}_output_{i}" for i in range(count)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, name=name, domain=domain, **attributes))
        return names[0] if len(names) == 1 else tuple(names)

    def at(self, scope: str) -> Graph:
        """The same graph, naming what comes next after the module `scope`."""
        self.prefix = scope
        return self

    def constant(self, value: Array, name: str | None = None) -> str:
        """A small constant; equal values of one type share an initializer."""
        array = np.asarray(value)
        label = (
            name
            or f"constant_{array.dtype}_{'x'.join(map(str, array.shape))}_{'_'.join(str(v) for v in array.reshape(-1)[:8])}"
        )
        return self.weights.add(label, array)

    def ints(self, *values: int) -> str:
        """A one-dimensional int64 constant."""
        return self.constant(np.array(values, np.int64))

    def dynamic_quantize(self, x: str) -> tuple[str, str, str]:
        """`DynamicQuantizeLinear` of `x`, once however many layers read it: integers, scale, zero point."""
        if x not in self._quantized:
            self._quantized[x] = self.op("DynamicQuantizeLinear", [x], count=3)
        return self._quantized[x]

    def branch(self, name: str, outputs: Sequence[str]) -> GraphProto:
        """This graph as a branch of an `If`, with float outputs. Names become unique across branches and what is around."""
        infos = [helper.make_tensor_value_info(output, TensorProto.FLOAT, None) for output in outputs]
        proto = helper.make_graph(self.nodes, name, [], infos)
        inner = {output for node in proto.node for output in node.output}
        for node in proto.node:
            node.name = f"{name}:{node.name}"
            node.input[:] = [f"{name}:{x}" if x in inner else x for x in node.input]
            node.output[:] = [f"{name}:{x}" for x in node.output]
        for info in proto.output:
            info.name = f"{name}:{info.name}"
        return proto
