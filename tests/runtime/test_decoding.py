"""Language and task are never guessed; audio of any length comes back as text with times."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from noise import noise
from transformers import GenerationConfig, WhisperProcessor

from qat_plugin.errors import ModelError
from qat_plugin.prompt import language_and_task
from qat_plugin.runtime import QuantizedWhisper
from qat_plugin.runtime.decoding import transcribe_audio


def settings(folder: Path, **changes: Any) -> GenerationConfig:
    """The tiny model's generation config with changes."""
    config = GenerationConfig.from_pretrained(folder)
    for name, value in changes.items():
        setattr(config, name, value)
    return config


@pytest.mark.parametrize("name", ["fr", "french", "French", "<|fr|>"])
def test_names_of_a_language(tiny_whisper_dir: Path, name: str) -> None:
    assert language_and_task(settings(tiny_whisper_dir), name, "translate") == {"language": "fr", "task": "translate"}


def test_what_the_model_records_is_the_default(tiny_whisper_dir: Path) -> None:
    config = settings(tiny_whisper_dir, language="french", task="translate")
    assert language_and_task(config, None, None) == {"language": "fr", "task": "translate"}
    assert language_and_task(config, "de", "transcribe") == {"language": "de", "task": "transcribe"}


def test_task_is_transcribe_unless_said(tiny_whisper_dir: Path) -> None:
    assert language_and_task(settings(tiny_whisper_dir), "fr", None)["task"] == "transcribe"


def test_language_missing(tiny_whisper_dir: Path) -> None:
    with pytest.raises(ModelError, match=r"no language is given and .*generation_config.json records none.*af, am, ar"):
        language_and_task(settings(tiny_whisper_dir), None, None)


def test_language_unknown(tiny_whisper_dir: Path) -> None:
    with pytest.raises(ModelError, match="language is 'klingon'; this model knows af, am, ar"):
        language_and_task(settings(tiny_whisper_dir), "klingon", None)


def test_task_unknown(tiny_whisper_dir: Path) -> None:
    with pytest.raises(ModelError, match="task is 'summarize'; this model knows transcribe, translate"):
        language_and_task(settings(tiny_whisper_dir), "fr", "summarize")


def test_english_only_model(tiny_whisper_dir: Path) -> None:
    config = settings(tiny_whisper_dir, is_multilingual=False)
    assert language_and_task(config, None, None) == language_and_task(config, "english", "transcribe") == {}
    with pytest.raises(
        ModelError, match="language is 'fr' and task 'transcribe': this model only transcribes English; set them"
    ):
        language_and_task(config, "fr", None)


def test_settings_without_languages(tiny_whisper_dir: Path) -> None:
    config = settings(tiny_whisper_dir)
    del config.lang_to_id
    with pytest.raises(ModelError, match="no lang_to_id and task_to_id"):
        language_and_task(config, "fr", None)


def test_short_audio(model: QuantizedWhisper, processor: WhisperProcessor) -> None:
    audio = noise(4)
    heard = transcribe_audio(model, processor, audio, language="fr", max_new_tokens=20)
    features = processor.feature_extractor(audio, sampling_rate=16000, return_tensors="pt").input_features
    tokens = model.generate(features, language="fr", task="transcribe", max_new_tokens=20)[0]
    assert heard.tokens == tokens.tolist()
    assert heard.text == processor.tokenizer.decode(tokens, skip_special_tokens=True).strip()
    assert heard.segments == []


@pytest.mark.parametrize(("seconds", "timestamps"), [(4.0, True), (75.5, False)])
def test_segments(model: QuantizedWhisper, processor: WhisperProcessor, seconds: float, timestamps: bool) -> None:
    arguments: dict[str, Any] = {"language": "fr", "timestamps": timestamps, "max_new_tokens": 100}
    heard = transcribe_audio(model, processor, noise(seconds), **arguments)
    assert heard.segments
    times = [time for segment in heard.segments for time in (segment.start, segment.end)]
    assert all(0 <= time <= seconds for time in times)
    assert max(times) > seconds - 30, "the last window was not transcribed"
    assert "".join(s.text for s in heard.segments).replace(" ", "") == "".join(heard.text.split())


def test_silence(model: QuantizedWhisper, processor: WhisperProcessor) -> None:
    transcribe_audio(model, processor, np.zeros(1600, np.float32), language="fr", max_new_tokens=5)
