"""What is done to references and hypotheses alike before they are compared."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

from qat_plugin.errors import EvaluationError
from qat_plugin.evaluation.french import normalize_french
from qat_plugin.normalizers import NORMALIZERS

Normalizer = Callable[[str], str]


def get_normalizer(name: str) -> Normalizer:
    """The normalizer of that name; all of them also trim white space and reduce it to single spaces.

    - ``basic``: `normalize_basic`: lower case; brackets and what they hold go; punctuation and symbols
      become spaces, so that French words part at apostrophes and hyphens; accents stay.
    - ``french``: `normalize_french`: besides, figures and abbreviations become words, and elided words keep their
      apostrophe.
    - ``none``: nothing else.

    Raises:
        EvaluationError: there is no such normalizer.
    """
    if name == "basic":
        return normalize_basic
    if name == "french":
        return normalize_french
    if name == "none":
        return lambda text: " ".join(text.split())
    known = ", ".join(map(repr, NORMALIZERS))
    raise EvaluationError(f"normalizer is {name!r}; known are {known}")


# What they hold is seldom said: 'inaudible', 'laughter'.
_BRACKETS = re.compile(r"[<\[][^>\]]*[>\]]")
_PARENTHESES = re.compile(r"\([^)]+?\)")


def normalize_basic(text: str) -> str:
    """What Whisper's `BasicTextNormalizer` makes of `text`, white space reduced to single spaces.

    Here anew, because transformers takes torch along, and results are scored and shown where neither is (a test compares).
    """
    text = unicodedata.normalize("NFKC", _PARENTHESES.sub("", _BRACKETS.sub("", text.lower())))
    # marks, symbols and punctuation
    return " ".join("".join(" " if unicodedata.category(char)[0] in "MSP" else char for char in text).lower().split())
