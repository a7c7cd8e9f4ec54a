"""The normalizers by name, and NORMALIZERS.md: what it shows is what they do."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from transformers.models.whisper.english_normalizer import BasicTextNormalizer

import qat_plugin.evaluation
from qat_plugin.errors import EvaluationError
from qat_plugin.evaluation.normalizer import get_normalizer
from qat_plugin.evaluation.wer import count_word_errors
from qat_plugin.normalizers import NORMALIZERS
from qat_plugin.recipe import EvaluationArguments

DOCUMENT = Path(qat_plugin.evaluation.__file__).parent / "NORMALIZERS.md"
MANIFEST = Path(__file__).parents[2] / "demo-data" / "speech" / "asterisk_fr" / "manifest.jsonl"
TEXT = "L'été, dit-il,  coûte 5,50 € (environ) !"


def test_every_name_is_known_everywhere() -> None:
    assert set(get_args(get_type_hints(EvaluationArguments)["normalizer"])) == set(NORMALIZERS)
    normalized = {name: get_normalizer(name)(TEXT) for name in NORMALIZERS}
    assert normalized == {
        "basic": "l été dit il coûte 5 50",
        "french": "l' été dit il coûte cinq euros cinquante environ",
        "none": "L'été, dit-il, coûte 5,50 € (environ) !",
    }
    with pytest.raises(EvaluationError, match=r"normalizer is 'frensh'; known are 'basic', 'french', 'none'"):
        get_normalizer("frensh")


def test_basic_is_whispers_own() -> None:
    whispers = BasicTextNormalizer()
    generator = random.Random(0)
    pieces = [
        *"aÀéß'’-.,;:!?()[]<>{}«»%€°ﬁ½²ⅣİœŒ中문한\u0301\u00a0\t\n 09",
        "(rires)",
        "[bruit]",
        "l'été",
        "<unk>",
        "Привет ",
    ]
    for _ in range(5000):
        text = "".join(generator.choices(pieces, k=generator.randint(0, 14)))
        assert get_normalizer("basic")(text) == " ".join(whispers(text).split()), text


def examples() -> list[list[str]]:
    """Rows of the table: reference, transcript, normalizer, reference and transcript as compared, errors."""
    lines = DOCUMENT.read_text(encoding="utf8").splitlines()
    start = lines.index(next(line for line in lines if line.startswith("| reference |"))) + 2
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[start:] if line.startswith("|")]


def test_the_document_shows_what_the_normalizers_do() -> None:
    rows = examples()
    assert len(rows) >= 16 and {row[2] for row in rows} == {"basic", "french"}
    for reference, transcript, name, compared, heard, errors in rows:
        normalize = get_normalizer(name)
        assert [normalize(reference), normalize(transcript)] == [compared, heard]
        assert str(count_word_errors(compared, heard).errors) == errors
    for description in (NORMALIZERS[name] for name in NORMALIZERS):
        assert description in " ".join(DOCUMENT.read_text(encoding="utf8").split())


def test_the_document_shows_real_references() -> None:
    if not MANIFEST.is_file():
        pytest.skip("the demo's speech is not here: make demo fetches it")
    spoken = {json.loads(line)["text"] for line in MANIFEST.read_text(encoding="utf8").splitlines()}
    assert {row[0] for row in examples()} <= spoken
