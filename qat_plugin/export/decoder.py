"""The merged decoder: one graph for the first call, which has no cache, and all later ones.

`use_cache_branch` chooses. What would differ between two graphs are only the past of the self-attention, which is cut
to nothing where there is none, and the keys and values of the cross-attention, which a small `If` per layer computes from
the encoder's states or takes from the cache without copying them. So every weight, and every buffer that ONNX Runtime
makes of one, exists once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, ValueInfoProto, helper

from qat_plugin.encoder_context import EncoderContext
from qat_plugin.export.graph import MICROSOFT, Graph, Weights
from qat_plugin.export.layers import Layers
from qat_plugin.export.model import make_model
from qat_plugin.export.silence import attention_bias
from qat_plugin.fake_quant.checkpoint import QuantizedCheckpoint

EMBEDDING = "model.decoder.embed_tokens"
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def build_decoder(checkpoint: QuantizedCheckpoint, *, activations: bool = True) -> ModelProto:
    """Optimum's merged decoder: its input and output names, and the empty encoder presents of its cached calls."""
    config, layers = checkpoint.config, Layers(checkpoint, activations=activations)
    graph = Graph(Weights())
    count, heads = config["decoder_layers"], config["decoder_attention_heads"]
    past_end, positions = _prepare(graph)
    source = _prepare_source(graph, config)
    x = layers.embedding(graph, EMBEDDING, "input_ids")
    x = graph.op("Add", [x, layers.stored_rows(graph, "model.decoder.embed_positions", positions)])
    for i in range(count):
        module, attention = f"model.decoder.layers.{i}", f"model.decoder.layers.{i}.self_attn"
        h = layers.layer_norm(graph, f"{module}.self_attn_layer_norm", x)
        inputs = [layers.linear(graph, f"{attention}.{name}_proj", h) for name in "qkv"]
        graph.at(attention)
        names = [f"{i}.decoder.{part}" for part in ("key", "value")]
        past = [
            graph.op("Slice", [f"past_key_values.{name}", graph.ints(0), past_end, graph.ints(2)]) for name in names
        ]
        mixed, *_ = graph.op(
            "MultiHeadAttention", [*inputs, "", "", "", *past], domain=MICROSOFT, num_heads=heads, unidirectional=1,
            outputs=[f"{attention}/attention", *(f"present.{name}" for name in names)],
        )  # fmt: skip
        x = graph.op("Add", [x, layers.linear(graph, f"{attention}.out_proj", mixed)])
        x = graph.op("Add", [x, _cross_attention(graph, layers, i, x, heads, source)])
        x = layers.feed_forward(graph, module, x)
    x = layers.layer_norm(graph, "model.decoder.layer_norm", x)
    logits = layers.output(graph, EMBEDDING, x)
    graph.at("").op("Identity", [logits], outputs=["logits"])
    return make_model("decoder", graph, *_interface(config))


def _prepare(graph: Graph) -> tuple[str, str]:
    """End of the past on its axis (none: 0), positions of the tokens `(length,)`."""
    graph.at("model.decoder")
    cached = graph.op("Cast", ["use_cache_branch"], to=INT64)
    past_end = graph.op("Mul", [cached, graph.ints(np.iinfo(np.int64).max)])
    stored = graph.op("Shape", ["past_key_values.0.decoder.key"], start=2, end=3)
    past_length = graph.op("Mul", [stored, cached])
    length = graph.op("Squeeze", [graph.op("Shape", ["input_ids"], start=1, end=2)])
    numbers = graph.op("Range", [graph.constant(np.int64(0)), length, graph.constant(np.int64(1))])
    # Of a Gather by a Range alone ONNX Runtime makes a Slice, which does not refuse positions beyond the table.
    return past_end, graph.op("Add", [numbers, past_length])


@dataclass(frozen=True)
class Source:
    """Names of what all cross-attentions need.

    Attributes:
        by_clip: the shape of the queries, `(clips, queries, heads, width)`: keys and values are there once for each clip,
            and read once for all of its beams.
        by_row: the shape of what they find, `(batch, length, dim)`.
        bias: `(source length,)`.
    """

    by_clip: str
    by_row: str
    bias: str


