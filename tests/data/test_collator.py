"""Batches: start token, padding, masks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import WhisperForConditionalGeneration, WhisperProcessor
from transformers.models.whisper.modeling_whisper import shift_tokens_right

from qat_plugin.data.collator import SpeechSeq2SeqCollator
from qat_plugin.errors import DataError

START, END = 900, 256


@pytest.fixture()
def collator(tiny_whisper_dir: Path) -> SpeechSeq2SeqCollator:
    return SpeechSeq2SeqCollator(WhisperProcessor.from_pretrained(tiny_whisper_dir), START)


def sample(labels: list[int] | None = None, **extra: Any) -> dict[str, Any]:
    rows = {"input_features": np.full((80, 10), 0.5, dtype=np.float32), **extra}
    return rows if labels is None else {**rows, "labels": labels}


def test_pads_with_minus_100_and_removes_one_start_token(collator: SpeechSeq2SeqCollator) -> None:
    batch = collator([sample([START, START, 5, END]), sample([START, 7, END])])
    assert batch["labels"].tolist() == [[START, 5, END], [7, END, -100]]
    assert batch["labels"].dtype == torch.long
    assert batch["input_features"].shape == (2, 80, 10) and batch["input_features"].dtype == torch.float32
    assert set(batch) == {"input_features", "labels"}


def test_keeps_the_first_token_unless_every_row_starts(collator: SpeechSeq2SeqCollator) -> None:
    assert collator([sample([START, 5]), sample([6, 7])])["labels"].tolist() == [[START, 5], [6, 7]]


def test_an_end_of_text_that_is_also_the_padding_token_stays_a_label(tiny_whisper_dir: Path) -> None:
    processor = WhisperProcessor.from_pretrained(tiny_whisper_dir)
    assert processor.tokenizer.pad_token_id == processor.tokenizer.eos_token_id == END
    batch = SpeechSeq2SeqCollator(processor, START)([sample([START, 5, END]), sample([START, END])])
    assert batch["labels"].tolist() == [[5, END], [END, -100]]


def test_without_labels(collator: SpeechSeq2SeqCollator) -> None:
    assert set(collator([sample(), sample()])) == {"input_features"}


def test_attention_mask_is_passed_on(collator: SpeechSeq2SeqCollator) -> None:
    mask = np.array([1] * 6 + [0] * 4, dtype=np.int32)
    batch = collator([sample([1], attention_mask=mask), sample([1], attention_mask=mask)])
    assert batch["attention_mask"].tolist() == [mask.tolist()] * 2


def test_mixed_batch(collator: SpeechSeq2SeqCollator) -> None:
    with pytest.raises(DataError, match=r"1 of 2 samples in one batch have 'labels'"):
        collator([sample([1]), sample()])


def test_features_of_another_model(collator: SpeechSeq2SeqCollator) -> None:
    with pytest.raises(DataError, match=r"input_features have 128 mel bins, the processor makes 80"):
        collator([{"input_features": np.zeros((128, 10), "float32")}])


def test_model_puts_exactly_one_start_token_in_front(tiny_whisper_dir: Path) -> None:
    processor = WhisperProcessor.from_pretrained(tiny_whisper_dir)
    model = WhisperForConditionalGeneration.from_pretrained(tiny_whisper_dir)
    start = model.config.decoder_start_token_id
    processor.tokenizer.set_prefix_tokens(language="fr", task="transcribe", predict_timestamps=False)
    labels = processor.tokenizer("bonjour").input_ids
    assert labels[0] == start
    batch = SpeechSeq2SeqCollator(processor, start)([sample(labels)])
    inputs = shift_tokens_right(batch["labels"], model.config.pad_token_id, start)
    assert inputs[0].tolist() == labels[:-1]
