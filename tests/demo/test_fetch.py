"""The command fetches both parts, checks that the test texts are unseen, and says in a line what is wrong."""

import json

import pytest

from qat_plugin.demo import fetch
from qat_plugin.demo.__main__ import main


@pytest.fixture
def corpora(tmp_path, monkeypatch):
    """Manifests of three corpora by name; what was asked of the functions that fetch is under 'asked'."""
    manifests, asked = {}, []
    texts = {"asterisk_fr": "Composez le numéro deux.", "asterisk_it": "Un gatto.", "tuxpaint_fr": "Un chat."}
    for name, text in texts.items():
        manifests[name] = tmp_path / f"{name}.jsonl"
        manifests[name].write_text(json.dumps({"text": text, "speaker": name}), encoding="utf-8")
    monkeypatch.setattr(fetch, "fetch_whisper_base", lambda folder: asked.append(("weights", folder)))
    long = tmp_path / "asterisk_fr_long.jsonl"
    long.write_text(json.dumps({"duration": 120.0}), encoding="utf-8")
    monkeypatch.setattr(fetch, "make_long_clips", lambda manifest, **options: asked.append((manifest, options)) or long)
    monkeypatch.setattr(
        fetch, "fetch_speech", lambda folder, **options: asked.append((folder, options)) or dict(manifests)
    )
    return {**manifests, "asked": asked}


def test_fetches_both_and_reports(corpora, tmp_path, capsys):
    assert main([str(tmp_path), "--full", "--allow_other_versions"]) == 0
    assert corpora["asked"] == [
        ("weights", tmp_path),
        (tmp_path, {"full": True, "allow_other_versions": True}),
        (corpora["asterisk_fr"], {"min_words": 4}),
    ]
    said = capsys.readouterr().out
    assert "asterisk_fr_long, prompts of asterisk_fr one after the other: 1 utterances, 2.0 min\n" in said
    assert "asterisk_fr against tuxpaint_fr: none of 1 test texts of 4 words or more is trained on\n" in said
    assert "asterisk_it against tuxpaint_fr: none of 0 test texts of 4 words or more is trained on\n" in said


def test_a_test_text_that_is_trained_on_is_refused(corpora, tmp_path, capsys):
    corpora["tuxpaint_fr"].write_bytes(corpora["asterisk_fr"].read_bytes())
    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith(f"error: {corpora['tuxpaint_fr']} trains on 1 texts of")
