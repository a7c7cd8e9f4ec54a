"""The encoder as one ONNX graph."""

from __future__ import annotations

from onnx import ModelProto, helper

from qat_plugin.encoder_context import EncoderContext
from qat_plugin.export.graph import MICROSOFT, Graph, Weights
from qat_plugin.export.layers import Layers
from qat_plugin.export.model import make_model
from qat_plugin.export.silence import FLOAT, INT64, STRIDE_INPUT, FoldedInput, fold_silence, where_folded
from qat_plugin.fake_quant.checkpoint import QuantizedCheckpoint


def build_encoder(checkpoint: QuantizedCheckpoint, *, activations: bool = True) -> ModelProto:
    """`input_features (batch, mels, frames)`, a whole window → `last_hidden_state (batch, kept, dim)`.

    Silence behind the clip is folded where the checkpoint's config has an "encoder_context", or where a `silence_stride` is
    given; otherwise `kept` is `frames / 2`. See `silence`.
    """
    config, layers = checkpoint.config, Layers(checkpoint, activations=activations)
    graph = Graph(Weights())
    dim, mels, heads = config["d_model"], config["num_mel_bins"], config["encoder_attention_heads"]
    trained = config.get("encoder_context")
    context = EncoderContext(**(trained or {}))
    folded = fold_silence(graph, "input_features", context, default_stride=context.stride if trained else 1)
    graph.at("model.encoder.conv1")
    x = graph.op("Transpose", [folded.features], perm=[0, 2, 1])
    for name, stride in (("conv1", 1), ("conv2", 2)):
        x = layers.gelu(graph, layers.convolution(graph, f"model.encoder.{name}", x, stride))
    x = graph.op("Add", [x, layers.encoder_positions(graph, "model.encoder.embed_positions", folded.positions)])
    for i in range(config["encoder_layers"]):
        module = f"model.encoder.layers.{i}"
        attention = f"{module}.self_attn"
        h = layers.layer_norm(graph, f"{module}.self_attn_layer_norm", x)
        inputs = [layers.linear(graph, f"{attention}.{name}_proj", h) for name in "qkv"]
        graph.at(attention)
        h = layers.linear(graph, f"{attention}.out_proj", _attend(graph, inputs, folded, heads))
        x = layers.feed_forward(graph, module, graph.op("Add", [x, h]))
    graph.at("model.encoder.layer_norm")
    norm = [layers.tensor(graph, f"model.encoder.layer_norm.{part}") for part in ("weight", "bias")]
    graph.op("LayerNormalization", [x, *norm], outputs=["last_hidden_state"], axis=-1, epsilon=1e-5)
    features, states = (
        ["batch_size", mels, 2 * config["max_source_positions"]],
        ["batch_size", "encoder_sequence_length", dim],
    )
    info = helper.make_tensor_value_info
    return make_model(
        "encoder",
        graph,
        [info("input_features", FLOAT, features), info(STRIDE_INPUT, INT64, [1])],
        [info("last_hidden_state", FLOAT, states)],
    )


def _attend(graph: Graph, inputs: list[str], folded: FoldedInput, heads: int) -> str:
    """Self-attention in one operator, which keeps no length x length matrix and scales by head_dim ** -0.5 itself.

    Whole windows go without a bias, which would make the operator a quarter slower.
    """

    def biased(branch: Graph) -> str:
        length = branch.op("Shape", [folded.bias])
        shape = branch.op("Concat", [graph.ints(1, 1), length, length], axis=0)
        square = branch.op("Expand", [folded.bias, shape])
        return plain(branch, "", "", square)

    def plain(branch: Graph, *more: str) -> str:
        return branch.op("MultiHeadAttention", [*inputs, *more], domain=MICROSOFT, num_heads=heads)  # type: ignore[no-any-return]

    return where_folded(graph, folded.is_folded, biased, plain)
