"""When a phrase that comes again and again is a loop: one rule, for the guard that ends generation and for the report.

A phrase of n units (tokens or words) that comes k times in a row, letter for letter. People, too, say 'non non non non',
spell telephone numbers and count in zeros, so neither few repetitions nor little text make a loop.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

MIN_REPEATS = 4
"""Repetitions in a row that make a loop, of however long a phrase."""

MIN_UNITS = 16
"""Units that they must cover together: a single token comes 16 times, a phrase of 2 tokens 8 times."""


def repeats_of_loop(size: int) -> int:
    """How often a phrase of `size` units comes in a row in a loop."""
    return max(MIN_REPEATS, -(-MIN_UNITS // size))


def ends_in_loop(units: Sequence[Hashable]) -> bool:
    """Whether the last units are a loop. There is no longest phrase: a quarter of all units is the limit."""
    length = len(units)
    for size in range(1, length // MIN_REPEATS + 1):
        if units[-1] != units[-1 - size]:
            continue  # cheap, and true of nearly every size
        # k phrases in a row are a run of (k - 1) * size units, each equal to the one `size` before.
        covered = repeats_of_loop(size) * size
        if covered <= length and units[length - covered + size :] == units[length - covered : length - size]:
            return True
    return False


def contains_loop(units: Sequence[Hashable], repeats: Callable[[int], int] = repeats_of_loop) -> bool:
    """Whether there is a loop anywhere; `repeats` says for the size of a phrase how often it must come."""
    for size in range(1, len(units) // MIN_REPEATS + 1):
        run, needed = 0, (repeats(size) - 1) * size
        for earlier, unit in zip(units, units[size:], strict=False):
            run = run + 1 if unit == earlier else 0
            if run == needed:
                return True
    return False
