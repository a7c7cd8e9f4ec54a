"""Small things about files that several stages need."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

COMPANIONS = (
    "config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json", "tokenizer.json",
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "normalizer.json",
)  # fmt: skip
"""What transformers, Optimum and transformers.js read beside the graphs of a Whisper."""
PARITY_FILE, DESCRIPTION_FILE = "parity.json", "quantization.json"
"""What the parity gate found of an export, and what it was made of."""
NAMED_BY_FOLDER = ("manifest", "metadata")
"""What files are called that say nothing in a report; their folder's name does."""


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_whole(path: Path, text: str) -> None:
    """Write a file aside and rename it: a process that is killed here leaves the old file, never half a one."""
    scratch = path.with_suffix(".tmp")
    scratch.write_text(text, encoding="utf8")
    scratch.replace(path)


def is_first_process() -> bool:
    """Whether this process writes what all would write alike: under `accelerate launch` they go through the same steps."""
    return os.environ.get("RANK", "0") == "0"
