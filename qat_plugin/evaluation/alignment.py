"""What several arms heard of one utterance, word under word."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest

import jiwer


@dataclass(frozen=True)
class Column:
    """A word of the reference, '' where arms put words in between, and what each arm has in its place, '' for nothing."""

    reference: str
    heard: dict[str, str]


def align(reference: str, hypotheses: Mapping[str, str]) -> list[Column]:
    """Columns of an utterance from normalized texts: each arm's alignment is the one that its WER counts.

    >>> for column in align("le chat dort", {"fp": "le chat dort bien", "qat": "le rat"}):
    ...     print([column.reference, *column.heard.values()])
    ['le', 'le', 'le']
    ['chat', 'chat', 'rat']
    ['dort', 'dort', '']
    ['', 'bien', '']
    """
    words = reference.split()
    placed = {arm: _place(reference, hypothesis) for arm, hypothesis in hypotheses.items()}
    columns = []
    for i, word in enumerate([*words, ""]):
        between = zip_longest(*(extra[i] for _, extra in placed.values()), fillvalue="")
        columns += [Column("", dict(zip(placed, heard, strict=True))) for heard in between]
        if i < len(words):
            columns.append(Column(word, {arm: said[i] for arm, (said, _) in placed.items()}))
    return columns


def _place(reference: str, hypothesis: str) -> tuple[list[str], list[list[str]]]:
    """What stands for each word of the reference, and what was put in before each and behind the last."""
    length, heard = len(reference.split()), hypothesis.split()
    said: list[str] = [""] * length
    extra: list[list[str]] = [[] for _ in range(length + 1)]
    (chunks,) = jiwer.process_words(reference, hypothesis).alignments
    for chunk in chunks:
        words = heard[chunk.hyp_start_idx : chunk.hyp_end_idx]
        if chunk.type == "insert":
            extra[chunk.ref_start_idx] += words
        elif chunk.type in ("equal", "substitute"):
            said[chunk.ref_start_idx : chunk.ref_end_idx] = words
    return said, extra
