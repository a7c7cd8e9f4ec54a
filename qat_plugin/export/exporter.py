"""A checkpoint folder → a complete ONNX folder, verified before it gets its name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qat_plugin.arms import ORTMethod
from qat_plugin.errors import QuantizationError, WorkspaceError
from qat_plugin.export.census import read_file
from qat_plugin.export.gate import ParityReport, check_parity
from qat_plugin.export.ort_quantizer import export_with_onnxruntime
from qat_plugin.export.writer import GRAPHS, export_onnx
from qat_plugin.fake_quant.checkpoint import QuantizedCheckpoint, read_checkpoint
from qat_plugin.fake_quant.state import QUANTIZER_CONFIG, QUANTIZER_WEIGHTS
from qat_plugin.files import DESCRIPTION_FILE, PARITY_FILE, sha256_of


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
    checkpoint = read_checkpoint(checkpoint_folder)
    _check_kind(checkpoint, quantized=quantized)
    with _unfinished(Path(output_dir)) as partial:
        export_onnx(checkpoint, partial)
        report = check_parity(checkpoint, partial, clips=clips, task=task)
        _describe(partial, checkpoint.target, checkpoint.skip_modules, report.operators)
        _write_json(partial / PARITY_FILE, report.to_dict())
    return report


def export_rival(
    checkpoint_folder: str | Path,
    output_dir: str | Path,
    *,
    method: ORTMethod,
    reduce_range: bool,
    features: Sequence[NDArray[np.float32]] = (),
) -> None:
    """Export the float `checkpoint_folder` as ONNX Runtime's own quantizer `method` makes it; `output_dir` is whole or not there.

    `features`: whole-window log-mel `(1, mels, frames)` of the speech that "static" is calibrated on. No model of ours computes
    what these files do, so there is no parity.json, and nothing to publish.

    Raises `QuantizationError` when the checkpoint is quantized already, and what `export_with_onnxruntime` raises.
    """
    checkpoint = read_checkpoint(checkpoint_folder)
    _check_kind(checkpoint, quantized=False)
    with _unfinished(Path(output_dir)) as partial:
        export_with_onnxruntime(checkpoint, partial, method=method, reduce_range=reduce_range, features=features)
        files = [read_file(partial / name) for name in GRAPHS]
        _describe(partial, "int8", (), {file.name: file.operators for file in files})


@contextmanager
def _unfinished(output_dir: Path) -> Iterator[Path]:
    """A folder that becomes `output_dir` when everything in it has been written; an earlier export stays until then."""
    if output_dir.is_file() or (
        output_dir.is_dir() and any(output_dir.iterdir()) and not (output_dir / DESCRIPTION_FILE).is_file()
    ):
        raise WorkspaceError(f"{output_dir} holds something else than an earlier export: name a new folder or empty it")
    partial = output_dir.with_name(f".{output_dir.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        yield partial
        if output_dir.exists():
            shutil.rmtree(output_dir)  # an earlier export or empty, as checked above
        partial.rename(output_dir)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _describe(
    folder: Path, target: str | None, skip_modules: Iterable[str], operators: dict[str, dict[str, int]]
) -> None:
    description: dict[str, Any] = {
        "target": target,
        "skip_modules": list(skip_modules),
        "operators": operators,
        "files": {path.name: sha256_of(path) for path in sorted(folder.iterdir())},
    }
    _write_json(folder / DESCRIPTION_FILE, description)


def _check_kind(checkpoint: QuantizedCheckpoint, *, quantized: bool) -> None:
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
