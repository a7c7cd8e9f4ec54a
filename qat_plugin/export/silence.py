"""Folding silence inside the encoder's graph: `EncoderContext.fold` as ONNX nodes.

Every client that pads clips to 30 s, as all do, gets the short context without knowing of it. Two things are optional, as
inputs with a default value, which clients need not give:

* encoder, `silence_stride` int64 `(1,)`: 1 computes the whole window;
* decoder, `encoder_attention_bias` float `(1,)` or `(positions,)`: the encoder's second output. Without it the
  cross-attention takes each folded position for one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from qat_plugin.encoder_context import EncoderContext
from qat_plugin.export.graph import Graph

STRIDE_INPUT, BIAS_NAME = "silence_stride", "encoder_attention_bias"
INT64, FLOAT = TensorProto.INT64, TensorProto.FLOAT


@dataclass(frozen=True)
class FoldedInput:
    """Names of tensors: features `(batch, mels, 2 * kept)`, positions and bias `(kept,)`, whether any is left out."""

    features: str
    positions: str
    bias: str
    is_folded: str


def fold_silence(graph: Graph, features: str, context: EncoderContext, *, default_stride: int) -> FoldedInput:
    """Add the nodes that find the clip's end and pick the positions to compute."""
    graph.at("silence")
    stride = graph.weights.add(STRIDE_INPUT, np.array([default_stride], np.int64))
    zero, one, two = (graph.constant(np.int64(value)) for value in (0, 1, 2))
    frames = graph.op("Squeeze", [graph.op("Shape", [features], start=2, end=3)])
    total = graph.op("Div", [frames, two])
    floor = graph.op("ReduceMin", [features, graph.ints(1, 2)], keepdims=1)
    loudest = graph.op("ReduceMax", [features, graph.ints(1)], keepdims=1)
    numbers = graph.op("Range", [one, graph.op("Add", [frames, one]), one])
    heard = graph.op("Where", [graph.op("Greater", [loudest, floor]), numbers, zero])
    last = graph.op("ReduceMax", [heard], keepdims=0)
    clip = graph.op("Div", [graph.op("Add", [last, one]), two])
    start = graph.op("Add", [clip, graph.constant(np.int64(context.margin))])
    end = graph.op("Sub", [total, graph.constant(np.int64(context.tail))])
    places = graph.op("Range", [zero, total, one])
    is_silence = graph.op("And", [graph.op("GreaterOrEqual", [places, start]), graph.op("Less", [places, end])])
    phase = graph.op("Mod", [graph.op("Sub", [places, start]), stride])
    is_picked = graph.op("And", [is_silence, graph.op("Equal", [phase, graph.op("Div", [stride, two])])])
    silent, picked = (
        graph.op("ReduceSum", [graph.op("Cast", [chosen], to=FLOAT)], keepdims=0) for chosen in (is_silence, is_picked)
    )
    # Silence too short for the stride stays as it is.
    nothing = graph.op("Equal", [picked, graph.constant(np.float32(0))])
    is_kept = graph.op("Or", [graph.op("Or", [graph.op("Not", [is_silence]), is_picked]), nothing])
    positions = graph.op("Squeeze", [graph.op("NonZero", [is_kept]), graph.ints(0)])
    stands_for = graph.op("Where", [nothing, graph.constant(np.float32(1)), graph.op("Div", [silent, picked])])
    gain = graph.op("Where", [is_picked, graph.op("Log", [stands_for]), graph.constant(np.float32(0))])
    bias = graph.op("Gather", [gain, positions], outputs=[BIAS_NAME])
    pairs = [
        graph.op("Unsqueeze", [frame, graph.ints(1)])
        for even in [graph.op("Mul", [positions, two])]
        for frame in (even, graph.op("Add", [even, one]))
    ]
    picked = graph.op("Reshape", [graph.op("Concat", pairs, axis=1), graph.ints(-1)])
    kept = graph.op("Squeeze", [graph.op("Shape", [positions])])
    return FoldedInput(graph.op("Gather", [features, picked], axis=2), positions, bias, graph.op("Less", [kept, total]))
