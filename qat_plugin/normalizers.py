"""The normalizers by name and in words: what recipe, table, report and card say of them.

`qat_plugin.evaluation.normalizer` has the functions, `qat_plugin/evaluation/NORMALIZERS.md` shows the difference.
"""

from __future__ import annotations

NORMALIZERS = {
    "basic": "Whisper's BasicTextNormalizer: lower case, no punctuation; words part at apostrophes and hyphens, "
    "accents stay",
    "french": "French as it is said: figures and abbreviations in words, elided words with their apostrophe, œ as oe; lower "
    "case, no punctuation, words part at hyphens",
    "none": "none: case and punctuation count",
}
