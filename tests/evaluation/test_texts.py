"""Normalizer, errors, loops: exact values worked out by hand."""

import pytest

from qat_plugin.errors import EvaluationError
from qat_plugin.evaluation.loops import has_loop, is_looping
from qat_plugin.evaluation.normalizer import get_normalizer
from qat_plugin.evaluation.wer import (
    CharacterCounts,
    ErrorCounts,
    count_character_errors,
    count_word_errors,
    sum_character_errors,
    sum_word_errors,
)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("basic", "  L'été, c'est DÉJÀ fini !\n", "l été c est déjà fini"),
        ("basic", "arc-en-ciel [rires] (hors micro) 3,5 %", "arc en ciel 3 5"),
        ("basic", "...", ""),
        ("none", "  L'été,  c'est\tDÉJÀ fini !\n", "L'été, c'est DÉJÀ fini !"),
    ],
)
def test_normalizer(name: str, text: str, expected: str) -> None:
    assert get_normalizer(name)(text) == expected


@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [
        ("le chat dort", "le chat dort", ErrorCounts(hits=3)),
        ("le chat dort", "le chien dort", ErrorCounts(substitutions=1, hits=2)),
        ("le chat dort ici", "chat dort", ErrorCounts(deletions=2, hits=2)),
        ("le chat", "le le chat noir", ErrorCounts(insertions=2, hits=2)),
        ("", "un deux trois", ErrorCounts(insertions=3)),
        ("un deux", "", ErrorCounts(deletions=2)),
        ("", "", ErrorCounts()),
    ],
)
def test_word_errors(reference: str, hypothesis: str, expected: ErrorCounts) -> None:
    assert count_word_errors(reference, hypothesis) == expected


def test_corpus_wer_is_the_rate_of_sums() -> None:
    pairs = [("un deux trois quatre", "un deux trois quatre"), ("oui", "non"), ("", "euh bon")]
    total = sum_word_errors(count_word_errors(*pair) for pair in pairs)
    assert total == ErrorCounts(substitutions=1, insertions=2, hits=4)
    assert (total.errors, total.reference_words) == (3, 5)
    assert total.wer == 3 / 5  # the mean of the utterances' rates would be 1/2, or undefined


def test_character_errors() -> None:
    assert count_character_errors("été", "ete") == CharacterCounts(2, 3)
    assert count_character_errors("a b", "ab") == CharacterCounts(1, 3)  # the space is a character
    assert count_character_errors("", "ab") == CharacterCounts(2, 0)
    total = sum_character_errors([CharacterCounts(2, 3), CharacterCounts(2, 0)])
    assert total.cer == 4 / 3


@pytest.mark.parametrize(("rate", "unit"), [(lambda: ErrorCounts(insertions=2).wer, "word"),
                                            (lambda: CharacterCounts(2, 0).cer, "character")])  # fmt: skip
def test_no_reference_no_rate(rate, unit: str) -> None:
    with pytest.raises(EvaluationError, match=f"no reference holds a {unit} after normalization"):
        rate()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", False),
        ("non non non non", False),
        ("non non non non non", True),
        ("alors " + "et puis " * 4 + "voilà", False),
        ("alors " + "et puis " * 5 + "voilà", True),
        ("un deux trois " * 4, False),
        ("un deux trois " * 5, True),
        ("un deux trois quatre " * 3 + "un deux trois", False),
        ("un deux trois quatre " * 4, True),
        ("ça commence " + " ".join(f"mot{i}" for i in range(40)).join([" "] * 4) + " et ça finit", False),
        ("ça commence " + " ".join(f"mot{i}" for i in range(40)).join([" "] * 5) + " et ça finit", True),
        # four repetitions twice over are not eight in a row
        ("oui oui oui oui non oui oui oui oui", False),
        ("ha" * 9, False),
        ("ha" * 10, True),
        ("謝謝" * 10, True),
    ],
)
def test_loop(text: str, expected: bool) -> None:
    assert has_loop(text) is expected


def test_what_was_said_is_no_loop() -> None:
    assert is_looping("il a dit non", "il a dit non non non non non")
    assert not is_looping("non non non non non non", "non non non non non")
