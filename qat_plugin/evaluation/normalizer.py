"""What is done to references and hypotheses alike before they are compared."""

from __future__ import annotations

from collections.abc import Callable

from transformers.models.whisper.english_normalizer import BasicTextNormalizer

from qat_plugin.errors import EvaluationError
from qat_plugin.evaluation.french import normalize_french
from qat_plugin.normalizers import NORMALIZERS

Normalizer = Callable[[str], str]


def get_normalizer(name: str) -> Normalizer:
    """The normalizer of that name; all of them also trim white space and reduce it to single spaces.

    - ``basic``: Whisper's `BasicTextNormalizer`: lower case; brackets and what they hold go; punctuation and symbols
      become spaces, so that French words part at apostrophes and hyphens; accents stay.
    - ``french``: `normalize_french`: besides, figures and abbreviations become words, and elided words keep their
      apostrophe.
    - ``none``: nothing else.

    Raises:
        EvaluationError: there is no such normalizer.
    """
    if name == "basic":
        basic = BasicTextNormalizer()
        return lambda text: " ".join(basic(text).split())
    if name == "french":
        return normalize_french
    if name == "none":
        return lambda text: " ".join(text.split())
    known = ", ".join(map(repr, NORMALIZERS))
    raise EvaluationError(f"normalizer is {name!r}; known are {known}")
