"""A Whisper checkpoint as whisper.cpp reads it, so that it can be timed on the very same weights.

The format is that of whisper.cpp's own `models/convert-h5-to-ggml.py`: a header, the mel filters, the vocabulary, and the tensors
under OpenAI's names. "f16" is what it is published as; "q8_0" its 8 bits, blocks of 32 weights with a half-precision scale.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from safetensors.numpy import load_file
from transformers import WhisperConfig, WhisperFeatureExtractor
from transformers.convert_slow_tokenizer import bytes_to_unicode

_MAGIC = 0x67676D6C
# Of a tensor, and of a file; of the latter with the version of the quantized layouts, 2, in thousands.
_FLOAT32, _FLOAT16, _Q8_0 = 0, 1, 8
_FILE_TYPES = {"f16": 1, "q8_0": 2007}
_BLOCK = 32
# By parts of a name, in this order: longer ones first.
_RENAMED = {
    "encoder_attn_layer_norm": "cross_attn_ln", "self_attn_layer_norm": "attn_ln", "final_layer_norm": "mlp_ln",
    "encoder_attn": "cross_attn", "self_attn": "attn", "q_proj": "query", "k_proj": "key", "v_proj": "value",
    "out_proj": "out", "fc1": "mlp.0", "fc2": "mlp.2", "layers": "blocks",
    "decoder.embed_tokens.weight": "decoder.token_embedding.weight", "embed_positions.weight": "positional_embedding",
    "encoder.layer_norm": "encoder.ln_post", "decoder.layer_norm": "decoder.ln",
}  # fmt: skip


def write_ggml(checkpoint: Path, path: Path, kind: str) -> None:
    """Write the checkpoint folder as `path`; `kind` is "f16" or "q8_0"."""
    config = WhisperConfig.from_pretrained(checkpoint)
    header = [
        config.vocab_size, config.max_source_positions, config.d_model, config.encoder_attention_heads,
        config.encoder_layers, config.max_target_positions, config.d_model, config.decoder_attention_heads,
        config.decoder_layers, config.num_mel_bins, _FILE_TYPES[kind],
    ]  # fmt: skip
    filters = np.ascontiguousarray(WhisperFeatureExtractor.from_pretrained(checkpoint).mel_filters.T, np.float32)
    with path.open("wb") as file:
        _integers(file, _MAGIC, *header, *filters.shape)
        file.write(filters.tobytes())
        words = _vocabulary(checkpoint)
        _integers(file, len(words))
        for word in words:
            _integers(file, len(word))
            file.write(word)
        for name, tensor in load_file(checkpoint / "model.safetensors").items():
            if name != "proj_out.weight":  # the token embedding
                _tensor(file, _openai_name(name), tensor.astype(np.float32), kind)


def _integers(file: BinaryIO, *values: int) -> None:
    file.write(struct.pack(f"<{len(values)}i", *values))


def _vocabulary(checkpoint: Path) -> list[bytes]:
    """The byte strings of all ordinary tokens; whisper.cpp knows the special ones."""
    tokenizer: dict[str, Any] = json.loads((checkpoint / "tokenizer.json").read_text(encoding="utf8"))
    special = {token["id"] for token in tokenizer["added_tokens"]}
    byte_of = {char: byte for byte, char in bytes_to_unicode().items()}
    words = sorted((number, word) for word, number in tokenizer["model"]["vocab"].items() if number not in special)
    return [bytes(byte_of[char] for char in word) for _, word in words]


def _openai_name(name: str) -> str:
    name = name.removeprefix("model.")
    for ours, theirs in _RENAMED.items():
        name = name.replace(ours, theirs)
    return name


def _tensor(file: BinaryIO, name: str, tensor: Any, kind: str) -> None:
    if name.endswith(("conv1.bias", "conv2.bias")):
        tensor = tensor.reshape(-1, 1)
    stored = _FLOAT16
    if tensor.ndim < 2 or tensor.shape[1] == 1 or name.endswith("positional_embedding"):
        stored = _FLOAT32
    elif kind == "q8_0" and tensor.ndim == 2:
        stored = _Q8_0
    _integers(file, tensor.ndim, len(name), stored, *reversed(tensor.shape))
    file.write(name.encode())
    if stored == _Q8_0:
        blocks = tensor.reshape(-1, _BLOCK)
        scale = np.abs(blocks).max(1, keepdims=True) / 127
        integers = np.rint(blocks / np.where(scale == 0, 1, scale)).astype(np.int8)
        file.write(np.concatenate([scale.astype("<f2").view(np.int8), integers], axis=1).tobytes())
    else:
        file.write(tensor.astype("<f4" if stored == _FLOAT32 else "<f2").tobytes())