def _prepare_source(graph: Graph, config: dict[str, Any]) -> Source:
    """The source is the cache's once there is one."""
    graph.at("silence")

    def size(cached_axis: int, axis: int) -> str:
        sizes = (
            graph.op("Shape", [source], start=at, end=at + 1)
            for source, at in (("past_key_values.0.encoder.key", cached_axis), ("encoder_hidden_states", axis))
        )
        return graph.op("Where", ["use_cache_branch", *sizes])  # type: ignore[no-any-return]

    clips, length = size(0, 0), graph.op("Squeeze", [size(2, 1)])
    context = EncoderContext(**(config.get("encoder_context") or {}))
    bias = attention_bias(graph, length, context, config["max_source_positions"])
    dim, heads = config["d_model"], config["decoder_attention_heads"]
    return Source(
        by_clip=graph.op("Concat", [clips, graph.ints(-1, heads, dim // heads)], axis=0),
        by_row=graph.op("Concat", [graph.op("Shape", ["input_ids"]), graph.ints(dim)], axis=0),
        bias=bias,
    )


def _cross_attention(graph: Graph, layers: Layers, i: int, x: str, heads: int, source: Source) -> str:
    """Not as one operator, which takes half as long again where there is one query."""
    module = f"model.decoder.layers.{i}.encoder_attn"
    h = layers.layer_norm(graph, f"{module}_layer_norm", x)
    q = graph.op("Reshape", [layers.linear(graph, f"{module}.q_proj", h), source.by_clip])
    width = int(layers.checkpoint.config["d_model"]) // heads
    # Here and not in the product, which ONNX Runtime computes twice as fast for one query when it does not scale.
    q = graph.op("Mul", [q, graph.constant(np.float32(width**-0.5))])
    q = graph.op("Transpose", [q], perm=[0, 2, 1, 3])

    def attend(branch: Graph, key: str, value: str) -> str:
        branch.at(module)
        scores = branch.op("FusedMatMul", [q, key], domain=MICROSOFT, transB=1)
        weights = branch.op("Softmax", [branch.op("Add", [scores, source.bias])], axis=-1)
        return branch.op("MatMul", [weights, value])  # type: ignore[no-any-return]

    cached, first = Graph(graph.weights), Graph(graph.weights)
    empty = helper.make_tensor("empty", FLOAT, [0, heads, 0, width], [])
    outputs = [attend(cached, *(f"past_key_values.{i}.encoder.{part}" for part in ("key", "value")))]
    outputs += [cached.op("Constant", [], value=empty) for _ in range(2)]
    key, value = (
        layers.split_heads(first, layers.linear(first, f"{module}.{part}_proj", "encoder_hidden_states"), heads)
        for part in "kv"
    )
    branches: dict[str, Any] = {
        "then_branch": cached.branch("cached", outputs),
        "else_branch": first.branch("first", [attend(first, key, value), key, value]),
    }
    presents = [f"present.{i}.encoder.{part}" for part in ("key", "value")]
    graph.at(module)
    mixed, *_ = graph.op("If", ["use_cache_branch"], outputs=[f"{module}/attention", *presents], **branches)
    merged = graph.op("Transpose", [mixed], perm=[0, 2, 1, 3])
    return layers.linear(graph, f"{module}.out_proj", graph.op("Reshape", [merged, source.by_row]))


def _interface(config: dict[str, Any]) -> tuple[list[ValueInfoProto], list[ValueInfoProto]]:
    heads = config["decoder_attention_heads"]
    width = config["d_model"] // heads

    def info(name: str, kind: int, shape: list[str | int]) -> ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, shape)

    inputs = [
        info("input_ids", INT64, ["batch_size", "decoder_sequence_length"]),
        info("encoder_hidden_states", FLOAT, ["batch_size", "encoder_sequence_length", config["d_model"]]),
    ]
    outputs = [info("logits", FLOAT, ["batch_size", "decoder_sequence_length", config["vocab_size"]])]
    for i in range(config["decoder_layers"]):
        for side in ("decoder", "encoder"):
            for part in ("key", "value"):
                past, present = f"past_{side}_sequence_length", f"present_{side}_sequence_length"
                batch = "batch_size" if side == "decoder" else "encoder_cache_batch_size"
                inputs.append(info(f"past_key_values.{i}.{side}.{part}", FLOAT, ["batch_size", heads, past, width]))
                outputs.append(info(f"present.{i}.{side}.{part}", FLOAT, [batch, heads, present, width]))
    return [*inputs, info("use_cache_branch", TensorProto.BOOL, [1])], outputs
