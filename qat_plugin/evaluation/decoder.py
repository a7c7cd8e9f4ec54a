"""Clips to transcripts with one model, in the way that every arm shares: short ones together, long ones window by window."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import GenerationConfig, WhisperProcessor

from qat_plugin.evaluation.transcripts import Transcript
from qat_plugin.prompt import language_and_task, up_to_limit
from qat_plugin.runtime import chunks
from qat_plugin.runtime.features import extract_features
from qat_plugin.runtime.logits import LoopGuard, end_of_text

Audio = NDArray[np.float32]
LongForm = Literal["sequential", "chunked"]

DECODING_VERSION = 2
"""Among the settings: moved up when other code makes other words, or other times, of the same files and settings.

2: what the loop guard cut under folded silence is decoded again with the whole window.
"""


class SpeechModel(Protocol):
    """What evaluation needs of a model; `QuantizedWhisper` has it."""

    config: Any
    generation_config: Any

    def generate(self, input_features: torch.Tensor | None = None, *, loop_guard: bool = True, **kwargs: Any) -> Any:
        """As `QuantizedWhisper.generate`."""


@dataclass(frozen=True)
class _Heard:
    """One clip's text, its token ids, int64 [tokens], their number, and what ended it before its time."""

    text: str
    ids: NDArray[np.int64]
    tokens: int
    hit_length_limit: bool
    loop_cut: bool


class Decoder:
    """One model with the generation settings that all arms share.

    The model is opened when it first hears something: what it is told is known from its configuration. Its generation
    config is replaced by a copy that ends at its own `max_target_positions`.
    """

    def __init__(
        self,
        config: Any,
        generation_config: GenerationConfig,
        open_model: Callable[[], tuple[SpeechModel, WhisperProcessor]],
        *,
        language: str,
        task: str,
        num_beams: int,
        loop_guard: bool,
        long_form: LongForm,
    ) -> None:
        """`config`, `generation_config`: those of the model that `open_model` gives, with its processor."""
        self._open_model = open_model
        self._limit: int = config.max_target_positions
        self._end = end_of_text(generation_config)
        self._language, self._task = language, task
        self._loop_guard, self._long_form = loop_guard, long_form
        self._arguments: dict[str, Any] = {
            "num_beams": num_beams,
            "loop_guard": loop_guard,
            "do_sample": False,
            "condition_on_prev_tokens": False,
        }
        self._generation = up_to_limit(generation_config, self._limit)
        self._asked(language)  # an unknown one must fail now
        decisive = self._generation.to_diff_dict()
        decisive.pop("transformers_version", None)
        self.settings = {
            "language": language,
            "task": task,
            "num_beams": num_beams,
            "loop_guard": loop_guard,
            "long_form": long_form,
            "max_target_positions": self._limit,
            "decoding_version": DECODING_VERSION,
            "generation_config": decisive,
        }

    @functools.cached_property
    def _opened(self) -> tuple[SpeechModel, WhisperProcessor]:
        model, processor = self._open_model()
        model.generation_config = self._generation
        return model, processor

    @property
    def _model(self) -> SpeechModel:
        return self._opened[0]

    @property
    def _processor(self) -> WhisperProcessor:
        return self._opened[1]

    def warm_up(self, audios: Sequence[Audio]) -> None:
        """Run a batch without timing it: the first one allocates, prepacks and picks kernels."""
        window = self._processor.feature_extractor.n_samples
        self._generate([audio[:window] for audio in audios], [self._language] * len(audios), sequential=False)

    def transcribe(self, rows: Sequence[dict[str, Any]], audios: Sequence[Audio]) -> list[Transcript]:
        """Transcripts in the order of the rows: short clips together, long ones each alone."""
        window = self._processor.feature_extractor.n_samples
        short = [i for i, audio in enumerate(audios) if len(audio) <= window]
        groups = [(short, False)] if short else []
        groups += [([i], True) for i, audio in enumerate(audios) if len(audio) > window]
        transcripts: dict[int, Transcript] = {}
        for indices, long_form in groups:
            start = time.perf_counter()
            languages = [rows[i].get("language") or self._language for i in indices]
            if long_form and self._long_form == "chunked":
                heard = [self._hear_in_chunks(audios[indices[0]], languages[0])]
            else:
                heard = self._generate([audios[i] for i in indices], languages, sequential=long_form)
            seconds = time.perf_counter() - start
            samples = sum(len(audios[i]) for i in indices)
            for i, language, found in zip(indices, languages, heard, strict=True):
                transcripts[i] = Transcript(
                    id=rows[i]["id"],
                    batch=rows[0]["id"],
                    reference=rows[i]["text"],
                    hypothesis=found.text,
                    tokens=found.tokens,
                    duration=round(float(rows[i]["duration"]), 4),
                    seconds=round(seconds * len(audios[i]) / samples, 6),
                    speaker=rows[i].get("speaker"),
                    language=self._asked(language).get("language", "en"),
                    long_form=long_form,
                    hit_length_limit=found.hit_length_limit,
                    loop_cut=found.loop_cut,
                )
        return [transcripts[i] for i in range(len(rows))]

    def _asked(self, language: str) -> dict[str, str]:
        """Arguments of `generate`; none for a model that knows English only."""
        return language_and_task(self._generation, language, self._task)

    def _hear_in_chunks(self, audio: Audio, language: str) -> _Heard:
        """One after the other: together, their 8-bit activations would have one scale."""
        pieces = chunks.split(audio, self._processor.feature_extractor.n_samples)
        heard = [self._generate([piece.audio], [language], sequential=False)[0] for piece in pieces]
        return _Heard(
            chunks.join(self._processor, pieces, [each.ids for each in heard]),
            np.concatenate([each.ids for each in heard]),
            sum(each.tokens for each in heard),
            any(each.hit_length_limit for each in heard),
            any(each.loop_cut for each in heard),
        )

    def _generate(self, audios: Sequence[Audio], languages: Sequence[str], *, sequential: bool) -> list[_Heard]:
        features, attention_mask = extract_features(self._processor.feature_extractor, audios)
        asked: dict[str, Any] = dict(self._asked(languages[0]))
        # By code: rows may spell one language in several ways, and a model that knows English only is asked for none.
        codes = [self._asked(language).get("language") for language in languages]
        if len(set(codes)) > 1:
            asked["language"] = codes
        output = self._model.generate(
            features,
            attention_mask=attention_mask,
            return_timestamps=sequential,
            return_segments=True,
            **asked,
            **self._arguments,
        )
        texts = self._processor.tokenizer.batch_decode(output["sequences"], skip_special_tokens=True)
        heard = []
        for text, ids, segments in zip(texts, output["sequences"].numpy(), output["segments"], strict=True):
            tokens = sum(len(segment["tokens"]) for segment in segments)
            # All that was generated for a window, start tokens included and padded with the end token.
            windows = [segment["result"].tolist() for segment in segments]
            hit_length_limit = any(len(window) >= self._limit and window[-1] != self._end for window in windows)
            loop_cut = self._loop_guard and any(LoopGuard.has_cut(w, self._end) for w in windows)
            heard.append(_Heard(text.strip(), ids, tokens, hit_length_limit, loop_cut))
        return heard
