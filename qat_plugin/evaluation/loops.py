"""Recognising a decoder that fell into a loop: one such clip can add a hundred insertions to a corpus."""

from __future__ import annotations

import re

MAX_NGRAM = 6
"""Longest phrase, in words, whose repetition is looked for."""

MIN_REPEATS = 5
"""Repetitions in a row that make a loop of words."""

MIN_CHARACTER_REPEATS = 10
"""Repetitions in a row of 1 to 12 characters within one word that make a loop: 'hahaha…', scripts without spaces."""

_CHARACTER_LOOP = re.compile(rf"(\S{{1,12}}?)\1{{{MIN_CHARACTER_REPEATS - 1},}}")


def has_loop(text: str) -> bool:
    """Whether 1 to `MAX_NGRAM` words come `MIN_REPEATS` times in a row, or a few characters within a word do.

    `text` is normalized; words part at spaces.
    """
    words = text.split()
    for size in range(1, MAX_NGRAM + 1):
        # A phrase of `size` words that comes k times in a row is a run of (k - 1) * size words equal to the one
        # `size` places before.
        run, needed = 0, (MIN_REPEATS - 1) * size
        for earlier, word in zip(words, words[size:], strict=False):
            run = run + 1 if word == earlier else 0
            if run == needed:
                return True
    return _CHARACTER_LOOP.search(text) is not None


def is_looping(reference: str, hypothesis: str) -> bool:
    """Whether the hypothesis loops and the speech did not: people, too, say 'non non non non non'."""
    return has_loop(hypothesis) and not has_loop(reference)
