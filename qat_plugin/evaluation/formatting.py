"""How reports write figures: fractions as percent or points, tables in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Results = Mapping[str, Any]
POOLED = "all corpora"
TOO_FEW = "too few clips to say"
"""What stands in place of an interval, a p-value or a verdict that so few resampled units do not give."""


def measurements_by_corpus(results: Results) -> dict[str, dict[str, Any]]:
    """Corpus → arm → MEASUREMENT, with the pooled corpora last where there are several."""
    measurements = results["measurements"]
    table = {corpus: {arm: measurements[arm][corpus] for arm in measurements} for corpus in results["corpora"]}
    if len(table) > 1:
        table[POOLED] = dict(results["pooled"])
    return table


def normalized(results: Results) -> str:
    """What is said with every figure that depends on the normalizer."""
    return f"texts normalized by '{results['settings']['normalizer']}'"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, text_columns: int) -> str:
    """The first `text_columns` columns to the left, the others, which are figures, to the right."""
    rules = ["---" if i < text_columns else "---:" for i in range(len(header))]
    return "\n".join("| " + " | ".join(map(_cell, row)) + " |" for row in [header, rules, *rows])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def percent(fraction: float) -> str:
    """0.1234 is '12.3'."""
    return f"{100 * fraction:.1f}"


def points(fraction: float) -> str:
    """0.1234 is '12.34'."""
    return f"{100 * fraction:.2f}"


def signed(fraction: float) -> str:
    """0.1234 is '+12.34'."""
    return f"{100 * fraction:+.2f}"


def percent_range(interval: Sequence[float] | None, pattern: str = "{} to {}") -> str:
    """'1.0 to 2.0', or that there are too few clips."""
    return TOO_FEW if interval is None else pattern.format(*map(percent, interval))


def signed_range(interval: Sequence[float] | None, missing: str = "n/a") -> str:
    """'-1.00 to +2.00', or `missing`."""
    return missing if interval is None else f"{signed(interval[0])} to {signed(interval[1])}"


def count_and_share(count: int, whole: int) -> str:
    """3 of 60 is '3 (5.0 %)'."""
    return f"{count} ({percent(count / whole)} %)"


def tested_part(recipe: Mapping[str, Any]) -> str:
    """What a recipe takes of each test corpus, in words; empty: all of it."""
    part = []
    if recipe.get("min_eval_words", 1) > 1:
        part.append(f"clips with {recipe['min_eval_words']} words or more")
    if recipe.get("max_eval_samples"):
        part.append(f"at most {recipe['max_eval_samples']} clips")
        if "sample_seed" in recipe:
            part.append(f"drawn with seed {recipe['sample_seed']}")
    return ", ".join(part)
