"""The rule of loops at its edges, and what people say that must not meet it."""

import pytest

from qat_plugin.repetition import contains_loop, ends_in_loop, repeats_of_loop


@pytest.mark.parametrize(("size", "repeats"), [(1, 16), (2, 8), (3, 6), (4, 4), (5, 4), (112, 4)])
def test_how_often_a_phrase_must_come(size: int, repeats: int) -> None:
    assert repeats_of_loop(size) == repeats
    before, phrase = [-1, -2, -3], list(range(size))
    assert ends_in_loop(before + phrase * repeats)
    assert contains_loop(before + phrase * repeats + before)
    assert not ends_in_loop(before + phrase * repeats + before)
    one_less = before + phrase * (repeats - 1) + phrase[:-1]
    assert not ends_in_loop(one_less)
    assert not contains_loop(one_less)


@pytest.mark.parametrize(
    "said",
    [
        "",
        "non non non non non non non non non non",
        "zéro zéro zéro zéro zéro zéro zéro",
        "un deux un deux un deux test",
        "et puis et puis et puis et puis et puis et puis et puis",
        "au revoir madame au revoir madame au revoir madame au revoir madame au revoir madame",
        "je ne sais pas je ne sais pas je ne sais pas",
        "zéro six zéro six zéro six zéro six zéro six",
    ],
)
def test_what_people_repeat_is_no_loop(said: str) -> None:
    assert not ends_in_loop(said.split())
    assert not contains_loop(said.split())


def test_nothing_but_the_last_unit_in_between_is_no_loop() -> None:
    assert not contains_loop([1, 2, 3, 4, 5, 1, 2, 3, 4, 6] * 3)
    assert ends_in_loop([1, 2, 3, 4, 5, 1, 2, 3, 4, 6] * 4)
