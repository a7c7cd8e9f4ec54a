"""Word and character errors as counts that add up: a corpus' rate is the rate of the sums, never a mean of rates."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import jiwer

from qat_plugin.errors import EvaluationError


@dataclass(frozen=True)
class ErrorCounts:
    """Words that part hypotheses from references, at the least number of edits.

    Empty references are legitimate (silence): every word of the hypothesis is an insertion then, and counts in the
    corpus though the utterance has no rate of its own.
    """

    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    hits: int = 0

    @property
    def reference_words(self) -> int:
        """Words of the references."""
        return self.hits + self.substitutions + self.deletions

    @property
    def errors(self) -> int:
        """Substitutions, deletions and insertions."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def wer(self) -> float:
        """Errors for each word of the references; a fraction, above 1 where insertions abound.

        Raises `EvaluationError` where the references hold no word.
        """
        return _rate(self.errors, self.reference_words, "word")

    def __add__(self, other: ErrorCounts) -> ErrorCounts:
        """Counts of both together."""
        return ErrorCounts(
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
            self.hits + other.hits,
        )


@dataclass(frozen=True)
class CharacterCounts:
    """Characters that part hypotheses from references; single spaces between words are characters too."""

    errors: int = 0
    reference_characters: int = 0

    @property
    def cer(self) -> float:
        """Errors for each character of the references. Raises `EvaluationError` where the references hold none."""
        return _rate(self.errors, self.reference_characters, "character")

    def __add__(self, other: CharacterCounts) -> CharacterCounts:
        """Counts of both together."""
        return CharacterCounts(self.errors + other.errors, self.reference_characters + other.reference_characters)


def count_word_errors(reference: str, hypothesis: str) -> ErrorCounts:
    """Align two normalized texts word by word (jiwer's Levenshtein alignment)."""
    output = jiwer.process_words(reference, hypothesis)
    return ErrorCounts(output.substitutions, output.deletions, output.insertions, output.hits)


def count_character_errors(reference: str, hypothesis: str) -> CharacterCounts:
    """Align two normalized texts character by character."""
    output = jiwer.process_characters(reference, hypothesis)
    substituted_or_deleted = output.substitutions + output.deletions
    return CharacterCounts(substituted_or_deleted + output.insertions, output.hits + substituted_or_deleted)


def longest_insertion_run(reference: str, hypothesis: str) -> int:
    """Most words in a row of the normalized hypothesis that stand for nothing in the reference."""
    (chunks,) = jiwer.process_words(reference, hypothesis).alignments
    return max((c.hyp_end_idx - c.hyp_start_idx for c in chunks if c.type == "insert"), default=0)


def sum_word_errors(counts: Iterable[ErrorCounts]) -> ErrorCounts:
    """A corpus' counts from its utterances'."""
    return sum(counts, ErrorCounts())


def sum_character_errors(counts: Iterable[CharacterCounts]) -> CharacterCounts:
    """A corpus' counts from its utterances'."""
    return sum(counts, CharacterCounts())


def _rate(errors: int, length: int, unit: str) -> float:
    if length == 0:
        raise EvaluationError(
            f"no reference holds a {unit} after normalization, so there is no error rate: check the corpus' text column"
        )
    return errors / length
