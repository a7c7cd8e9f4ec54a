"""Finding the files of an exported Whisper: in a local folder, or on the Hub."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import snapshot_download

from qat_plugin.errors import ModelError

ENCODER_FILE = "encoder_model.onnx"
DECODER_FILE = "decoder_model_merged.onnx"
_SETTINGS = ("config.json", "generation_config.json")
_PATTERNS = ("*.json", "*.txt", f"{ENCODER_FILE}*", f"{DECODER_FILE}*")


@dataclass(frozen=True)
class ModelFiles:
    """Where an exported Whisper lies.

    Attributes:
        encoder, decoder: the two ONNX graphs.
        settings: the folder of config.json, generation_config.json, tokenizer and feature extractor.
    """

    encoder: Path
    decoder: Path
    settings: Path


def find_model_files(
    folder_or_hub_id: str | Path, *, revision: str | None = None, subfolder: str | None = None
) -> ModelFiles:
    """The files of a local folder or of a Hub model, of which only what is needed is downloaded.

    With `subfolder` the graphs are in it; the settings are in it too or, as in transformers.js models, above it.
    Raises `ModelError` when a file is missing, the Hub cannot give the model, or it is not a Whisper.
    """
    root = Path(folder_or_hub_id)
    if not root.is_dir():
        root = _download(str(folder_or_hub_id), revision, subfolder)
    graphs = root / subfolder if subfolder else root
    settings = graphs if (graphs / _SETTINGS[0]).is_file() else root
    files = ModelFiles(graphs / ENCODER_FILE, graphs / DECODER_FILE, settings)
    for path in (*(settings / name for name in _SETTINGS), files.encoder, files.decoder):
        if not path.is_file():
            raise ModelError(
                f"{folder_or_hub_id}: {path.relative_to(root)} is missing; give the folder that `qat-plugin export` "
                f"wrote, with config.json, generation_config.json, {ENCODER_FILE} and {DECODER_FILE}"
            )
    _check_is_whisper(settings / _SETTINGS[0])
    return files


def _download(hub_id: str, revision: str | None, subfolder: str | None) -> Path:
    patterns = [*_PATTERNS, *(f"{subfolder}/{pattern}" for pattern in _PATTERNS)] if subfolder else list(_PATTERNS)
    try:
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=patterns))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{hub_id!r} is neither a folder nor a Hub model that can be reached ({str(error).splitlines()[0]}); check "
            "the path, or the name, revision and access rights of the Hub model"
        ) from error


def _check_is_whisper(path: Path) -> None:
    try:
        config = json.loads(path.read_text(encoding="utf8"))
    except ValueError as error:
        raise ModelError(f"{path}: not JSON ({error}); export the model again") from error
    model_type = config.get("model_type") if isinstance(config, dict) else None
    if model_type != "whisper":
        raise ModelError(f"{path}: model_type is {model_type!r}, only 'whisper' models are supported")
