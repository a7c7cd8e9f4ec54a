"""The report as a page: everything inside, and every wrong word marked."""

import pytest

from qat_plugin.evaluation.page import Utterance, mark_errors, part_most


@pytest.mark.parametrize(
    ("reference", "hypothesis", "marked"),
    [
        ("le chat dort", "le chat dort", "le chat dort"),
        ("le chat dort", "le rat dort bien", "le <del>chat</del> <ins>rat</ins> dort <ins>bien</ins>"),
        ("un deux trois", "trois", "<del>un deux</del> trois"),
        ("", "merci <b>", "<ins>merci &lt;b&gt;</ins>"),
        ("bonjour", "", "<del>bonjour</del>"),
    ],
)
def test_wrong_and_missing_words_are_marked(reference, hypothesis, marked):
    assert mark_errors(reference, hypothesis) == marked


def test_the_utterances_that_part_arms_most_come_first():
    def heard(name, fp, qat):
        return Utterance(name, "", {"fp": (fp, ""), "ptq": (9, ""), "qat": (qat, "")})

    utterances = [heard("same", 3, 3), heard("worse", 0, 2), heard("better", 4, 1), heard("much worse", 0, 3)]
    found = part_most(utterances, ["fp", "ptq", "qat"])
    assert [utterance.id for utterance in found] == ["much worse", "better", "worse"]
    assert len(part_most(utterances, ["fp", "ptq", "qat"], count=1)) == 1
