"""The merged decoder: one graph for the first call, which has no cache, and all later ones.

`use_cache_branch` chooses. What would differ between two graphs are only the past of the self-attention, which is cut
to nothing where there is none, and the keys and values of the cross-attention, which a small `If` per layer computes from
the encoder's states or takes from the cache without copying them. So every weight, and every buffer that ONNX Runtime
makes of one, exists once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, ValueInfoProto, helper

from qat_plugin.encoder_context import EncoderContext
from qat_plugin.export.graph import Graph, Weights
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
    past_end, mask, positions = _prepare(graph)
    bias = _bias_of_silence(graph, config)
    x = layers.embedding(graph, EMBEDDING, "input_ids")
    x = graph.op("Add", [x, layers.stored_rows(graph, "model.decoder.embed_positions", positions)])
    for i in range(count):
        module, attention = f"model.decoder.layers.{i}", f"model.decoder.layers.{i}.self_attn"
        h = layers.layer_norm(graph, f"{module}.self_attn_layer_norm", x)
        q = layers.query(graph, attention, h, heads)
        present = []
        for part in ("key", "value"):
            new = layers.split_heads(graph, layers.linear(graph, f"{attention}.{part[0]}_proj", h), heads)
            past = f"past_key_values.{i}.decoder.{part}"
            kept = graph.op("Slice", [past, graph.ints(0), past_end, graph.ints(2)])
            present.append(graph.op("Concat", [kept, new], outputs=[f"present.{i}.decoder.{part}"], axis=2))
        h = layers.linear(
            graph, f"{attention}.out_proj", layers.attend(graph, attention, q, present[0], present[1], mask)
        )
        x = graph.op("Add", [x, h])
        x = graph.op("Add", [x, _cross_attention(graph, layers, i, x, heads, bias)])
        x = layers.feed_forward(graph, module, x)
    x = layers.layer_norm(graph, "model.decoder.layer_norm", x)
    logits = layers.output(graph, EMBEDDING, x)
    graph.at("").op("Identity", [logits], outputs=["logits"])
    return make_model("decoder", graph, *_interface(config))


def _prepare(graph: Graph) -> tuple[str, str, str]:
    """End of the past on its axis (none: 0), additive causal mask `(length, past + length)`, positions `(length,)`."""
    graph.at("model.decoder")
    cached = graph.op("Cast", ["use_cache_branch"], to=INT64)
    past_end = graph.op("Mul", [cached, graph.ints(np.iinfo(np.int64).max)])
    stored = graph.op("Shape", ["past_key_values.0.decoder.key"], start=2, end=3)
    past_length = graph.op("Mul", [stored, cached])
    length = graph.op("Shape", ["input_ids"], start=1, end=2)
    axis = graph.ints(0)
    start, total = (
        graph.op("Squeeze", [past_length, axis]),
        graph.op("Squeeze", [graph.op("Add", [past_length, length]), axis]),
    )
    one = graph.constant(np.int64(1))
    positions = graph.op("Range", [start, total, one])
    columns = graph.op("Range", [graph.constant(np.int64(0)), total, one])
    seen = graph.op("LessOrEqual", [columns, graph.op("Unsqueeze", [positions, graph.ints(1)])])
    lowest = graph.constant(np.float32(np.finfo(np.float32).min))
    mask = graph.op("Where", [seen, graph.constant(np.float32(0)), lowest])
    return past_end, mask, positions


def _bias_of_silence(graph: Graph, config: dict[str, Any]) -> str:
    """Bias of the cross-attention, `(source length,)`; the source is the cache's once there is one."""
    graph.at("silence")
    lengths = (
        graph.op("Squeeze", [graph.op("Shape", [source], start=axis, end=axis + 1)])
        for source, axis in (("past_key_values.0.encoder.key", 2), ("encoder_hidden_states", 1))
    )
    length = graph.op("Where", [graph.op("Squeeze", ["use_cache_branch"]), *lengths])
    context = EncoderContext(**(config.get("encoder_context") or {}))
    return attention_bias(graph, length, context, config["max_source_positions"])


def _cross_attention(graph: Graph, layers: Layers, i: int, x: str, heads: int, bias: str) -> str:
    module = f"model.decoder.layers.{i}.encoder_attn"
    h = layers.layer_norm(graph, f"{module}_layer_norm", x)
    q = layers.query(graph, module, h, heads)
    width = int(layers.checkpoint.config["d_model"]) // heads
    names = [f"past_key_values.{i}.encoder.{part}" for part in ("key", "value")]
    cached = Graph(graph.weights)
    outputs = [cached.op("Identity", [layers.attend(cached, module, q, names[0], names[1], bias)])]
    cached.at(module)
    empty = helper.make_tensor("empty", FLOAT, [0, heads, 0, width], [])
    outputs += [cached.op("Constant", [], value=empty) for _ in names]
    first = Graph(graph.weights)
    key, value = (
        layers.split_heads(first, layers.linear(first, f"{module}.{part}_proj", "encoder_hidden_states"), heads)
        for part in "kv"
    )
    computed = [layers.attend(first, module, q, key, value, bias), key, value]
    branches: dict[str, Any] = {
        "then_branch": cached.branch("cached", outputs),
        "else_branch": first.branch("first", computed),
    }
    presents = [f"present.{i}.encoder.{part}" for part in ("key", "value")]
    graph.at(module)
    mixed, *_ = graph.op("If", ["use_cache_branch"], outputs=[f"{module}/attention", *presents], **branches)
    return layers.linear(graph, f"{module}.out_proj", mixed)


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
