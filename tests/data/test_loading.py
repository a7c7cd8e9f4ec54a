"""Manifests and folders of audio: what is kept, what is refused, and what is said about it."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import soundfile as sf
from synthetic_speech import make_corpus, strongest_frequency, write_jsonl, write_tone

from qat_plugin.data.corpora import CorpusDefinition, data_definition
from qat_plugin.data.loading import Corpus, load_corpus, load_test_corpora, load_training_corpora
from qat_plugin.data.revisions import RunRevisions
from qat_plugin.data.rows import RowFilter
from qat_plugin.errors import DataError
from qat_plugin.recipe import DataArguments, EvaluationArguments

LENIENT = 1.0


def load(path: Path, **options: Any) -> Corpus:
    return load_corpus(data_definition(str(path)), **options)


def rejected(corpus: Corpus) -> dict[str, int]:
    return {reason: rows.count for reason, rows in corpus.report.rejected.items()}


def test_rows_have_one_shape(tones_manifest: Path) -> None:
    corpus = load(tones_manifest)
    rows = list(corpus)
    assert len(corpus) == len(rows) == 6
    assert set(rows[0]) == {"id", "corpus", "audio", "text", "duration", "speaker", "language"}
    assert rows[2] == {
        "id": "clip2.wav",
        "corpus": corpus.name,
        "audio": {"bytes": None, "path": str(tones_manifest.parent / "clip2.wav")},
        "text": "il fait beau aujourd'hui",
        "duration": pytest.approx(1.0),
        "speaker": "s0",
        "language": "fr",
    }
    audio = corpus.read(rows[2])
    assert audio.shape == (16000,)
    assert corpus.report.kept == 6 and corpus.report.seconds == pytest.approx(6.6)


def _write(folder: Path, form: str, rows: list[dict[str, str]]) -> Path:
    path = folder / f"m.{form.split('-')[0]}"
    if form == "json":
        path.write_text(json.dumps(rows))
    elif form == "json-data":
        path.write_text(json.dumps({"version": 1, "data": rows}))
    elif form == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n\n" for row in rows))
    else:
        delimiter = {"csv": ",", "csv-semicolon": ";", "tsv": "\t"}[form]
        with path.open("w", encoding="utf-8-sig", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)
    return path


@pytest.mark.parametrize("form", ["json", "json-data", "jsonl", "csv", "csv-semicolon", "tsv"])
@pytest.mark.parametrize(("audio", "text"), [("audio", "text"), ("audio_filepath", "sentence"), ("path", "transcript")])
def test_every_manifest_format_and_column_name(tmp_path: Path, form: str, audio: str, text: str) -> None:
    write_tone(tmp_path / "sub" / "a.wav", 300)
    write_tone(tmp_path / "b.flac", 600, sampling_rate=44100)
    rows = [{audio: "sub/a.wav", text: "Été, Ça va ?"}, {audio: str(tmp_path / "b.flac"), text: "MAJUSCULES"}]
    corpus = load(_write(tmp_path, form, rows))
    assert [row["text"] for row in corpus] == ["Été, Ça va ?", "MAJUSCULES"]  # own casing, own accents
    assert [strongest_frequency(corpus.read(row)) for row in corpus] == pytest.approx([300, 600], abs=2)
    assert [row["duration"] for row in corpus] == [1.0, 1.0]  # from the headers: no manifest names it


def test_audiofolder(tmp_path: Path) -> None:
    write_tone(tmp_path / "corpus" / "test" / "clips" / "a.wav")
    metadata = "file_name,transcription\nclips/a.wav,bonjour\n"
    (tmp_path / "corpus" / "test" / "metadata.csv").write_text(metadata)
    definition = CorpusDefinition("mine", "audiofolder", str(tmp_path / "corpus"), split="test")
    assert [row["text"] for row in load_corpus(definition)] == ["bonjour"]
    with pytest.raises(DataError, match=r"has no metadata\.jsonl or metadata\.csv.*holds: test\."):
        load(tmp_path / "corpus")


def test_wrong_key_lists_those_found(tmp_path: Path) -> None:
    write_tone(tmp_path / "a.wav")
    path = write_jsonl(tmp_path / "m.jsonl", [{"audio": "a.wav", "txt": "bonjour", "langue": "fr"}])
    with pytest.raises(DataError, match=r"m\.jsonl: no text column\. Columns found: 'audio', 'txt', 'langue'\..*'txt'"):
        load(path)
    path = write_jsonl(tmp_path / "m.jsonl", [{"son": "a.wav", "text": "bonjour"}])
    with pytest.raises(DataError, match=r"no audio column\. Columns found: 'son', 'text'\. Rename"):
        load(path)


def test_definition_that_names_a_missing_column(tmp_path: Path) -> None:
    path = make_corpus(tmp_path / "c", [{}])
    definition = CorpusDefinition("c", "manifest", str(path), text_column="phrase")
    with pytest.raises(DataError, match=r"names the text column 'phrase'.*Columns found: 'audio', 'text'"):
        load_corpus(definition)


@pytest.mark.parametrize(
    ("row", "reason", "detail"),
    [
        ({"audio": "nowhere.wav"}, "audio missing", r"line 3: audio .*nowhere\.wav does not exist"),
        ({"audio": "broken.wav"}, "audio unreadable", r"line 3: audio .*broken\.wav cannot be decoded"),
        (
            {"audio": "samples.raw"},
            "audio unreadable",
            r"line 3: audio .*samples\.raw is raw: nothing in it tells its rate",
        ),
        ({"audio": "empty.wav"}, "audio unreadable", r"line 3: audio .*empty\.wav is empty \(0 bytes\)"),
        ({"audio": 7}, "no audio", r"line 3: 'audio' is 7, not a path"),
        ({"text": "  "}, "empty text", r"line 3: 'text' is '  '\. Transcribe or remove it\. \(audio .*a\.wav\)"),
        ({"text": None}, "empty text", r"line 3: 'text' is None"),
        ({"text": 12}, "text is not a string", r"line 3: 'text' is 12\. Quote it"),
        (
            {"sampling_rate": 8000},
            "wrong sampling rate",
            r"says 8000 Hz, audio .*a\.wav has 16000 Hz\. Correct the tag",
        ),
        ({"duration": 9.5}, "wrong duration", r"'duration' says 9\.5 s, audio .*a\.wav lasts 1\.00 s"),
        ({"offset": 3.5}, "segment of a longer file", r"'offset' is 3\.5: the row means a part of .*Cut the audio"),
    ],
)
def test_bad_row_is_listed_and_fatal_above_the_share(
    tmp_path: Path, row: dict[str, Any], reason: str, detail: str
) -> None:
    write_tone(tmp_path / "a.wav")
    (tmp_path / "broken.wav").write_text("RIFF?")
    (tmp_path / "samples.raw").write_bytes(bytes(3200))
    (tmp_path / "empty.wav").touch()
    rows: list[dict[str, Any]] = [{"audio": "a.wav", "text": "bien"} for _ in range(4)]
    rows[2].update(row)
    path = write_jsonl(tmp_path / "m.jsonl", rows)
    with pytest.raises(DataError, match=r"1 of 4 rows cannot be used \(25\.0%, allowed 1\.0%\)") as caught:
        load(path)
    assert caught.match(detail) and caught.match(rf"1 x {reason}")
    corpus = load(path, max_bad_row_share=0.25)
    assert rejected(corpus) == {reason: 1}
    assert (corpus.report.total, corpus.report.kept, corpus.report.bad, corpus.report.dropped) == (4, 3, 1, 0)


def test_broken_lines_are_bad_rows(tmp_path: Path) -> None:
    path = make_corpus(tmp_path / "c", [{}, {}])
    path.write_text(path.read_text() + '{"audio": \n["clip0.wav", "x"]\n')
    corpus = load(path, max_bad_row_share=LENIENT)
    assert corpus.report.kept == 2
    assert corpus.report.rejected["not a row"].examples == [
        f"{path} line 3: is not valid JSON: Expecting value at column 10",
        f"{path} line 4: is ['clip0.wav', 'x'], not an object with keys",
    ]


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("m.csv", 'audio,text\na.wav,oui\na.wav,"non\na.wav,si\na.wav,oui\n', 3),
        ("m.csv", 'audio,text\na.wav,"oui\na.wav,"non"\na.wav,si\n', 2),
        ("m.tsv", 'audio\ttext\na.wav\t"oui\na.wav\tnon', 2),
        ("m.csv", 'audio,"text\na.wav,oui\n', 1),
        ("m.csv", 'audio,text\na.wav,"oui\n' + "a.wav,non\n" * 20_000, 2),
    ],
)  # fmt: skip
def test_a_quote_that_is_not_closed_does_not_swallow_rows(tmp_path: Path, name: str, content: str, line: int) -> None:
    write_tone(tmp_path / "a.wav")
    (tmp_path / name).write_text(content)
    with pytest.raises(
        DataError, match=rf"{name} line {line}: a field goes on over the end of the line\. Close its quote"
    ):
        load(tmp_path / name, max_bad_row_share=LENIENT)


def test_quotes_that_are_closed_are_read(tmp_path: Path) -> None:
    write_tone(tmp_path / "a.wav")
    (tmp_path / "m.csv").write_text('audio,text\n\na.wav,"oui, ""non"""\r\na.wav,c\'est "ça"\n')
    assert [row["text"] for row in load(tmp_path / "m.csv")] == ['oui, "non"', 'c\'est "ça"']


