"""Training speech in the test set."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from synthetic_speech import make_corpus

from qat_plugin.data.corpora import data_definition
from qat_plugin.data.loading import Corpus, load_corpus
from qat_plugin.data.overlap import CorpusOverlap, assert_no_overlap
from qat_plugin.data.rows import RowFilter
from qat_plugin.errors import DataError


def load(path: Path) -> Corpus:
    return load_corpus(data_definition(str(path)))


def test_same_audio_under_another_name_and_text_is_refused(tmp_path: Path) -> None:
    train = make_corpus(tmp_path / "train", [{}, {}])
    test = make_corpus(tmp_path / "test", [{"text": "autre", "frequency": 900}, {"text": "encore", "frequency": 950}])
    assert assert_no_overlap([load(train)], [load(test)]).same_audio == 0
    shutil.copy(tmp_path / "train" / "clip0.wav", tmp_path / "test" / "clip1.wav")
    with pytest.raises(DataError, match=r"1 audio files and 0 texts of 2 test rows") as caught:
        assert_no_overlap([load(train)], [load(test)])
    assert caught.match(r"\n  test:clip1\.wav is the audio of train:clip0\.wav\n")


def test_shared_text_is_counted(tmp_path: Path) -> None:
    train = [load(make_corpus(tmp_path / "train", [{"text": "oui"}, {"text": "non"}]))]
    rows = [{"text": "ouf", "frequency": 900}, {"text": "Oui !", "frequency": 950}, {"text": "!", "frequency": 990}]
    test = [load(make_corpus(tmp_path / "test", rows))]
    report = assert_no_overlap(train, test)
    assert (report.test_rows, report.same_text, report.same_audio) == (3, 1, 0)
    assert report.examples == ["test:clip1.wav has the text of train:clip0.wav: 'Oui !'"]


def test_speech_without_texts_is_told_to_have_none(tmp_path: Path) -> None:
    written = load(make_corpus(tmp_path / "written", [{"text": "oui"}]))
    make_corpus(tmp_path / "spoken", [{"frequency": 650}, {"frequency": 700}])
    rows = [{"audio": "clip0.wav"}, {"audio": "clip1.wav"}]
    manifest = tmp_path / "spoken" / "silent.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    spoken = load_corpus(data_definition(str(manifest)), keep=RowFilter(require_text=False))
    test = load(make_corpus(tmp_path / "test", [{"text": "oui", "frequency": 900}]))
    assert assert_no_overlap([written, spoken], [test]).corpora == {"test": CorpusOverlap(1, 1, 0, [], ["silent"])}


def test_each_test_corpus_has_its_own_counts(tmp_path: Path) -> None:
    train = [load(make_corpus(tmp_path / "train", [{"text": "oui"}, {"text": "non"}]))]
    shared = load(
        make_corpus(tmp_path / "shared", [{"text": "oui", "frequency": 900}, {"text": "non", "frequency": 950}])
    )
    other = load(make_corpus(tmp_path / "other", [{"text": "bon", "frequency": 800}]))
    report = assert_no_overlap(train, [shared, other])
    assert report.corpora == {"shared": CorpusOverlap(2, 2, 0, []), "other": CorpusOverlap(1, 0, 0, [])}
    assert (report.test_rows, report.same_text) == (3, 2)
    # What is streamed is compared with nothing, on either side.
    definition = dataclasses.replace(other.definition, name="radio")
    radio = dataclasses.replace(other, definition=definition, rows=other.rows.to_iterable_dataset())
    assert assert_no_overlap([*train, radio], [shared]).corpora == {"shared": CorpusOverlap(2, 2, 0, ["radio"])}
    assert assert_no_overlap(train, [radio]).corpora == {"radio": CorpusOverlap(0, 0, 0, ["train"])}


def test_corpora_of_one_name_are_not_mixed_up(tmp_path: Path) -> None:
    train = make_corpus(tmp_path / "train" / "fr", [{"text": "un"}, {"text": "deux", "frequency": 700}])
    test = make_corpus(
        tmp_path / "test" / "fr", [{"text": "trois", "frequency": 900}, {"text": "quatre", "frequency": 950}]
    )
    assert load(train).name == load(test).name
    assert assert_no_overlap([load(train)], [load(test)]).same_audio == 0
    shutil.copy(tmp_path / "train" / "fr" / "clip0.wav", tmp_path / "test" / "fr" / "clip1.wav")
    with pytest.raises(DataError, match="1 audio files"):
        assert_no_overlap([load(train)], [load(test)])
