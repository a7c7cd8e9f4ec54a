"""Corpus WER and CER with their counts, as an `evaluate` module.

`evaluate.load` copies this file elsewhere and imports the copy: only absolute imports work here.
"""

from __future__ import annotations

from typing import Any

import datasets
import evaluate

from qat_plugin.errors import EvaluationError
from qat_plugin.evaluation.normalizer import get_normalizer
from qat_plugin.evaluation.wer import (
    count_character_errors,
    count_word_errors,
    sum_character_errors,
    sum_word_errors,
)

_DESCRIPTION = """\
Word error rate of a corpus: (substitutions + deletions + insertions) / words of the references, summed over all
utterances before the division. Empty references are allowed: what is transcribed there counts as insertions."""

_INPUTS = """\
Args:
    predictions (list of str): transcripts of the system.
    references (list of str): what was said.
    normalizer (str): applied to both. 'basic' (default): Whisper's BasicTextNormalizer; 'french': figures and abbreviations in
        words, too, elided words with their apostrophe; 'none': white space only.
Returns:
    wer, cer: fractions.
    substitutions, deletions, insertions, hits, reference_words, character_errors, reference_characters: counts.
Examples:
    >>> metric = evaluate.load(metric_path())
    >>> metric.compute(predictions=["le chat dort"], references=["Le chat, dort-il ?"])["wer"]
    0.25
"""

_CITATION = """\
@inproceedings{morris2004, title={From WER and RIL to MER and WIL: improved evaluation measures for connected speech
recognition}, author={Morris, Andrew Cameron and Maier, Viktoria and Green, Phil}, booktitle={Interspeech}, year={2004}}
"""


class QatWer(evaluate.Metric):
    """The metric that evaluation and training share."""

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": text, "references": text}),
            reference_urls=["https://github.com/jitsi/jiwer"],
        )

    def _compute(self, predictions: list[str], references: list[str], normalizer: str = "basic") -> dict[str, Any]:
        if len(predictions) == 0:
            raise EvaluationError("no predictions were given: there is no WER of nothing")
        normalize = get_normalizer(normalizer)
        texts = zip(references, predictions, strict=True)
        pairs = [(normalize(reference), normalize(prediction)) for reference, prediction in texts]
        words = sum_word_errors(count_word_errors(*pair) for pair in pairs)
        characters = sum_character_errors(count_character_errors(*pair) for pair in pairs)
        return {
            "wer": words.wer,
            "cer": characters.cer,
            "substitutions": words.substitutions,
            "deletions": words.deletions,
            "insertions": words.insertions,
            "hits": words.hits,
            "reference_words": words.reference_words,
            "character_errors": characters.errors,
            "reference_characters": characters.reference_characters,
        }
