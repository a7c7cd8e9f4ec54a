"""Overlapping chunks: nothing is lost between them, and their texts become what transformers' pipeline makes of them."""

import itertools

import numpy as np
import pytest
import torch
from transformers import WhisperForConditionalGeneration, WhisperProcessor, pipeline

from qat_plugin.runtime.chunks import Chunk, join, split
from qat_plugin.runtime.features import extract_features

RATE, WINDOW = 16000, 30 * 16000


@pytest.mark.parametrize("seconds", [1, 30, 30.5, 50, 50.1, 95])
def test_chunks_cover_the_audio_and_overlap_by_what_they_say(seconds):
    audio = np.arange(int(seconds * RATE), dtype=np.float32)
    chunks = split(audio, WINDOW)
    own = [chunk.audio[chunk.left : len(chunk.audio) - chunk.right] for chunk in chunks]
    assert np.array_equal(np.concatenate(own), audio)
    assert all(len(chunk.audio) <= WINDOW for chunk in chunks)
    assert chunks[0].left == 0 and chunks[-1].right == 0
    for before, after in itertools.pairwise(chunks):
        shared = before.right + after.left
        assert np.array_equal(before.audio[-shared:], after.audio[:shared])


def test_a_word_that_both_chunks_heard_is_said_once(tiny_whisper_dir):
    processor = WhisperProcessor.from_pretrained(tiny_whisper_dir)
    texts = ["composez le numéro de votre corr", "uméro de votre correspondant"]
    ids = [np.array(processor.tokenizer(f" {text}", add_special_tokens=False).input_ids) for text in texts]
    audio = np.zeros(WINDOW, np.float32)
    chunks = [Chunk(audio, 0, 5 * RATE), Chunk(audio[: 20 * RATE], 5 * RATE, 0)]
    assert join(processor, chunks, ids) == "composez le numéro de votre correspondant"


def test_texts_are_those_of_transformers_pipeline(tiny_whisper_dir):
    model = WhisperForConditionalGeneration.from_pretrained(tiny_whisper_dir).eval()
    processor = WhisperProcessor.from_pretrained(tiny_whisper_dir)
    # Letters only: with bytes that are none, and times, the tiny model's noise could not be compared as text.
    allowed = set(processor.tokenizer("abcdefghij klmnop", add_special_tokens=False).input_ids)
    model.generation_config.suppress_tokens = [i for i in range(model.config.vocab_size) if i not in allowed]
    options = {"language": "fr", "task": "transcribe", "max_new_tokens": 24}
    audio = (0.1 * np.random.default_rng(0).standard_normal(70 * RATE)).astype(np.float32)
    chunks, tokens = split(audio, WINDOW), []
    for chunk in chunks:
        features, _ = extract_features(processor.feature_extractor, [chunk.audio])
        with torch.no_grad():
            tokens.append(model.generate(features, **options)[0].numpy())
    recognize = pipeline(
        "automatic-speech-recognition", model=model, tokenizer=processor.tokenizer,
        feature_extractor=processor.feature_extractor, chunk_length_s=30,
    )  # fmt: skip
    expected = recognize(audio, generate_kwargs=options)["text"].strip()
    assert len(chunks) == 3 and len(expected) > 20
    assert join(processor, chunks, tokens) == expected
