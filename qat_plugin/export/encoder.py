"""The encoder as one ONNX graph."""

from __future__ import annotations

from onnx import ModelProto, TensorProto, helper

from qat_plugin.export.graph import MICROSOFT, Graph, Weights
from qat_plugin.export.layers import Layers
from qat_plugin.export.model import make_model
from qat_plugin.fake_quant.checkpoint import QuantizedCheckpoint


def build_encoder(checkpoint: QuantizedCheckpoint, *, activations: bool = True) -> ModelProto:
    """`input_features (batch, mels, 2 * positions)` → `last_hidden_state (batch, positions, dim)`."""
    config, layers = checkpoint.config, Layers(checkpoint, activations=activations)
    graph = Graph(Weights())
    dim, mels, heads = config["d_model"], config["num_mel_bins"], config["encoder_attention_heads"]
    x = "input_features"
    for name, channels, stride in (("conv1", mels, 1), ("conv2", dim, 2)):
        module = f"model.encoder.{name}"
        weight = layers.stored(graph, module, (dim, channels, 3))
        bias = layers.tensor(graph, f"{module}.bias")
        x = graph.op("Conv", [x, weight, bias], kernel_shape=[3], pads=[1, 1], strides=[stride])
        x = layers.gelu(graph, x)
    x = graph.op("Transpose", [x], perm=[0, 2, 1])
    positions = layers.stored(graph, "model.encoder.embed_positions", (config["max_source_positions"], dim))
    x = graph.op("Add", [x, positions])
    for i in range(config["encoder_layers"]):
        module = f"model.encoder.layers.{i}"
        attention = f"{module}.self_attn"
        h = layers.layer_norm(graph, f"{module}.self_attn_layer_norm", x)
        inputs = [layers.linear(graph, f"{attention}.{name}_proj", h) for name in "qkv"]
        graph.at(attention)
        # One operator without the length x length matrix in memory; it scales by head_dim ** -0.5 itself.
        h = graph.op("MultiHeadAttention", inputs, domain=MICROSOFT, num_heads=heads)
        h = layers.linear(graph, f"{attention}.out_proj", h)
        x = layers.feed_forward(graph, module, graph.op("Add", [x, h]))
    graph.at("model.encoder.layer_norm")
    norm = [layers.tensor(graph, f"model.encoder.layer_norm.{part}") for part in ("weight", "bias")]
    graph.op("LayerNormalization", [x, *norm], outputs=["last_hidden_state"], axis=-1, epsilon=1e-5)
    source = config["max_source_positions"]
    return make_model(
        "encoder",
        graph,
        [helper.make_tensor_value_info("input_features", TensorProto.FLOAT, ["batch_size", mels, 2 * source])],
        [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["batch_size", source, dim])],
    )
