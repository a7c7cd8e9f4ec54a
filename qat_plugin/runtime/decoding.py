"""Audio to text with a Whisper: language and task always said, any length, segments with times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import GenerationConfig, WhisperForConditionalGeneration, WhisperProcessor

from qat_plugin.data.languages import language_code
from qat_plugin.errors import ModelError
from qat_plugin.runtime.features import extract_features
from qat_plugin.runtime.modeling import QuantizedWhisper


@dataclass(frozen=True)
class Segment:
    """A stretch of speech: `start` and `end` in seconds, `text` without surrounding blanks."""

    start: float
    end: float
    text: str


@dataclass(frozen=True)
class Transcript:
    """What was heard in one audio.

    Attributes:
        text: the whole text, without surrounding blanks.
        tokens: the generated token ids, without start and padding tokens; the closing end token is kept if generated.
        segments: stretches with times; empty when no timestamps were asked for and the audio fits one window.
    """

    text: str
    tokens: list[int]
    segments: list[Segment]


def language_and_task(generation_config: GenerationConfig, language: str | None, task: str | None) -> dict[str, str]:
    """The `language` and `task` arguments of `generate`, never left to be guessed from the audio.

    What is None is taken from the generation config. Both are left out for an English-only model, which knows neither.
    `language` may be a name or a code. Raises `ModelError` when the language or the task is unknown, missing, or not
    that of an English-only model.
    """
    # Not `to_dict`, which copies all of it: this is asked for every clip.
    settings = vars(generation_config)
    language = language if language is not None else settings.get("language")
    task = task if task is not None else settings.get("task") or "transcribe"
    code = None
    if language is not None:
        code = language_code(language) or language
    if not settings.get("is_multilingual", True):
        if code not in (None, "en") or task != "transcribe":
            raise ModelError(f"language {language!r} and task {task!r}: this model only transcribes English")
        return {}
    if "lang_to_id" not in settings or "task_to_id" not in settings:
        raise ModelError(
            "the model's generation_config.json has no lang_to_id and task_to_id, so language and task cannot be set: "
            "copy the file from the Whisper that the model was made from"
        )
    if task not in settings["task_to_id"]:
        raise ModelError(f"task is {task!r}; this model knows {', '.join(sorted(settings['task_to_id']))}")
    known = sorted(token.strip("<|>") for token in settings["lang_to_id"])
    if code is None:
        raise ModelError(
            "no language is given and the model's generation_config.json records none: say which is spoken "
            f"(--language on the command line), one of {', '.join(known)}"
        )
    if code not in known:
        raise ModelError(f"language is {language!r}; this model knows {', '.join(known)}")
    return {"language": code, "task": task}


def transcribe_audio(
    model: QuantizedWhisper | WhisperForConditionalGeneration,
    processor: WhisperProcessor,
    audio: NDArray[np.float32],
    *,
    language: str | None = None,
    task: str | None = None,
    timestamps: bool = False,
    **generate_arguments: Any,
) -> Transcript:
    """Transcribe one audio, float32 [samples] at the feature extractor's rate (16 kHz), of any length.

    Audio beyond the model's window goes through Whisper's sequential algorithm, which needs timestamps, so that
    segments come with it in any case. `generate_arguments` (num_beams, loop_guard, ...) go to `model.generate`.
    Raises `ModelError` as `language_and_task` does.
    """
    extractor = processor.feature_extractor
    features, attention_mask = extract_features(extractor, [audio])
    is_long = len(audio) > extractor.n_samples
    asked: dict[str, Any] = {**language_and_task(model.generation_config, language, task), **generate_arguments}
    outputs = model.generate(
        input_features=features,
        attention_mask=attention_mask,
        return_timestamps=timestamps or is_long,
        return_segments=True,
        **asked,
    )
    decode = processor.tokenizer.decode
    tokens = outputs["sequences"][0].tolist()
    seconds = len(audio) / extractor.sampling_rate
    segments = [
        # The model may place an end in the silence that pads the window.
        Segment(min(float(s["start"]), seconds), min(float(s["end"]), seconds), text)
        for s in (outputs["segments"][0] if timestamps or is_long else [])
        if (text := decode(s["tokens"], skip_special_tokens=True).strip())
    ]
    return Transcript(decode(tokens, skip_special_tokens=True).strip(), tokens, segments)
