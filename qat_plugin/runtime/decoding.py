"""Audio to text with a Whisper: language and task always said, any length, segments with times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from qat_plugin.prompt import language_and_task
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
