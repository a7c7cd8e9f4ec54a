"""Finding corpora: by name, by definition, by path, and the errors on the way."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from synthetic_speech import make_corpus

from qat_plugin.data.corpora import CorpusDefinition, find_corpora, find_corpus, known_corpora, read_definition
from qat_plugin.data.loading import load_corpus
from qat_plugin.errors import DataError


def test_shipped_definitions_are_readable_and_complete() -> None:
    known = known_corpora()
    assert {"community-v2", "mtedx", "zaion5", "zaion6"} <= set(known)
    for name, path in known.items():
        definition = read_definition(path)
        assert definition.name == name
        assert definition.description


def test_hub_definition_is_found_by_name_with_a_revision() -> None:
    definition = find_corpus("community-v2")
    assert definition.source == "hub"
    assert definition.path == "speech-recognition-community-v2/dev_data"
    assert (definition.config, definition.split, definition.text_column) == ("fr", "validation", "sentence")
    assert definition.revision


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(DataError, match=r"unknown corpus 'comunity-v2'\. Known: .*community-v2.*mtedx.*zaion5.*zaion6"):
        find_corpus("comunity-v2")


def test_private_corpus_needs_and_takes_a_manifest(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"corpus 'zaion5' is private.*--corpus_manifests zaion5=PATH"):
        find_corpus("zaion5")
    manifest = make_corpus(tmp_path / "calls", [{}])
    definition = find_corpus("zaion5", [f"zaion5={manifest}"])
    assert (definition.name, definition.source, definition.path) == ("zaion5", "manifest", str(manifest))


def test_local_copy_replaces_a_hub_corpus(tmp_path: Path) -> None:
    manifest = make_corpus(tmp_path / "mirror", [{}])
    definition = find_corpus("mtedx", [f"mtedx={manifest}"])
    assert (definition.name, definition.source, definition.path) == ("mtedx", "manifest", str(manifest))
    assert definition.revision is None and definition.split is None


@pytest.mark.parametrize(
    ("columns", "read"),
    [({}, "texte 0"), ({"sentence": "du Hub"}, "du Hub"), ({"client_id": "x"}, "texte 0")],
)
def test_a_local_copy_may_call_its_columns_as_usual_or_as_on_the_hub(
    tmp_path: Path, columns: dict[str, str], read: str
) -> None:
    manifest = make_corpus(tmp_path / "mirror", [columns])
    corpus = load_corpus(find_corpus("common-voice-fr", [f"common-voice-fr={manifest}"]))
    (row,) = corpus
    assert (row["text"], row["speaker"]) == (read, columns.get("client_id"))


@pytest.mark.parametrize("entry", ["zaion5", "=a.jsonl", "zaion5="])
def test_malformed_manifest_entry(entry: str) -> None:
    with pytest.raises(DataError, match=r"is not NAME=PATH, as in zaion5=/data/zaion5\.jsonl"):
        find_corpus("zaion5", [entry])


def test_definitions_of_the_current_folder_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "recipes" / "corpora"
    folder.mkdir(parents=True)
    (folder / "ours.json").write_text(json.dumps({"source": "manifest", "path": "mine.jsonl"}))
    monkeypatch.chdir(tmp_path)
    assert find_corpus("ours").path == str((folder / "mine.jsonl").resolve())


def test_own_data_by_path(tmp_path: Path) -> None:
    manifest = make_corpus(tmp_path / "calls", [{}])
    assert find_corpus(str(manifest)).name == "calls"
    assert find_corpus(str(tmp_path / "calls")).source == "audiofolder"
    renamed = manifest.rename(manifest.with_name("manifest.jsonl"))
    assert find_corpus(str(renamed)).name == "calls"  # 'manifest' would say nothing
    as_json = tmp_path / "my_test.json"
    as_json.write_text(json.dumps([{"audio": "a.wav", "text": "a"}]))
    assert find_corpus(str(as_json)).source == "manifest"
    definition = tmp_path / "mine.json"
    definition.write_text(json.dumps({"source": "manifest", "path": "calls/manifest.jsonl"}))
    assert find_corpus(str(definition)).path == str(renamed)


def test_missing_path() -> None:
    with pytest.raises(DataError, match=r"'no/such\.jsonl' does not exist"):
        find_corpus("no/such.jsonl")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"source": "hub", "pth": "a"}', r"unknown field 'pth'\. Known: source, path"),
        ('{"source": "ftp"}', r"'source' is 'ftp'; use one of hub, manifest"),
        ('{"source": "hub", "path": "a/b", "split": "test"}', r"source 'hub' needs 'revision'"),
        ('{"source": "manifest", "path": 3}', r"'path' is 3; it must be a string"),
        ('{"source": ', r"line 1 is not valid JSON"),
        ("[]", r"must be an object with 'source'"),
    ],
)
def test_broken_definition(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "c.json"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        read_definition(path)


def test_two_corpora_of_one_name(tmp_path: Path) -> None:
    first, second = make_corpus(tmp_path / "a" / "calls", [{}]), make_corpus(tmp_path / "b" / "calls", [{}])
    message = f"two corpora are named 'calls': those of '{first}' and '{second}'"
    with pytest.raises(DataError, match=re.escape(message)):
        find_corpora([str(first), str(second)])


def test_a_definition_of_the_current_folder_does_not_pass_for_the_shipped_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shipped = known_corpora()["mtedx"]
    own = tmp_path / "recipes" / "corpora" / "mtedx.json"
    own.parent.mkdir(parents=True)
    own.write_bytes(shipped.read_bytes())
    assert find_corpus("mtedx") == read_definition(shipped)
    own.write_text(json.dumps({**json.loads(shipped.read_text()), "split": "other"}))
    with pytest.raises(DataError, match=r"corpus 'mtedx' has two definitions, .*: give the path of the one you mean"):
        find_corpus("mtedx")
    assert find_corpus(str(own)).split == "other" and find_corpus(str(own)).name == "mtedx"


def test_the_source_of_a_corpus_names_the_commit_that_was_read() -> None:
    definition = CorpusDefinition("speech", "hub", "someone/speech", split="test", revision="main", license="cc0-1.0")
    assert definition.source_of("0123abc")["revision"] == "0123abc"
    assert definition.source_of() == {
        "source": "hub", "path": "someone/speech", "config": None, "split": "test", "revision": "main", "task_id": None,
        "license": "cc0-1.0", "description": "",
    }  # fmt: skip
