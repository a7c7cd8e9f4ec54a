"""Test texts and voices that are trained on are found, however they are written."""

import json
from pathlib import Path

import pytest

from qat_plugin.demo.hygiene import check_hygiene, normalized
from qat_plugin.errors import DataError


def manifest(path: Path, rows: list[tuple[str, str]]) -> Path:
    lines = [json.dumps({"text": text, "speaker": speaker}) for text, speaker in rows]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_disjoint_corpora_are_counted(tmp_path):
    test = manifest(tmp_path / "test", [("Oui.", "a"), ("Il fait très beau.", "a"), ("il fait tres beau", "a")])
    train = manifest(tmp_path / "train", [("oui !", "b"), ("Il fait très froid.", "b")])
    report = check_hygiene(test, [train], min_words=4)
    assert (report.tested, report.shared_short) == (1, ("oui",))
    assert str(report) == "none of 1 test texts of 4 words or more is trained on; 1 shorter ones are"


def test_a_shared_text_is_an_error(tmp_path):
    test = manifest(tmp_path / "test", [("Composez le numéro 1.", "a")])
    clean, dirty = (
        manifest(tmp_path / "clean", [("Un.", "b")]),
        manifest(tmp_path / "dirty", [("composez LE numero, 1", "c")]),
    )
    with pytest.raises(DataError, match=r"dirty trains on 1 texts of .*test, such as 'composez le numero 1'"):
        check_hygiene(test, [clean, dirty], min_words=4)


def test_a_shared_voice_is_an_error(tmp_path):
    test, train = (
        manifest(tmp_path / "test", [("Bonjour.", "june")]),
        manifest(tmp_path / "train", [("Merci.", "june")]),
    )
    with pytest.raises(DataError, match=r"voice of .*'june'"):
        check_hygiene(test, [train], min_words=1)


def test_normalized():
    assert normalized("  L'ÉTÉ,\u00a0c’est « ici_même » ! ") == "l ete c est ici meme"
