"""What an ONNX folder weighs, file by file, and the digests that pin it."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from qat_plugin.errors import EvaluationError
from qat_plugin.files import sha256_of


def list_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Every file below `folder`: relative path → {"bytes": int, "sha256": hex}, sorted by path.

    Raises:
        EvaluationError: the folder is missing or holds no .onnx file.
    """
    if not folder.is_dir():
        raise EvaluationError(f"{folder}: no such folder; export the model first")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if not any(path.suffix == ".onnx" for path in files):
        raise EvaluationError(f"{folder}: holds no .onnx file; export the model first")
    listing = {}
    for path in files:
        status = path.stat()
        digest = _sha256(path, status.st_size, status.st_mtime_ns)
        listing[path.relative_to(folder).as_posix()] = {"bytes": status.st_size, "sha256": digest}
    return listing


@functools.lru_cache(maxsize=1024)
def _sha256(path: Path, size: int, modified: int) -> str:
    # Size and time are there for the cache only: an arm is measured on several corpora, its gigabytes are read once.
    return sha256_of(path)