def test_csv_with_an_unquoted_comma_is_a_bad_row(tmp_path: Path) -> None:
    write_tone(tmp_path / "a.wav")
    (tmp_path / "m.csv").write_text("audio,text\na.wav,oui, non\na.wav,oui\n")
    corpus = load(tmp_path / "m.csv", max_bad_row_share=LENIENT)
    assert (
        corpus.report.rejected["not a row"]
        .examples[0]
        .endswith("line 2: has 1 more fields than the header. Quote the text.")
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.json", "[{", r"m\.json line 1 is not valid JSON"),
        ("m.json", '{"a": 1}\n{"a": 2}\n', r"line 2 is not valid JSON: Extra data\. .*rename it to \.jsonl"),
        ("m.json", '{"rows": []}', r"object with the keys \['rows'\]; it must be a list of objects"),
        ("m.jsonl", "", r"m\.jsonl has no row"),
        ("m.txt", "a", r"unknown suffix '\.txt'\. Use one of \.json, \.jsonl, \.csv, \.tsv"),
    ],
)
def test_unusable_manifest(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        load(tmp_path / name)


def test_manifest_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_bytes("audio,text\na.wav,été\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"m\.csv is not UTF-8"):
        load(tmp_path / "m.csv")


def test_filters_count_and_name_what_they_leave_out(tmp_path: Path) -> None:
    rows = [
        {"seconds": 0.1},
        {"seconds": 1.0, "text": "un deux trois"},
        {"seconds": 3.0},
        {"seconds": 1.0, "text": "un"},
    ]
    path = make_corpus(tmp_path / "c", rows)
    corpus = load(path, keep=RowFilter(min_duration=0.2, max_duration=2.0, min_words=2))
    assert [row["text"] for row in corpus] == ["un deux trois"]
    assert rejected(corpus) == {"shorter than 0.2 s": 1, "longer than 2 s": 1, "fewer than 2 words": 1}
    assert (corpus.report.bad, corpus.report.dropped) == (0, 3)
    summary = corpus.report.summary()
    assert "1 of 4 rows used" in summary and f"{path} line 3: audio {tmp_path}/c/clip2.wav lasts 3.00 s" in summary
    assert corpus.report.rejected["longer than 2 s"].count == 1


def test_what_filters_leave_out_is_said_once_without_being_asked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = make_corpus(tmp_path / "said", [{"seconds": 0.1}, {"seconds": 1.0}])
    for _ in range(2):
        load(path, keep=RowFilter(min_duration=0.2))
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert said == ["corpus 'said': 1 of 2 rows used, 0.0 min; 1 left out by filters, 0 bad (shorter than 0.2 s: 1)"]


def test_a_path_within_an_object_starts_at_the_manifest_too(tmp_path: Path) -> None:
    write_tone(tmp_path / "clips" / "a.wav", seconds=0.5)
    path = write_jsonl(tmp_path / "m.jsonl", [{"audio": {"path": "clips/a.wav", "bytes": None}, "text": "un"}])
    corpus = load(path)
    (row,) = corpus
    assert corpus.read(row).shape == (8000,)
    for odd in ({"bytes": "UklGRg=="}, {}):
        write_jsonl(path, [{"audio": odd, "text": "un"}])
        with pytest.raises(DataError, match=r"'audio' is .*, not a path\. Give one"):
            load(path)


def test_nothing_left_says_why(tmp_path: Path) -> None:
    path = make_corpus(tmp_path / "c", [{}, {}])
    with pytest.raises(DataError, match=r"none of its 2 rows is left\.\n  2 x longer than 0\.5 s"):
        load(path, keep=RowFilter(max_duration=0.5))


def test_text_may_be_missing_for_pseudo_labels(tmp_path: Path) -> None:
    write_tone(tmp_path / "a.wav")
    path = write_jsonl(tmp_path / "m.jsonl", [{"audio": "a.wav"}])
    corpus = load(path, keep=RowFilter(require_text=False))
    assert [row["text"] for row in corpus] == [None]


def test_max_samples_is_a_seeded_draw_in_order(tmp_path: Path) -> None:
    path = make_corpus(tmp_path / "c", [{"seconds": 0.1} for _ in range(20)])

    def draw(seed: int) -> list[int]:
        return [int(row["text"].split()[1]) for row in load(path, max_samples=5, seed=seed)]

    first = draw(1)
    assert first == draw(1) == sorted(first)
    assert len(set(first)) == 5 and first != list(range(5))
    assert draw(2) != first
    assert load(path, max_samples=5).report.notes == ["5 of 20 usable rows drawn with seed 42"]
    with pytest.raises(DataError, match=r"max_samples is 0; it must be 1 or more"):
        load(path, max_samples=0)


def test_ids_are_unique(tmp_path: Path) -> None:
    write_tone(tmp_path / "a.wav")
    rows = [{"audio": "a.wav", "text": "x", "id": name} for name in ["u", "u", "u#2", "u"]]
    corpus = load(write_jsonl(tmp_path / "m.jsonl", rows))
    ids = [row["id"] for row in corpus]
    assert len(set(ids)) == 4 and ids[0] == "u" and "u#2" in ids


def test_read_names_the_row(tmp_path: Path) -> None:
    corpus = load(make_corpus(tmp_path / "c", [{}]))
    (tmp_path / "c" / "clip0.wav").unlink()
    with pytest.raises(DataError, match=r"corpus 'c', row 'clip0\.wav': audio .*clip0\.wav does not exist"):
        corpus.read(next(iter(corpus)))


def test_threads_change_nothing(tmp_path: Path) -> None:
    path = make_corpus(tmp_path / "c", [{"seconds": 0.1 + 0.05 * i} for i in range(10)])
    assert list(load(path, num_workers=4)) == list(load(path))


def test_recipe_fields_reach_the_filters(tmp_path: Path) -> None:
    path = make_corpus(tmp_path / "c", [{"seconds": 0.3, "text": "un deux"}, {"seconds": 1.5}, {"seconds": 0.6}])
    data = DataArguments(min_duration_in_seconds=0.5, max_duration_in_seconds=1.0)
    run = RunRevisions(tmp_path / "out")
    (train,) = load_training_corpora([str(path)], data, revisions=run)
    assert [row["duration"] for row in train] == [0.6]
    (test,) = load_test_corpora(
        [str(path)], data, EvaluationArguments(min_eval_words=2, max_eval_samples=2), revisions=run
    )
    assert len(test) == 2  # durations are not filtered in test corpora
    write_tone(tmp_path / "n" / "a.wav")
    bare = write_jsonl(tmp_path / "n" / "n.jsonl", [{"audio": "a.wav"}])
    assert len(load_training_corpora([str(bare)], data, allow_missing_text=True, revisions=run)[0]) == 1
    with pytest.raises(DataError, match="no text column"):
        load_training_corpora([str(bare)], data, revisions=run)


def test_stereo_file_longer_than_the_window_is_kept_whole_for_tests(tmp_path: Path) -> None:
    import numpy as np

    sf.write(tmp_path / "a.wav", np.zeros((8000 * 31, 2), "float32"), 8000)
    corpus = load(write_jsonl(tmp_path / "m.jsonl", [{"audio": "a.wav", "text": "x"}]))
    row = next(iter(corpus))
    assert row["duration"] == 31.0 and corpus.read(row).shape == (31 * 16000,)
