"""A CTranslate2 Whisper as a transformers checkpoint: the layout of OpenAI's own folders on the Hub.

Every file is written directly; a test loads the result with the real classes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from qat_plugin.demo.ctranslate2 import read_ctranslate2
from qat_plugin.errors import ModelError

Variables = dict[str, npt.NDArray[np.generic]]
Tensors = dict[str, npt.NDArray[np.float32]]

TIMESTAMPS = 1501  # 0.00 s to 30.00 s in steps of 0.02 s


def write_checkpoint(model_bin: bytes, settings: dict[str, Any], tokenizer: dict[str, Any], folder: Path) -> None:
    """Write config, float32 weights, generation config, tokenizer and feature extractor into `folder`.

    Args:
        model_bin: CTranslate2 file of a multilingual Whisper with float weights.
        settings: its config.json (`suppress_ids`, `suppress_ids_begin`, `alignment_heads`).
        tokenizer: its tokenizer.json.
        folder: exists.

    Raises:
        ModelError: the file is not a Whisper, lacks a variable, or is quantized; the tokenizer does not fit it.
    """
    file = read_ctranslate2(model_bin)
    if file.specification != "WhisperSpec":
        raise ModelError(f"model.bin holds a {file.specification!r}; a Whisper ('WhisperSpec') is needed.")
    tensors, config = convert_tensors(file.variables), _sizes(file.variables)
    tokens = _add_timestamps(tokenizer, config["vocab_size"])
    _write_tokenizer(tokenizer, tokens, folder)
    end, start = tokens["<|endoftext|>"], tokens["<|startoftranscript|>"]
    special = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end, "decoder_start_token_id": start}
    suppressed = {"begin_suppress_tokens": settings["suppress_ids_begin"]}
    _write(folder / "config.json", {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        "activation_function": "gelu",
        "is_encoder_decoder": True,
        "scale_embedding": False,
        "torch_dtype": "float32",
        "use_cache": True,
        **config, **special, **suppressed,
    })  # fmt: skip
    _write(folder / "generation_config.json", {
        **special, **suppressed,
        "suppress_tokens": settings["suppress_ids"],
        "alignment_heads": settings["alignment_heads"],
        "is_multilingual": True,
        "lang_to_id": {token: tokens[token] for token in _languages(tokens)},
        "task_to_id": {task: tokens[f"<|{task}|>"] for task in ("transcribe", "translate")},
        "no_timestamps_token_id": tokens["<|notimestamps|>"],
        "prev_sot_token_id": tokens["<|startofprev|>"],
        "max_initial_timestamp_index": 50,
        "max_length": config["max_target_positions"],
        "return_timestamps": False,
    })  # fmt: skip
    _write(folder / "preprocessor_config.json", {
        "feature_extractor_type": "WhisperFeatureExtractor",
        "processor_class": "WhisperProcessor",
        "feature_size": config["num_mel_bins"],
        "sampling_rate": 16000, "n_fft": 400, "hop_length": 160, "chunk_length": 30,
        "padding_side": "right", "padding_value": 0.0, "return_attention_mask": False,
    })  # fmt: skip
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def convert_tensors(variables: Variables) -> Tensors:
    """Float32 tensors by transformers' names; the tied `proj_out.weight` is left out, as `save_pretrained` does.

    CTranslate2 stacks q, k, v (k, v in cross-attention) along the output axis and gives k a bias of zeros, which
    Whisper does not have.
    """
    width = _get(variables, "decoder/embeddings/weight").shape[1]
    tensors: Tensors = {}

    def copy(target: str, source: str, rows: slice = slice(None)) -> None:
        value = _get(variables, source)
        if value.dtype.kind != "f":
            raise ModelError(f"model.bin: variable {source!r} is {value.dtype}: the weights are quantized, not float.")
        tensors[target] = np.ascontiguousarray(value[rows], dtype=np.float32)

    def linear(target: str, source: str, rows: slice = slice(None), *, bias: bool = True) -> None:
        copy(f"{target}.weight", f"{source}/weight", rows)
        if bias:
            copy(f"{target}.bias", f"{source}/bias", rows)

    def norm(target: str, source: str) -> None:
        copy(f"{target}.weight", f"{source}/gamma")
        copy(f"{target}.bias", f"{source}/beta")

    def layer(target: str, source: str, *, cross: bool) -> None:
        for index, name in enumerate("qkv"):
            rows = slice(index * width, (index + 1) * width)
            linear(f"{target}.self_attn.{name}_proj", f"{source}/self_attention/linear_0", rows, bias=name != "k")
        linear(f"{target}.self_attn.out_proj", f"{source}/self_attention/linear_1")
        norm(f"{target}.self_attn_layer_norm", f"{source}/self_attention/layer_norm")
        if cross:
            attention = f"{target}.encoder_attn"
            linear(f"{attention}.q_proj", f"{source}/attention/linear_0")
            linear(f"{attention}.k_proj", f"{source}/attention/linear_1", slice(0, width), bias=False)
            linear(f"{attention}.v_proj", f"{source}/attention/linear_1", slice(width, 2 * width))
            linear(f"{attention}.out_proj", f"{source}/attention/linear_2")
            norm(f"{attention}_layer_norm", f"{source}/attention/layer_norm")
        linear(f"{target}.fc1", f"{source}/ffn/linear_0")
        linear(f"{target}.fc2", f"{source}/ffn/linear_1")
        norm(f"{target}.final_layer_norm", f"{source}/ffn/layer_norm")

    for side in ("encoder", "decoder"):
        copy(f"model.{side}.embed_positions.weight", f"{side}/position_encodings/encodings")
        norm(f"model.{side}.layer_norm", f"{side}/layer_norm")
        for index in range(_layers(variables, side)):
            layer(f"model.{side}.layers.{index}", f"{side}/layer_{index}", cross=side == "decoder")
    linear("model.encoder.conv1", "encoder/conv1")
    linear("model.encoder.conv2", "encoder/conv2")
    copy("model.decoder.embed_tokens.weight", "decoder/embeddings/weight")
    return tensors


def _sizes(variables: Variables) -> dict[str, int]:
    vocabulary, width = _get(variables, "decoder/embeddings/weight").shape
    sizes = {
        "d_model": width,
        "vocab_size": vocabulary,
        "num_mel_bins": _get(variables, "encoder/conv1/weight").shape[1],
        "max_source_positions": len(_get(variables, "encoder/position_encodings/encodings")),
        "max_target_positions": len(_get(variables, "decoder/position_encodings/encodings")),
    }
    for side in ("encoder", "decoder"):
        sizes[f"{side}_layers"] = _layers(variables, side)
        sizes[f"{side}_attention_heads"] = int(_get(variables, f"{side}/num_heads").item())
        sizes[f"{side}_ffn_dim"] = len(_get(variables, f"{side}/layer_0/ffn/linear_0/weight"))
    return sizes


def _get(variables: Variables, name: str) -> npt.NDArray[Any]:
    if name not in variables:
        raise ModelError(f"model.bin has no variable {name!r}: it is not a CTranslate2 Whisper that can be converted.")
    return variables[name]


def _layers(variables: Variables, side: str) -> int:
    parts = {name.split("/")[1] for name in variables if name.startswith(f"{side}/layer_")}
    return len(parts - {"layer_norm"})


def _languages(tokens: dict[str, int]) -> list[str]:
    """Tokens between <|startoftranscript|> and <|translate|>, which are the languages in Whisper's order."""
    first, last = tokens["<|startoftranscript|>"], tokens["<|translate|>"]
    return sorted((token for token, index in tokens.items() if first < index < last), key=tokens.__getitem__)


