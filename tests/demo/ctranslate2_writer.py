"""CTranslate2's file format, written by hand; and a transformers Whisper in that form."""

import struct

import numpy as np
from transformers import WhisperForConditionalGeneration

CODES = {
    np.dtype(np.float32): 0,
    np.dtype(np.int8): 1,
    np.dtype(np.int16): 2,
    np.dtype(np.int32): 3,
    np.dtype(np.float16): 4,
}


def text(value: str) -> bytes:
    raw = value.encode() + b"\0"
    return struct.pack("<H", len(raw)) + raw


def variable(name: str, value: np.ndarray) -> bytes:
    head = struct.pack(f"<B{value.ndim}I", value.ndim, *value.shape) + struct.pack(
        "<BI", CODES[value.dtype], value.nbytes
    )
    return text(name) + head + value.tobytes()


def model_bin(
    variables: dict, aliases: dict | None = None, *, version: int = 6, specification: str = "WhisperSpec"
) -> bytes:
    parts = [struct.pack("<I", version), text(specification), struct.pack("<I", 3), struct.pack("<I", len(variables))]
    parts += [variable(name, value) for name, value in variables.items()]
    parts.append(struct.pack("<I", len(aliases or {})))
    parts += [text(alias) + text(target) for alias, target in (aliases or {}).items()]
    return b"".join(parts)


def whisper_variables(model: WhisperForConditionalGeneration) -> dict[str, np.ndarray]:
    """The model's weights by CTranslate2's names, q, k and v stacked as its converter does."""
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    out: dict[str, np.ndarray] = {}

    def stack(target: str, source: str, names: str) -> None:
        weights = [state[f"{source}.{n}_proj.weight"] for n in names]
        zeros = np.zeros(len(weights[0]), np.float32)
        out[f"{target}/weight"] = np.concatenate(weights)
        out[f"{target}/bias"] = np.concatenate([state.get(f"{source}.{n}_proj.bias", zeros) for n in names])

    def linear(target: str, source: str) -> None:
        out[f"{target}/weight"], out[f"{target}/bias"] = state[f"{source}.weight"], state[f"{source}.bias"]

    def norm(target: str, source: str) -> None:
        out[f"{target}/gamma"], out[f"{target}/beta"] = state[f"{source}.weight"], state[f"{source}.bias"]

    config = model.config
    for side, layers in (("encoder", config.encoder_layers), ("decoder", config.decoder_layers)):
        out[f"{side}/num_heads"] = np.array(config.encoder_attention_heads, np.int16)
        out[f"{side}/position_encodings/encodings"] = state[f"model.{side}.embed_positions.weight"]
        norm(f"{side}/layer_norm", f"model.{side}.layer_norm")
        for index in range(layers):
            target, source = f"{side}/layer_{index}", f"model.{side}.layers.{index}"
            stack(f"{target}/self_attention/linear_0", f"{source}.self_attn", "qkv")
            linear(f"{target}/self_attention/linear_1", f"{source}.self_attn.out_proj")
            norm(f"{target}/self_attention/layer_norm", f"{source}.self_attn_layer_norm")
            if side == "decoder":
                linear(f"{target}/attention/linear_0", f"{source}.encoder_attn.q_proj")
                stack(f"{target}/attention/linear_1", f"{source}.encoder_attn", "kv")
                linear(f"{target}/attention/linear_2", f"{source}.encoder_attn.out_proj")
                norm(f"{target}/attention/layer_norm", f"{source}.encoder_attn_layer_norm")
            linear(f"{target}/ffn/linear_0", f"{source}.fc1")
            linear(f"{target}/ffn/linear_1", f"{source}.fc2")
            norm(f"{target}/ffn/layer_norm", f"{source}.final_layer_norm")
    linear("encoder/conv1", "model.encoder.conv1")
    linear("encoder/conv2", "model.encoder.conv2")
    out["decoder/embeddings/weight"] = state["model.decoder.embed_tokens.weight"]
    return out
