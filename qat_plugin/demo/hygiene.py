"""No test text and no test speaker in what is trained on."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qat_plugin.errors import DataError


@dataclass(frozen=True)
class HygieneReport:
    """What a test manifest and training manifests share; texts are compared as `normalized` writes them.

    `tested` counts distinct texts of `min_words` words or more, none of which is trained on. `shared_short` are those of
    fewer words that are: "un" is nobody's own.
    """

    tested: int
    min_words: int
    shared_short: tuple[str, ...]

    def __str__(self) -> str:
        """One line for people."""
        short = f"; {len(self.shared_short)} shorter ones are" if self.shared_short else ""
        return f"none of {self.tested} test texts of {self.min_words} words or more is trained on{short}"


def check_hygiene(test: Path, training: Sequence[Path], *, min_words: int) -> HygieneReport:
    """Compare texts and speakers of a test manifest with those of training manifests.

    Args:
        test: JSONL manifest.
        training: JSONL manifests.
        min_words: texts of so many words or more must be in one of them alone.

    Raises:
        DataError: such a text or a test speaker is in a training manifest.
    """
    texts, speakers = _read(test)
    tested = {text for text in texts if len(text.split()) >= min_words}
    shared: set[str] = set()
    for manifest in training:
        train_texts, train_speakers = _read(manifest)
        if both := sorted(texts & train_texts & tested):
            raise DataError(
                f"{manifest} trains on {len(both)} texts of {test}, such as {both[0]!r}: take them out of one of them."
            )
        if voices := sorted(speakers & train_speakers):
            raise DataError(f"{manifest} trains on the voice of {test}, {voices[0]!r}: hold one of the two out.")
        shared |= texts & train_texts
    return HygieneReport(len(tested), min_words, tuple(sorted(shared)))


def normalized(text: str) -> str:
    """Lower case without accents, punctuation and doubled spaces: texts that differ by less are the same."""
    letters = unicodedata.normalize("NFKD", text.casefold())
    return " ".join(re.sub(r"[\W_]+", " ", "".join(c for c in letters if not unicodedata.combining(c))).split())


def _read(manifest: Path) -> tuple[set[str], set[str]]:
    with manifest.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return {normalized(row["text"]) for row in rows}, {row["speaker"] for row in rows}
