"""The files of an ONNX folder: two graphs, and what transformers, Optimum and transformers.js read beside them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tqdm.auto import tqdm

from qat_plugin.errors import ExportError
from qat_plugin.export.decoder import build_decoder
from qat_plugin.export.encoder import build_encoder
from qat_plugin.export.model import EXTERNAL_DATA_BYTES, save_model
from qat_plugin.fake_quant.checkpoint import QuantizedCheckpoint
from qat_plugin.files import COMPANIONS

GRAPHS = {"encoder_model.onnx": build_encoder, "decoder_model_merged.onnx": build_decoder}

# Megabytes for machines alone: written without the white space that is half of them.
_COMPACTED = ("tokenizer.json", "vocab.json")
_NEEDED = ("config.json", "generation_config.json", "tokenizer_config.json")


def export_onnx(
    checkpoint: QuantizedCheckpoint,
    output_dir: Path,
    *,
    activations: bool = True,
    external_data_bytes: int = EXTERNAL_DATA_BYTES,
) -> None:
    """Write `encoder_model.onnx`, `decoder_model_merged.onnx` and what belongs beside them to `output_dir`.

    Integers and scales are the checkpoint's own. `activations=False` writes the weight-only arithmetic. Weights of
    `external_data_bytes` or more go to `*.onnx_data`.

    Raises `ExportError` when the checkpoint lacks a companion file or computes what Whisper does not, `WorkspaceError` when the disk has no room.
    """
    activation = checkpoint.config.get("activation_function", "gelu")
    if activation != "gelu":
        raise ExportError(
            f"{checkpoint.folder / 'config.json'}: activation_function is {activation!r}: only 'gelu' is exported"
        )
    output_dir.mkdir(parents=True, exist_ok=True)
    _copy_companions(checkpoint.folder, output_dir)
    for name, build in tqdm(GRAPHS.items(), desc="writing ONNX", unit="graph"):
        save_model(
            build(checkpoint, activations=activations), output_dir / name, external_data_bytes=external_data_bytes
        )


def _copy_companions(source: Path, target: Path) -> None:
    for name in COMPANIONS:
        if (source / name).is_file() and name in _COMPACTED:
            content = json.loads((source / name).read_text(encoding="utf8"))
            text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
            (target / name).write_text(text, encoding="utf8")
        elif (source / name).is_file():
            shutil.copyfile(source / name, target / name)
        elif name in _NEEDED:
            raise ExportError(f"{source} has no {name}: save model and processor there with `save_pretrained`")
    _let_older_ones_read_the_tokenizer(target / "tokenizer_config.json")
    if not (target / "preprocessor_config.json").is_file():
        # transformers 5 keeps the feature extractor inside processor_config.json; older ones and other clients look here.
        if not (source / "processor_config.json").is_file():
            raise ExportError(
                f"{source} has neither processor_config.json nor preprocessor_config.json: save the processor there with "
                "`save_pretrained`"
            )
        extractor = json.loads((source / "processor_config.json").read_text(encoding="utf8"))["feature_extractor"]
        text = json.dumps(extractor, indent=2, sort_keys=True) + "\n"
        (target / "preprocessor_config.json").write_text(text, encoding="utf8")


def _let_older_ones_read_the_tokenizer(path: Path) -> None:
    """transformers 5 renamed a list and reads it by both names; 4, which Optimum needs, stops at the new one."""
    settings = json.loads(path.read_text(encoding="utf8"))
    if isinstance(settings.get("extra_special_tokens"), list):
        settings["additional_special_tokens"] = settings.pop("extra_special_tokens")
        path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf8")
