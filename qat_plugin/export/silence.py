"""Folding silence inside the graphs: `EncoderContext.fold` as ONNX nodes.

Every client that pads clips to 30 s, as all do, gets the short context without knowing of it. The encoder has an input with
a default value, which clients need not give: `silence_stride` int64 `(1,)`, where 1 computes the whole window. The decoder
sees from the number of the encoder's states which of them stand for how many.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from qat_plugin.encoder_context import EncoderContext
from qat_plugin.export.graph import Graph

STRIDE_INPUT = "silence_stride"
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
    # No two starts may leave the same number of positions: see `attention_bias`.
    scalar = graph.op("Squeeze", [stride])
    first = graph.op("Add", [start, graph.op("Div", [scalar, two])])
    is_twin = graph.op("Equal", [graph.op("Mod", [graph.op("Sub", [end, first]), scalar]), zero])
    start = graph.op("Add", [start, graph.op("Cast", [is_twin], to=INT64)])
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
    bias = graph.op("Gather", [gain, positions])
    pairs = [
        graph.op("Unsqueeze", [frame, graph.ints(1)])
        for even in [graph.op("Mul", [positions, two])]
        for frame in (even, graph.op("Add", [even, one]))
    ]
    picked = graph.op("Reshape", [graph.op("Concat", pairs, axis=1), graph.ints(-1)])
    is_folded = graph.op("Less", [graph.op("Squeeze", [graph.op("Shape", [positions])]), total])
    # A whole window is copied at once, and not frame by frame.
    kept = where_folded(
        graph,
        is_folded,
        lambda branch: branch.op("Gather", [features, picked], axis=2),
        lambda branch: branch.op("Identity", [features]),
    )
    return FoldedInput(kept, positions, bias, is_folded)


def where_folded(graph: Graph, is_folded: str, folded: Callable[[Graph], str], whole: Callable[[Graph], str]) -> str:
    """What `folded` adds to a branch where silence is left out, otherwise what `whole` does; both give one float tensor."""
    # Names that tell the layer: a profile adds up what has one name.
    then, otherwise = (Graph(graph.weights, graph.prefix) for _ in range(2))
    return graph.op(  # type: ignore[no-any-return]
        "If",
        [is_folded],
        then_branch=then.branch("folded", [folded(then)]),
        else_branch=otherwise.branch("whole", [whole(otherwise)]),
    )


def attention_bias(graph: Graph, length: str, context: EncoderContext, window: int) -> str:
    """What a decoder adds to its scores of attention to `length` (int64 scalar) states of an encoder: float `(length,)`.

    Of a window of `window` positions, `start` are whole, then `n = floor(u / stride)` are folded with
    `u = window - tail - stride // 2 + stride - 1 - start`, and `tail` are whole again. So
    `u - n = window - stride // 2 + stride - 1 - length`, and since `u` is never `stride - 1` modulo `stride`,
    `n = floor((u - n) / (stride - 1))`. All positions: `n` is 0.
    """
    graph.at("silence")
    one = graph.constant(np.int64(1))
    most = graph.constant(np.int64(window - context.stride // 2 + context.stride - 1))
    count = graph.op("Div", [graph.op("Sub", [most, length]), graph.constant(np.int64(context.stride - 1))])
    stop = graph.op("Sub", [length, graph.constant(np.int64(context.tail))])
    start = graph.op("Sub", [stop, count])
    silent = graph.op("Sub", [graph.constant(np.int64(window - context.tail)), start])
    share = graph.op(
        "Div", [graph.op("Cast", [amount], to=FLOAT) for amount in (silent, graph.op("Max", [count, one]))]
    )
    places = graph.op("Range", [graph.constant(np.int64(0)), length, one])
    is_folded = graph.op("And", [graph.op("GreaterOrEqual", [places, start]), graph.op("Less", [places, stop])])
    # Without any folded position, none is between start and stop.
    return graph.op("Where", [is_folded, graph.op("Log", [share]), graph.constant(np.float32(0))])  # type: ignore[no-any-return]
