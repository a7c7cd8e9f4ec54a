"""Every committed card is what its committed results render to: no figure was typed."""

import inspect
import json
import re
from pathlib import Path

import pytest
from test_card import looked_up

from qat_plugin.publishing import render_card

MODEL_CARDS = Path(__file__).parents[2] / "model_cards"
RESULTS = sorted(MODEL_CARDS.glob("*/results.json"))


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.parent.name)
def test_card_is_rendered_from_its_results(path: Path) -> None:
    document = json.loads(path.read_text(encoding="utf8"))
    assert (path.parent / "README.md").read_text(encoding="utf8") == render_card(document)


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.parent.name)
def test_every_number_of_a_card_is_one_of_its_results(path: Path) -> None:
    card = (path.parent / "README.md").read_text(encoding="utf8")
    assert looked_up(card, json.loads(path.read_text(encoding="utf8"))) == []


def test_no_card_is_without_results() -> None:
    cards = {path.parent for path in MODEL_CARDS.glob("*/README.md")}
    assert cards == {path.parent for path in RESULTS}


def test_the_readme_says_where_the_template_is() -> None:
    readme = (MODEL_CARDS / "README.md").read_text(encoding="utf8")
    (target,) = re.findall(r"\]\((\S+\.jinja)\)", readme)
    assert (MODEL_CARDS / target).resolve() == Path(inspect.getfile(render_card)).parent / "templates" / "card.md.jinja"
    assert (MODEL_CARDS / target).is_file()