def _add_timestamps(tokenizer: dict[str, Any], vocabulary: int) -> dict[str, int]:
    """Append the timestamp tokens, which faster-whisper's file lacks; return the added tokens' ids by name."""
    added: list[dict[str, Any]] = tokenizer["added_tokens"]
    first = max(token["id"] for token in added) + 1
    if first + TIMESTAMPS != vocabulary:
        raise ModelError(
            f"tokenizer.json ends at token {first - 1} and {TIMESTAMPS} timestamps follow, but the model has "
            f"{vocabulary} tokens: the two do not belong together."
        )
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False}
    for step in range(TIMESTAMPS):
        added.append({"id": first + step, "content": f"<|{step * 0.02:.2f}|>", **plain})
    return {token["content"]: token["id"] for token in added}


def _write_tokenizer(tokenizer: dict[str, Any], tokens: dict[str, int], folder: Path) -> None:
    """Write the files of both kinds of tokenizer: tokenizer.json for the fast one, the others for the slow one."""
    added, model = tokenizer["added_tokens"], tokenizer["model"]
    special = {
        **dict.fromkeys(("bos_token", "eos_token", "unk_token", "pad_token"), "<|endoftext|>"),
        "additional_special_tokens": [token["content"] for token in added if token["special"]],
    }
    _write(folder / "tokenizer.json", tokenizer)
    _write(folder / "vocab.json", model["vocab"])
    _write(folder / "added_tokens.json", tokens)
    _write(folder / "special_tokens_map.json", special)
    _write(folder / "tokenizer_config.json", {
        "tokenizer_class": "WhisperTokenizer", "processor_class": "WhisperProcessor",
        "add_prefix_space": False, "errors": "replace", "return_attention_mask": False,
        "clean_up_tokenization_spaces": False, "model_max_length": 1024, **special,
        "added_tokens_decoder": {
            str(token["id"]): {key: value for key, value in token.items() if key != "id"} for token in added
        },
    })  # fmt: skip
    pairs = (pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"])
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(pairs) + "\n", encoding="utf-8")


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
