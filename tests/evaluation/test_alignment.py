"""Word under word: every arm's words, each in one place, and as many errors as the WER counts."""

import random

import pytest

from qat_plugin.evaluation.alignment import align
from qat_plugin.evaluation.wer import count_word_errors


def rows(reference: str, *hypotheses: str) -> list[list[str]]:
    columns = align(reference, {str(i): text for i, text in enumerate(hypotheses)})
    return [[column.reference, *column.heard.values()] for column in columns]


@pytest.mark.parametrize(
    ("reference", "hypotheses", "expected"),
    [
        ("le chat", ["le chat", "le rat"], [["le", "le", "le"], ["chat", "chat", "rat"]]),
        ("un deux trois", ["trois", "un deux"], [["un", "", "un"], ["deux", "", "deux"], ["trois", "trois", ""]]),
        # inserted by one, by the other, by both
        ("oui", ["ah oui", "oui bien sûr"], [["", "ah", ""], ["oui", "oui", "oui"], ["", "", "bien"], ["", "", "sûr"]]),
        ("", ["euh", "ah bon"], [["", "euh", "ah"], ["", "", "bon"]]),
        ("oui", [""], [["oui", ""]]),
    ],
)
def test_words_stand_under_what_they_are_compared_with(
    reference: str, hypotheses: list[str], expected: list[list[str]]
) -> None:
    assert rows(reference, *hypotheses) == expected


def test_columns_hold_every_word_and_the_errors_that_are_counted() -> None:
    generator = random.Random(0)
    for _ in range(300):
        reference, *heard = (" ".join(generator.choices("abc", k=generator.randint(0, 7))) for _ in range(4))
        found = rows(reference, *heard)
        assert " ".join(row[0] for row in found if row[0]) == reference
        for i, text in enumerate(heard, start=1):
            assert " ".join(row[i] for row in found if row[i]) == text
            assert sum(row[0] != row[i] for row in found) == count_word_errors(reference, text).errors
