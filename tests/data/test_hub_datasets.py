"""Hub datasets through datasets' own loader: a local folder in a dataset's layout, loaded and streamed."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from accelerate import skip_first_batches
from synthetic_speech import make_corpus, strongest_frequency, wav_bytes
from torch.utils.data import DataLoader
from transformers import WhisperProcessor

from qat_plugin.data.corpora import CorpusDefinition, data_definition
from qat_plugin.data.features import training_dataset
from qat_plugin.data.loading import load_corpus
from qat_plugin.data.rows import RowFilter
from qat_plugin.data.streaming import TrainingStream
from qat_plugin.errors import DataError
from qat_plugin.recipe import DataArguments

AUDIO_STRUCT = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def write_dataset(folder: Path, rows: list[dict[str, Any]], shards: int = 1) -> CorpusDefinition:
    """Parquet files as the Hub keeps them: encoded audio, and a schema that says Audio."""
    folder.mkdir(parents=True, exist_ok=True)
    features = datasets.Features(
        {"audio": AUDIO_STRUCT, "sentence": datasets.Value("string"), "speaker_id": datasets.Value("int64")}
    )
    table = datasets.Dataset.from_list(rows, features=features)
    table = table.cast_column("audio", datasets.Audio(sampling_rate=16000))
    for shard in range(shards):
        part = table.shard(shards, shard, contiguous=True)
        part.to_parquet(folder / f"test-{shard:05d}-of-{shards:05d}.parquet")
    return CorpusDefinition("speech", "hub", str(folder), split="test", revision="main")


def make_rows(number: int, **changes: dict[str, Any]) -> list[dict[str, Any]]:
    audio = [{"bytes": wav_bytes(200 + 50 * i, 0.5), "path": "clip.wav"} for i in range(number)]
    rows = [{"audio": clip, "sentence": f"Texte {i}", "speaker_id": 7} for i, clip in enumerate(audio)]
    for index, change in changes.items():
        rows[int(index[1:])].update(change)
    return rows


@pytest.mark.parametrize("streaming", [False, True])
def test_rows_have_one_shape(tmp_path: Path, streaming: bool) -> None:
    definition = write_dataset(tmp_path / "d", make_rows(4))
    corpus = load_corpus(definition, streaming=streaming)
    assert corpus.streaming is streaming
    rows = list(corpus)
    assert set(rows[0]) == {"id", "corpus", "audio", "text", "duration", "speaker", "language"}
    assert [row["text"] for row in rows] == [f"Texte {i}" for i in range(4)]
    assert [row["id"] for row in rows] == [f"{i:08d}" for i in range(4)]
    assert [(row["corpus"], row["duration"], row["speaker"]) for row in rows] == [("speech", 0.5, "7")] * 4
    assert [strongest_frequency(corpus.read(row)) for row in rows] == pytest.approx([200, 250, 300, 350])
    assert (corpus.report.total, corpus.report.kept) == (4, 4)


@pytest.mark.parametrize("streaming", [False, True])
def test_bad_rows_are_counted_and_named(tmp_path: Path, streaming: bool) -> None:
    rows = make_rows(4, _1={"audio": {"bytes": b"noise", "path": "x.wav"}}, _2={"sentence": ""})
    definition = write_dataset(tmp_path / "d", rows)
    corpus = load_corpus(definition, streaming=streaming, max_bad_row_share=0.5)
    assert [row["text"] for row in corpus] == ["Texte 0", "Texte 3"]
    assert {reason: found.count for reason, found in corpus.report.rejected.items()} == {
        "audio unreadable": 1,
        "empty text": 1,
    }
    example = corpus.report.rejected["audio unreadable"].examples[0]
    assert "row 1: embedded audio x.wav cannot be decoded" in example and str(tmp_path / "d") in example
    with pytest.raises(DataError, match=r"2 of 4 rows cannot be used \(50\.0%, allowed 1\.0%\)"):
        list(load_corpus(definition, streaming=streaming))


def test_filters_and_processes(tmp_path: Path) -> None:
    definition = write_dataset(tmp_path / "d", make_rows(6, _3={"sentence": "un deux trois"}))
    corpus = load_corpus(definition, keep=RowFilter(min_words=3), num_workers=2)
    assert [row["text"] for row in corpus] == ["un deux trois"]
    assert strongest_frequency(corpus.read(next(iter(corpus)))) == pytest.approx(350)
    assert corpus.report.dropped == 5


def test_max_samples_of_a_stream_is_seeded_and_says_how(tmp_path: Path) -> None:
    definition = write_dataset(tmp_path / "d", make_rows(12))

    def draw(seed: int) -> list[str]:
        corpus = load_corpus(definition, streaming=True, max_samples=4, seed=seed)
        assert "through a buffer of 1000" in corpus.report.notes[0]
        return [row["text"] for row in corpus]

    assert len(draw(1)) == 4 and draw(1) == draw(1) != draw(2)


def test_stream_has_no_length(tmp_path: Path) -> None:
    corpus = load_corpus(write_dataset(tmp_path / "d", make_rows(2)), streaming=True)
    with pytest.raises(DataError, match="is streamed: its length is unknown"):
        len(corpus)


@pytest.mark.parametrize("streaming", [False, True])
def test_wrong_columns(tmp_path: Path, streaming: bool) -> None:
    definition = write_dataset(tmp_path / "d", make_rows(2))
    wrong = CorpusDefinition("speech", "hub", definition.path, split="test", text_column="texte")
    with pytest.raises(DataError, match=r"\(test\): .*text column 'texte'.*'audio', 'sentence', 'speaker_id'"):
        load_corpus(wrong, streaming=streaming)


def test_unknown_split(tmp_path: Path) -> None:
    definition = write_dataset(tmp_path / "d", make_rows(2))
    wrong = CorpusDefinition("speech", "hub", definition.path, split="dev")
    with pytest.raises(DataError, match=r"dataset .*\(dev\) cannot be loaded: (?s:.*)--corpus_manifests speech=PATH"):
        load_corpus(wrong)


def test_hub_that_cannot_be_reached() -> None:
    definition = CorpusDefinition("far", "hub", "someone/far", split="test", revision="main")
    with pytest.raises(DataError, match=r"dataset someone/far \(test\)(?s:.*)--corpus_manifests far=PATH"):
        load_corpus(definition)


def stream(processor: WhisperProcessor, corpora: list[Any], data: DataArguments, **options: Any) -> TrainingStream:
    settings = {**options, "language": "fr", "task": "transcribe", "max_label_length": 448}
    dataset = training_dataset(corpora, processor, data, **settings)
    assert isinstance(dataset, TrainingStream)
    return dataset


def texts(processor: WhisperProcessor, samples: Any) -> list[str]:
    return [
        processor.tokenizer.decode(sample["labels"], skip_special_tokens=True).removeprefix(" ") for sample in samples
    ]


@pytest.fixture()
def processor(tiny_whisper_dir: Path) -> WhisperProcessor:
    return WhisperProcessor.from_pretrained(tiny_whisper_dir)


def test_training_stream_sees_every_row_once_an_epoch(tmp_path: Path, processor: WhisperProcessor) -> None:
    corpora = [
        load_corpus(write_dataset(tmp_path / "d", make_rows(6)), streaming=True),
        load_corpus(data_definition(str(make_corpus(tmp_path / "own", [{"text": f"local {i}"} for i in range(4)])))),
    ]
    dataset = stream(processor, corpora, DataArguments())
    first = texts(processor, dataset)
    assert sorted(first) == sorted([f"Texte {i}" for i in range(6)] + [f"local {i}" for i in range(4)])
    assert texts(processor, dataset) == first
    sample = next(iter(dataset))
    dataset.set_epoch(1)
    # In training, epoch follows on epoch.
    later = texts(processor, itertools.islice(dataset, 20))
    second, third = later[:10], later[10:]
    assert second != first and sorted(second) == sorted(first) and third != second and sorted(third) == sorted(first)
    assert sample["input_features"].shape == (80, 3000)


def test_training_stream_shares_rows_between_workers(tmp_path: Path, processor: WhisperProcessor) -> None:
    corpora = [
        load_corpus(write_dataset(tmp_path / "d", make_rows(6), shards=2), streaming=True),
        load_corpus(data_definition(str(make_corpus(tmp_path / "own", [{"text": f"local {i}"} for i in range(4)])))),
    ]
    loader = DataLoader(stream(processor, corpora, DataArguments()), batch_size=None, num_workers=2)
    expected = sorted([f"Texte {i}" for i in range(6)] + [f"local {i}" for i in range(4)])
    assert sorted(texts(processor, loader)) == expected
    limited = DataLoader(stream(processor, corpora, DataArguments(max_train_samples=5)), batch_size=None, num_workers=2)
    assert len(list(limited)) == 5


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("shards", [1, 2, 3])
def test_each_process_trains_on_its_own_rows(
    tmp_path: Path, processor: WhisperProcessor, shards: int, workers: int
) -> None:
    own = make_corpus(tmp_path / "own", [{"text": f"local {i}"} for i in range(4)])
    corpora = [
        load_corpus(write_dataset(tmp_path / "d", make_rows(6), shards=shards), streaming=True),
        load_corpus(data_definition(str(own))),
    ]
    everything = {f"Texte {i}" for i in range(6)} | {f"local {i}" for i in range(4)}
    heard = []
    for index in range(2):
        dataset = stream(processor, corpora, DataArguments(), process=(index, 2))
        # What calibrates is the same in both.
        assert set(texts(processor, dataset)) == everything
        dataset.set_epoch(0)
        loader = DataLoader(dataset, batch_size=None, num_workers=workers)
        heard.append(set(texts(processor, itertools.islice(loader, 60))))
    assert heard[0] | heard[1] == everything and not heard[0] & heard[1]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("shards", [1, 3])
def test_processes_and_workers_share_out_max_train_samples(
    tmp_path: Path, processor: WhisperProcessor, shards: int, workers: int
) -> None:
    corpus = load_corpus(write_dataset(tmp_path / "d", make_rows(12), shards=shards), streaming=True)
    heard = []
    for index in range(2):
        dataset = stream(processor, [corpus], DataArguments(max_train_samples=5), process=(index, 2))
        assert len(set(texts(processor, DataLoader(dataset, batch_size=None, num_workers=workers)))) == 5
        dataset.set_epoch(0)
        if workers == 0:
            # One epoch after the other: each is this process' part of the five.
            assert len(set(texts(processor, itertools.islice(dataset, 3 - index)))) == 3 - index
            assert dataset.report.kept == 3 - index
        loader = DataLoader(dataset, batch_size=None, num_workers=workers)
        heard.append(set(texts(processor, itertools.islice(loader, 3 - index))))
    assert len(heard[0]) == 3 and len(heard[1]) == 2 and not heard[0] & heard[1]


def test_a_resumed_run_goes_on_in_a_later_epoch(tmp_path: Path, processor: WhisperProcessor) -> None:
    corpus = load_corpus(write_dataset(tmp_path / "d", make_rows(3)), streaming=True)
    dataset = stream(processor, [corpus], DataArguments(), speed_perturbation=0.1)
    dataset.set_epoch(0)
    loader = DataLoader(dataset, batch_size=1, collate_fn=lambda samples: samples[0])
    heard = list(itertools.islice(loader, 9))
    for seen in (2, 4, 8):
        resumed = next(iter(skip_first_batches(loader, seen)))
        assert resumed["labels"] == heard[seen]["labels"]
        np.testing.assert_array_equal(resumed["input_features"], heard[seen]["input_features"])


def test_a_process_without_rows_says_so(tmp_path: Path, processor: WhisperProcessor) -> None:
    corpus = load_corpus(write_dataset(tmp_path / "d", make_rows(2)), streaming=True)
    dataset = stream(processor, [corpus], DataArguments(), process=(2, 3))
    dataset.set_epoch(0)
    with pytest.raises(DataError, match="process 3 of 3 has no training sample: there are fewer usable rows than"):
        next(iter(dataset))


def test_training_stream_joins_and_filters(tmp_path: Path, processor: WhisperProcessor) -> None:
    rows = make_rows(5, _4={"sentence": "x" * 500})
    corpus = load_corpus(write_dataset(tmp_path / "d", rows), streaming=True)
    dataset = stream(processor, [corpus], DataArguments(join_to_seconds=2))
    assert sorted(texts(processor, dataset)) == ["Texte 0 Texte 1", "Texte 2 Texte 3"]
    assert dataset.report.rejected["transcript of more than 448 tokens"].examples == ["speech:00000004: has 506"]


@pytest.mark.parametrize("streaming", [False, True])
def test_a_language_may_be_a_number_with_a_name(tmp_path: Path, streaming: bool) -> None:
    (tmp_path / "d").mkdir()
    kind = datasets.ClassLabel(names=["en", "de", "fr"])
    features = datasets.Features({"audio": AUDIO_STRUCT, "sentence": datasets.Value("string"), "language": kind})
    rows = [{"audio": row["audio"], "sentence": row["sentence"], "language": 2} for row in make_rows(2)]
    table = datasets.Dataset.from_list(rows, features=features).cast_column(
        "audio", datasets.Audio(sampling_rate=16000)
    )
    table.to_parquet(tmp_path / "d" / "test-00000-of-00001.parquet")
    definition = CorpusDefinition("speech", "hub", str(tmp_path / "d"), split="test", revision="main")
    assert [row["language"] for row in load_corpus(definition, streaming=streaming)] == ["fr", "fr"]


def test_a_stream_is_heard_at_other_speeds_in_each_epoch(tmp_path: Path, processor: WhisperProcessor) -> None:
    corpus = load_corpus(write_dataset(tmp_path / "d", make_rows(3)), streaming=True)
    dataset = stream(processor, [corpus], DataArguments(), speed_perturbation=0.1)
    features = []
    for epoch in (None, 0, 1, 0):
        if epoch is not None:
            dataset.set_epoch(epoch)
        by_text = {tuple(item["labels"]): item["input_features"] for item in itertools.islice(dataset, 3)}
        features.append([by_text[key] for key in sorted(by_text)])
    recorded, first, second, again = features
    for a, b, c, d in zip(recorded, first, second, again, strict=True):
        # The place in the shuffled order decides the speed, so that each epoch's is its own.
        assert not np.array_equal(a, b) and not np.array_equal(b, c) and np.array_equal(b, d)
