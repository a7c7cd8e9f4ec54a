"""Loading Whisper models: vanilla ones by Hub id or folder, and trained ones with their fake quantization."""

from __future__ import annotations

import re
from pathlib import Path

from transformers import AutoConfig, WhisperForConditionalGeneration, WhisperProcessor

from qat_plugin.errors import ModelError
from qat_plugin.fake_quant import load_quantizer_state, read_quantizer_config

_PART = re.compile(r"model\.((?:en|de)coder)\.(layers\.\d+|\w+)")


def part_of(name: str) -> str:
    """The part of the model that a node or an initializer belongs to, by its name.

    >>> part_of("first:model.decoder.layers.3.encoder_attn.k_proj/MatMulInteger")
    'decoder.layers.3'
    """
    found = _PART.search(name)
    if found:
        return f"{found[1]}.{found[2]}"
    return "decoder.embed_tokens" if "proj_out" in name else "other"


def load_whisper(name_or_path: str | Path, revision: str = "main") -> WhisperForConditionalGeneration:
    """The float Whisper of a Hub id or local folder, in float32.

    Raises `ModelError` when it cannot be found or is not a Whisper.
    """
    _check_is_whisper(name_or_path, revision)
    model: WhisperForConditionalGeneration = WhisperForConditionalGeneration.from_pretrained(
        str(name_or_path), revision=revision
    )
    return model.float()


def load_processor(name_or_path: str | Path, revision: str = "main") -> WhisperProcessor:
    """Feature extractor and tokenizer of a Hub id or local folder. Raises `ModelError` when there are none."""
    try:
        processor: WhisperProcessor = WhisperProcessor.from_pretrained(str(name_or_path), revision=revision)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{name_or_path}: no tokenizer and feature extractor can be loaded ({error}); save them beside the model "
            "with `WhisperProcessor.save_pretrained`"
        ) from error
    return processor


def _check_is_whisper(name_or_path: str | Path, revision: str) -> None:
    try:
        config = AutoConfig.from_pretrained(str(name_or_path), revision=revision)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"model_name_or_path is {str(name_or_path)!r}, which is neither a folder with a saved model nor a Hub model "
            f"that can be reached ({str(error).splitlines()[0]})"
        ) from error
    if config.model_type != "whisper":
        raise ModelError(
            f"model_name_or_path is {str(name_or_path)!r}, a {config.model_type!r} model: only 'whisper' models are supported"
        )


def load_fake_quant(folder: str | Path, *, activations: bool = True) -> WhisperForConditionalGeneration:
    """The trained model of a checkpoint folder with its fake quantization in force, in evaluation mode.

    `activations=False` computes with float activations: the weight-only arithmetic.
    """
    model = load_whisper(folder)
    read_quantizer_config(folder).prepare(model, activations=activations, initialize=False)
    load_quantizer_state(model, folder, training=False)
    return model.eval()
