"""A checkpoint folder → a complete ONNX folder, verified before it gets its name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qat_plugin.errors import QuantizationError, WorkspaceError
from qat_plugin.export.gate import ParityReport, check_parity
from qat_plugin.export.writer import export_onnx
from qat_plugin.fake_quant.checkpoint import QuantizedCheckpoint, read_checkpoint
from qat_plugin.fake_quant.state import QUANTIZER_CONFIG, QUANTIZER_WEIGHTS
from qat_plugin.files import sha256_of


def export_verified(
    checkpoint_folder: str | Path,
    output_dir: str | Path,
    *,
    clips: Sequence[tuple[NDArray[np.float32], str]],
    task: str,
    quantized: bool = True,
) -> ParityReport:
    """Export `checkpoint_folder` and verify the files; `output_dir` comes to be only when they pass.

    `clips`: 16 kHz audio and its language, on which greedy tokens are compared. `quantized`: whether the checkpoint is one
    with quantizers; False exports a float model. A checkpoint of training (`checkpoint-N`), whose weights are not folded, gives
    the integers that training computed with at that step. Beside the model, `output_dir` holds

    * `quantization.json`: {"target": str | null, "skip_modules": [glob], "operators": {file: {operator: count}},
      "files": {name: sha256}};
    * `parity.json`: the fields of `ParityReport`.

    Raises `QuantizationError` when the checkpoint is not of the kind that `quantized` says, `ParityError` when a check
    fails, and what `export_onnx` raises; an earlier `output_dir` then stays.
    """
    output_dir = Path(output_dir)
    if output_dir.is_file() or (
        output_dir.is_dir() and any(output_dir.iterdir()) and not (output_dir / "quantization.json").is_file()
    ):
        raise WorkspaceError(f"{output_dir} holds something else than an earlier export: name a new folder or empty it")
    partial = output_dir.with_name(f".{output_dir.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    checkpoint = read_checkpoint(checkpoint_folder)
    _check_kind(checkpoint, quantized)
    try:
        export_onnx(checkpoint, partial)
        report = check_parity(checkpoint, partial, clips=clips, task=task)
        description: dict[str, Any] = {
            "target": checkpoint.target,
            "skip_modules": list(checkpoint.skip_modules),
            "operators": report.operators,
            "files": {path.name: sha256_of(path) for path in sorted(partial.iterdir())},
        }
        _write_json(partial / "quantization.json", description)
        _write_json(partial / "parity.json", report.to_dict())
        if output_dir.exists():
            shutil.rmtree(output_dir)  # an earlier export or empty, as checked above
        partial.rename(output_dir)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return report


def _check_kind(checkpoint: QuantizedCheckpoint, quantized: bool) -> None:
    """Without its quantizers, a trained checkpoint is a float model like any other and would be published as quantized."""
    if quantized and checkpoint.target is None:
        raise QuantizationError(
            f"{checkpoint.folder} has no {QUANTIZER_CONFIG}, so it would be exported in float: copy {QUANTIZER_CONFIG} and "
            f"{QUANTIZER_WEIGHTS} from where the model was trained, or write both again with `QATCallback.finish`; for a "
            "float model, say quantized=False"
        )
    if not quantized and checkpoint.target is not None:
        raise QuantizationError(
            f"{checkpoint.folder} has {QUANTIZER_CONFIG}, so it is a quantized model and not the float one that was asked "
            "for: name another folder, or leave quantized=True"
        )


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf8")
