"""Training samples: features, labels, joining, limits."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from synthetic_speech import make_corpus, strongest_frequency, write_jsonl, write_tone
from torch.utils.data import DataLoader
from transformers import WhisperProcessor

from qat_plugin.data.collator import SpeechSeq2SeqCollator
from qat_plugin.data.encoding import SampleEncoder, set_language
from qat_plugin.data.features import TrainingDataset, training_dataset
from qat_plugin.data.joining import Clip, join_neighbours
from qat_plugin.data.loading import load_training_corpora
from qat_plugin.data.revisions import RunRevisions
from qat_plugin.data.speed import perturb_speed
from qat_plugin.errors import DataError
from qat_plugin.recipe import DataArguments


@pytest.fixture()
def processor(tiny_whisper_dir: Path) -> WhisperProcessor:
    return WhisperProcessor.from_pretrained(tiny_whisper_dir)


def make(
    processor: WhisperProcessor, *paths: Path, data: DataArguments | None = None, **options: Any
) -> TrainingDataset:
    data = data or DataArguments()
    without_text = options.get("allow_missing_text", False)
    corpora = load_training_corpora(
        [str(path) for path in paths], data, allow_missing_text=without_text, revisions=RunRevisions("out")
    )
    settings = {"language": "french", "task": "transcribe", "max_label_length": 448, **options}
    dataset = training_dataset(corpora, processor, data, **settings)
    assert isinstance(dataset, TrainingDataset)
    return dataset


def test_sample_is_what_the_processor_makes(processor: WhisperProcessor, tones_manifest: Path) -> None:
    dataset = make(processor, tones_manifest)
    assert len(dataset) == 6
    item = dataset[2]
    assert item["input_features"].shape == (80, 3000) and item["input_features"].dtype == np.float32
    expected = processor.feature_extractor(dataset.audio(2), sampling_rate=16000, return_tensors="np").input_features[0]
    np.testing.assert_array_equal(item["input_features"], expected)
    assert processor.tokenizer.decode(item["labels"]) == (
        "<|startoftranscript|><|fr|><|transcribe|><|notimestamps|> il fait beau aujourd'hui<|endoftext|>"
    )
    assert "attention_mask" not in item
    assert dataset.ids[2] == "tones0:clip2.wav".replace("tones0", dataset.corpora[0].name)
    assert dataset.durations[2] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("language", "task", "label"),
    [("fr", "transcribe", " ah"), ("ja", "transcribe", "ah"), ("ja", "translate", " ah")],
)
def test_a_label_begins_with_a_blank_where_whispers_own_transcripts_do(
    processor: WhisperProcessor, language: str, task: str, label: str
) -> None:
    encoder = SampleEncoder(processor, language="fr", task=task)
    labels = encoder.encode(np.zeros(16000, np.float32), "ah ", language)["labels"]
    # What is saved with the model says the model's own language.
    assert processor.tokenizer.language == "fr"
    assert processor.tokenizer.decode(labels, skip_special_tokens=True) == label


def test_language_and_task_of_the_call_win_over_the_tokenizers(
    processor: WhisperProcessor, tones_manifest: Path, tmp_path: Path
) -> None:
    processor.tokenizer.set_prefix_tokens(language="es", task="translate", predict_timestamps=True)
    rows = [json.loads(line) for line in tones_manifest.read_text(encoding="utf8").splitlines()]
    languages = [None, "Spanish", None, "pt-BR", "fr", None]
    for row, language in zip(rows, languages, strict=True):
        row["audio"] = str(tones_manifest.parent / row["audio"])
        row["language"] = language
    path = tmp_path / "mixed.json"
    path.write_text(json.dumps(rows), encoding="utf8")
    dataset = make(processor, path, language="de", task="transcribe")
    for item, code in zip(dataset, ["de", "es", "de", "pt", "fr", "de"]):
        prefix = processor.tokenizer.convert_ids_to_tokens(item["labels"][:4])
        assert prefix == ["<|startoftranscript|>", f"<|{code}|>", "<|transcribe|>", "<|notimestamps|>"]
    assert dataset.languages == ["de", "es", "de", "pt", "fr", "de"]


def test_unknown_language_and_task(processor: WhisperProcessor) -> None:
    with pytest.raises(DataError, match=r"language 'frensh' is unknown to Whisper\. Known: .*french"):
        set_language(processor, "frensh", "transcribe")
    with pytest.raises(DataError, match=r"task 'transcript' is unknown to Whisper\. Use one of transcribe, translate"):
        set_language(processor, "fr", "transcript")


def test_attention_mask_covers_the_speech(processor: WhisperProcessor, tones_manifest: Path) -> None:
    item = make(processor, tones_manifest, return_attention_mask=True)[2]
    assert item["attention_mask"].shape == (3000,) and item["attention_mask"].sum() == 100  # 1 s in frames of 10 ms


def test_long_labels_and_clips_are_left_out_and_counted(processor: WhisperProcessor, tmp_path: Path) -> None:
    path = make_corpus(tmp_path / "c", [{"text": "court"}, {"text": "x" * 50}, {"text": "bref", "seconds": 30.5}])
    dataset = make(processor, path, data=DataArguments(max_duration_in_seconds=60), max_label_length=20)
    assert dataset.texts == ["court"]
    rejected = dataset.report.rejected
    assert rejected["transcript of more than 20 tokens"].examples == [
        "c:clip1.wav: has 56"
    ]  # a blank, 50 bytes, 4 + 1 specials
    assert rejected["longer than the model's window of 30 s"].examples == ["c:clip2.wav: lasts 30.50 s"]
    assert len(make(processor, path, max_label_length=56)) == 2


def test_text_may_be_missing(processor: WhisperProcessor, tmp_path: Path) -> None:
    write_tone(tmp_path / "a.wav")
    path = write_jsonl(tmp_path / "m.jsonl", [{"audio": "a.wav", "text": None}])
    assert set(make(processor, path, allow_missing_text=True)[0]) == {"input_features"}


def test_joining_keeps_order_speakers_and_silence(processor: WhisperProcessor, tmp_path: Path) -> None:
    speakers = ["a", "a", "b", "b", None, None, "a"]
    rows = [{"speaker": speaker, "frequency": 200 + 100 * i} for i, speaker in enumerate(speakers)]
    path = make_corpus(tmp_path / "c", rows)
    dataset = make(processor, path, data=DataArguments(join_to_seconds=10))
    assert dataset.texts == ["texte 0 texte 1", "texte 2 texte 3", "texte 4", "texte 5", "texte 6"]
    audio = dataset.audio(1)
    assert len(audio) == 16000 + 4800 + 16000 and dataset.durations[1] == pytest.approx(2.3)
    assert strongest_frequency(audio[:16000]) == pytest.approx(400)
    assert not audio[16000:20800].any()
    assert strongest_frequency(audio[20800:]) == pytest.approx(500)
    assert dataset.ids[1] == "c:clip2.wav+c:clip3.wav"
    assert "texte 2 texte 3" in processor.tokenizer.decode(dataset[1]["labels"])


def test_joining_stays_within_seconds_and_tokens() -> None:
    clips = [Clip(i, "c", "a", "fr", 1.0, 5) for i in range(6)]
    assert list(join_neighbours(clips, max_seconds=3.6, max_tokens=100)) == [[0, 1, 2], [3, 4, 5]]
    assert list(join_neighbours(clips, max_seconds=3.5, max_tokens=100)) == [[0, 1], [2, 3], [4, 5]]
    assert list(join_neighbours(clips, max_seconds=99, max_tokens=11)) == [[0, 1], [2, 3], [4, 5]]
    assert list(join_neighbours(clips, max_seconds=0, max_tokens=100)) == [[i] for i in range(6)]
    mixed = [
        Clip(0, "c", "a", "fr", 1.0, 5), Clip(1, "d", "a", "fr", 1.0, 5), Clip(2, "d", "a", "fr", 1.0, None),
        Clip(3, "d", "a", "es", 1.0, None),
    ]  # fmt: skip
    assert list(join_neighbours(mixed, max_seconds=99, max_tokens=100)) == [[0], [1], [2], [3]]


def test_joined_labels_respect_the_limit(processor: WhisperProcessor, tmp_path: Path) -> None:
    path = make_corpus(tmp_path / "c", [{"speaker": "a", "seconds": 0.3} for _ in range(12)])
    dataset = make(processor, path, data=DataArguments(join_to_seconds=20), max_label_length=30)
    lengths = [len(dataset[i]["labels"]) for i in range(len(dataset))]
    assert max(lengths) <= 30 and len(lengths) < 12


def test_joining_beyond_the_window(processor: WhisperProcessor, tones_manifest: Path) -> None:
    with pytest.raises(DataError, match=r"join_to_seconds is 40, longer than the model's window of 30 s"):
        make(processor, tones_manifest, data=DataArguments(join_to_seconds=40))


def test_max_train_samples_counts_samples_of_all_corpora(processor: WhisperProcessor, tmp_path: Path) -> None:
    paths = [make_corpus(tmp_path / name, [{"text": f"{name} {i}"} for i in range(6)]) for name in "ab"]
    draws = [make(processor, *paths, data=DataArguments(max_train_samples=5, sample_seed=s)).texts for s in (1, 1, 2)]
    assert len(draws[0]) == 5 and draws[0] == draws[1] != draws[2]
    assert {text[0] for text in draws[0] if text} == {"a", "b"}


def test_no_corpus(processor: WhisperProcessor) -> None:
    with pytest.raises(DataError, match="no training speech"):
        make(processor)


def test_workers_see_what_the_main_process_sees(processor: WhisperProcessor, tones_manifest: Path) -> None:
    dataset = make(processor, tones_manifest)
    collator = SpeechSeq2SeqCollator(processor, processor.tokenizer.convert_tokens_to_ids("<|startoftranscript|>"))
    loader = DataLoader(dataset, batch_size=4, num_workers=2, collate_fn=collator)
    for batch, expected in zip(loader, DataLoader(dataset, batch_size=4, collate_fn=collator), strict=True):
        assert torch.equal(batch["input_features"], expected["input_features"])
        assert torch.equal(batch["labels"], expected["labels"])
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy[3]["labels"] == dataset[3]["labels"]


def test_audio_damaged_after_loading_is_replaced_until_there_is_too_much(
    processor: WhisperProcessor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = make_corpus(tmp_path / "c", [{} for _ in range(4)])
    dataset = make(processor, path, data=DataArguments(max_bad_row_share=0.25))
    (tmp_path / "c" / "clip1.wav").write_text("gone bad")
    assert dataset[1]["labels"] == dataset[2]["labels"]
    assert "corpus 'c', row 'clip1.wav'" in caplog.text and "The next sample is used in its place" in caplog.text
    (tmp_path / "c" / "clip3.wav").unlink()
    with pytest.raises(DataError, match=r"2 of 4 training samples cannot be decoded, more than the 25\.0%"):
        dataset[3]


@pytest.mark.parametrize("key", ["a", "b", "c"])
def test_a_faster_clip_is_shorter_and_higher(key: str) -> None:
    tone = np.sin(2 * np.pi * 1000 * np.arange(32000) / 16000).astype(np.float32)
    played = perturb_speed(tone, 0.2, key=key, max_seconds=30)
    speed = len(tone) / len(played)
    assert 0.8 <= speed <= 1.2 and abs(speed - 1) > 0.001 and played.dtype == np.float32
    spectrum = np.abs(np.fft.rfft(played * np.hanning(len(played))))
    assert np.argmax(spectrum) * 16000 / len(played) == pytest.approx(1000 * speed, abs=1.0)
    np.testing.assert_array_equal(played, perturb_speed(tone, 0.2, key=key, max_seconds=30))


def test_a_slower_clip_still_fits_the_window() -> None:
    tone = np.ones(16000 * 29, np.float32)
    lengths = [len(perturb_speed(tone, 0.3, key=str(i), max_seconds=30)) / 16000 for i in range(20)]
    assert max(lengths) == pytest.approx(30, abs=0.001) and min(lengths) < 26


def test_each_epoch_has_its_own_speeds_and_none_before_the_first(
    processor: WhisperProcessor, tones_manifest: Path
) -> None:
    recorded = [item["input_features"] for item in make(processor, tones_manifest)]
    dataset = make(processor, tones_manifest, speed_perturbation=0.1)

    def heard(epoch: int | None = None) -> list[Any]:
        if epoch is not None:
            dataset.set_epoch(epoch)
        return [item["input_features"] for item in dataset]

    def same(first: list[Any], second: list[Any]) -> list[bool]:
        return [np.array_equal(a, b) for a, b in zip(first, second, strict=True)]

    assert all(same(heard(), recorded))  # calibration and pseudo labels read it so
    first, second = heard(0), heard(1)
    assert not any(same(first, recorded)) and not any(same(first, second)) and all(same(first, heard(0)))
