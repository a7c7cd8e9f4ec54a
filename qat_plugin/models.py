"""Loading Whisper models: vanilla ones by Hub id or folder, and trained ones with their fake quantization."""

from __future__ import annotations

import re
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, WhisperForConditionalGeneration, WhisperProcessor

from qat_plugin.errors import ModelError
from qat_plugin.fake_quant import (
    fold,
    load_quantizer_state,
    read_quantizer_config,
    set_activation_fake_quant,
    set_fake_quant,
)

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


def load_whisper(
    name_or_path: str | Path, revision: str = "main", *, field: str = "model_name_or_path"
) -> WhisperForConditionalGeneration:
    """The float Whisper of a Hub id or local folder, in float32; `field` is the recipe's that names it, for errors.

    Raises `ModelError` when it cannot be found, is not a Whisper, or its weights are missing, damaged or of another shape.
    """
    _check_is_whisper(name_or_path, revision, field)
    model: WhisperForConditionalGeneration
    try:
        model, found = WhisperForConditionalGeneration.from_pretrained(
            str(name_or_path), revision=revision, output_loading_info=True
        )
    except SafetensorError as error:
        raise ModelError(
            f"{_damaged(Path(name_or_path))} is no whole safetensors file ({error}): copy or download it again"
        ) from error
    except OSError as error:
        raise ModelError(
            f"{name_or_path}: weights cannot be loaded ({str(error).splitlines()[0]}): save the model there with "
            "`save_pretrained`, or copy the missing file"
        ) from error
    except RuntimeError as error:
        # transformers lists the tensors on the screen and says no more than that.
        raise ModelError(
            f"{name_or_path}: the tensors of its weights have not the shapes that its config.json says: take both files from "
            "one model"
        ) from error
    if found["missing_keys"]:
        # transformers would draw them at random and go on.
        missing = sorted(found["missing_keys"])
        raise ModelError(
            f"{name_or_path}: its weights lack {len(missing)} tensors that its config.json asks for, as {missing[0]}: take "
            "both files from one model"
        )
    return model.float()


def _damaged(folder: Path) -> Path:
    """The first file of weights that is not whole; the folder itself (or Hub id) where none can be found."""
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt"):
                pass
        except SafetensorError:
            return path
    return folder


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


def check_can_be_exported(model: WhisperForConditionalGeneration, processor: WhisperProcessor) -> None:
    """Refuse with `ModelError` a model whose computation is not the one that export writes, or that hears other features."""
    activation = model.config.activation_function
    if activation != "gelu":
        raise ModelError(
            f"activation_function is {activation!r} in the model's config.json: only 'gelu' can be exported; start from a "
            "Whisper that has it"
        )
    mels, bins = processor.feature_extractor.feature_size, model.config.num_mel_bins
    if mels != bins:
        raise ModelError(
            f"feature_size is {mels} in the model's preprocessor_config.json and num_mel_bins is {bins} in its config.json: "
            "save the feature extractor of the Whisper that the model was made from beside it"
        )


def _check_is_whisper(name_or_path: str | Path, revision: str, field: str) -> None:
    try:
        config = AutoConfig.from_pretrained(str(name_or_path), revision=revision)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{field} is {str(name_or_path)!r}, which is neither a folder with a saved model nor a Hub model "
            f"that can be reached ({str(error).splitlines()[0]})"
        ) from error
    if config.model_type != "whisper":
        raise ModelError(
            f"{field} is {str(name_or_path)!r}, a {config.model_type!r} model: only 'whisper' models are supported"
        )


def load_fake_quant(folder: str | Path, *, activations: bool = True) -> WhisperForConditionalGeneration:
    """The trained model of a checkpoint folder in evaluation mode, as quantized: weights are folded, activations quantized.

    `activations=False` computes with float activations: the weight-only arithmetic.
    """
    model = load_whisper(folder)
    read_quantizer_config(folder).prepare(model, activations=activations, initialize=False)
    load_quantizer_state(model, folder, training=False)
    fold(model)
    # Folded weights need no rounding, and are then in memory once.
    set_fake_quant(model, False)
    set_activation_fake_quant(model, activations)
    return model.eval()
