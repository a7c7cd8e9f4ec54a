"""Recognising a decoder that fell into a loop: one such clip can add a hundred insertions to a corpus."""

from __future__ import annotations

import re

from qat_plugin.repetition import contains_loop, repeats_of_loop

MAX_WORD_REPEATS = 5
"""Repetitions in a row that always make a loop of words: a word is more than one of the tokens that the guard counts."""

MIN_CHARACTER_REPEATS = 10
"""Repetitions in a row of 1 to 12 characters within one word that make a loop: 'hahaha…', scripts without spaces."""

_CHARACTER_LOOP = re.compile(rf"(\S{{1,12}}?)\1{{{MIN_CHARACTER_REPEATS - 1},}}")


def has_loop(text: str) -> bool:
    """Whether up to 3 words come 5 times in a row, or 4 words or more 4 times, or a few characters within a word do.

    `text` is normalized; words part at spaces.
    """
    return contains_loop(text.split(), _repeats_of_words) or _CHARACTER_LOOP.search(text) is not None


def _repeats_of_words(size: int) -> int:
    return min(MAX_WORD_REPEATS, repeats_of_loop(size))


def is_looping(reference: str, hypothesis: str) -> bool:
    """Whether the hypothesis loops and the speech did not: people, too, say 'non non non non non'."""
    return has_loop(hypothesis) and not has_loop(reference)
