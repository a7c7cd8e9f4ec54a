"""What an ONNX folder weighs, file by file, and the digests that pin it."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from qat_plugin.errors import EvaluationError
from qat_plugin.files import DESCRIPTION_FILE, sha256_of


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
        listing[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": _digest(path)}
    return listing


def changed_since_export(folder: Path) -> str | None:
    """What is not as export wrote it, and its parity gate saw it: the file, and both digests. None where everything is."""
    description = folder / DESCRIPTION_FILE
    try:
        written = json.loads(description.read_text(encoding="utf8")).get("files")
    except (FileNotFoundError, ValueError, AttributeError):
        written = None
    if not isinstance(written, dict) or not written:
        return f"{description} does not say which files the parity gate passed"
    for name, digest in written.items():
        path = folder / name
        if not path.is_file():
            return f"{path} is missing, but the parity gate passed with it"
        found = _digest(path)
        if found != digest:
            return f"{path} has sha256 {found}, the parity gate passed on {digest}"
    return None


def _digest(path: Path) -> str:
    status = path.stat()
    return _sha256(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=1024)
def _sha256(path: Path, size: int, modified: int) -> str:
    # Size and time are there for the cache only: an arm is measured on several corpora, its gigabytes are read once.
    return sha256_of(path)
