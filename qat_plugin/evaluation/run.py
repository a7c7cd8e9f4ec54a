"""Transcribing a corpus with one arm, in the way that every arm shares, and timing it."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm
from transformers import WhisperProcessor

from qat_plugin.errors import EvaluationError
from qat_plugin.evaluation.environment import describe_environment
from qat_plugin.evaluation.folder_files import list_files
from qat_plugin.evaluation.normalizer import Normalizer, get_normalizer
from qat_plugin.evaluation.transcripts import Transcript, TranscriptFile
from qat_plugin.evaluation.wer import ErrorCounts, count_word_errors
from qat_plugin.models import load_processor
from qat_plugin.runtime.decoding import language_and_task
from qat_plugin.runtime.features import extract_features
from qat_plugin.runtime.logits import LoopGuard

logger = logging.getLogger(__name__)

Audio = NDArray[np.float32]


class SpeechModel(Protocol):
    """What evaluation needs of a model; `QuantizedWhisper` has it."""

    config: Any
    generation_config: Any

    def generate(self, input_features: torch.Tensor | None = None, *, loop_guard: bool = True, **kwargs: Any) -> Any:
        """As `QuantizedWhisper.generate`."""


class SpeechCorpus(Protocol):
    """What evaluation needs of a corpus; `qat_plugin.data.loading.Corpus` has it."""

    @property
    def name(self) -> str:
        """The corpus' name."""

    @property
    def streaming(self) -> bool:
        """Whether it has no known length."""

    def __len__(self) -> int:
        """Number of rows, unless it is streamed."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Rows with id, text, duration in seconds, speaker, language."""

    def read(self, row: dict[str, Any]) -> Audio:
        """16 kHz mono audio of a row, shape (samples,)."""


def evaluate_arm(
    folder: Path,
    arm: str,
    corpus: SpeechCorpus,
    out_dir: Path,
    *,
    language: str,
    task: str,
    normalizer: str = "basic",
    num_beams: int = 1,
    loop_guard: bool = True,
    batch_size: int = 1,
    num_threads: int | None = None,
    model: SpeechModel | None = None,
) -> Path:
    """Transcribe a corpus with the ONNX files of one arm, continuing what an earlier call began.

    Clips that fit the model's window are padded to it as audio; longer ones keep every feature and are decoded window
    by window with timestamps (`long_form` in the transcripts). Beam or greedy search without sampling; generation ends
    at the model's own `max_target_positions`. The first batch is run once before timing starts. Time includes features,
    generation and text, not the reading of audio files.

    Args:
        folder: complete ONNX folder.
        arm: its name, as in `qat_plugin.arms`.
        corpus: loaded test corpus; ids are unique, every row has text.
        out_dir: where CORPUS/ARM.jsonl goes, a `TranscriptFile`.
        language, task: as `generate` knows them; never guessed. The language is that of rows that do not tell theirs.
        normalizer: for the WER in the progress bar; transcripts are stored as they are.
        num_beams: 1 is greedy.
        loop_guard: end what falls into a loop, see `qat_plugin.runtime.logits.LoopGuard`.
        batch_size: utterances that are decoded together, in the corpus' order.
        num_threads: of ONNX Runtime; None: its default, all physical cores.
        model: the model of `folder`, if the caller has it open, for the next corpus; its generation config is replaced
            by a copy with that length limit.

    Returns:
        Path of the finished JSONL.

    Raises:
        EvaluationError: the folder is no export, a row has no text, an id comes twice, the JSONL is damaged.
        ModelError: the model cannot be opened, or does not know the language or task.
    """
    normalize = get_normalizer(normalizer)
    files = list_files(folder)
    processor = load_processor(folder)
    if model is None:
        # onnxruntime is an import that scoring and reports can do without.
        from qat_plugin.runtime import QuantizedWhisper

        model = QuantizedWhisper.from_pretrained(folder, num_threads=num_threads)
    decoder = _Decoder(model, processor, language=language, task=task, num_beams=num_beams, loop_guard=loop_guard)
    output = TranscriptFile(
        out_dir / corpus.name,
        arm,
        {
            "arm": arm,
            "corpus": corpus.name,
            **decoder.settings,
            "batch_size": batch_size,
            "num_threads": num_threads,
            "environment": describe_environment(),
            "files": files,
        },
    )
    logger.info("%s on %s: %d utterances are there already", arm, corpus.name, len(output))
    finished: list[Transcript] = []
    progress = _Progress(arm, corpus, normalize)
    warm = False
    for rows in _batches(corpus, batch_size):
        transcripts = output.find_batch(rows)
        if transcripts is None:
            audios = [corpus.read(row) for row in rows]
            if not warm:
                decoder.warm_up(audios)
                warm = True
            transcripts = decoder.transcribe(rows, audios)
            output.append(transcripts)
        finished += transcripts
        progress.update(transcripts)
    progress.close()
    if not finished:
        raise EvaluationError(f"corpus {corpus.name!r}: holds no utterance, there is nothing to evaluate")
    output.finish(finished)
    return output.path


@dataclass(frozen=True)
class _Heard:
    """One clip's text, its length in tokens, and what ended it before its time."""

    text: str
    tokens: int
    hit_length_limit: bool
    loop_cut: bool


class _Decoder:
    """One model with the generation settings that all arms share."""

    def __init__(
        self,
        model: SpeechModel,
        processor: WhisperProcessor,
        *,
        language: str,
        task: str,
        num_beams: int,
        loop_guard: bool,
    ) -> None:
        self._model = model
        self._processor = processor
        self._limit: int = model.config.max_target_positions
        self._end: int = model.generation_config.eos_token_id
        self._language, self._task = language, task
        self._asked(language)  # an unknown one must fail now
        self._loop_guard = loop_guard
        self._arguments: dict[str, Any] = {
            "num_beams": num_beams,
            "loop_guard": loop_guard,
            "do_sample": False,
            "condition_on_prev_tokens": False,
        }
        # In the model's config, because as an argument of generate() a None does not undo a max_new_tokens there.
        generation = copy.deepcopy(model.generation_config)
        generation.max_new_tokens = None
        generation.max_length = self._limit
        model.generation_config = generation
        decisive = generation.to_diff_dict()
        decisive.pop("transformers_version", None)
        self.settings = {
            "language": language,
            "task": task,
            "num_beams": num_beams,
            "loop_guard": loop_guard,
            "max_target_positions": self._limit,
            "generation_config": decisive,
        }

    def warm_up(self, audios: Sequence[Audio]) -> None:
        """Run a batch without timing it: the first one allocates, prepacks and picks kernels."""
        window = self._processor.feature_extractor.n_samples
        self._generate([audio[:window] for audio in audios], [self._language] * len(audios), long_form=False)

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
            heard = self._generate([audios[i] for i in indices], languages, long_form=long_form)
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
        return language_and_task(self._model.generation_config, language, self._task)

    def _generate(self, audios: Sequence[Audio], languages: Sequence[str], *, long_form: bool) -> list[_Heard]:
        features, attention_mask = extract_features(self._processor.feature_extractor, audios)
        asked: dict[str, Any] = dict(self._asked(languages[0]))
        if len(set(languages)) > 1:
            asked["language"] = [self._asked(language)["language"] for language in languages]
        output = self._model.generate(
            features,
            attention_mask=attention_mask,
            return_timestamps=long_form,
            return_segments=True,
            **asked,
            **self._arguments,
        )
        texts = self._processor.tokenizer.batch_decode(output["sequences"], skip_special_tokens=True)
        heard = []
        for text, segments in zip(texts, output["segments"], strict=True):
            tokens = sum(len(segment["tokens"]) for segment in segments)
            # All that was generated for a window, start tokens included and padded with the end token.
            windows = [segment["result"].tolist() for segment in segments]
            hit_length_limit = any(len(window) >= self._limit and window[-1] != self._end for window in windows)
            loop_cut = self._loop_guard and any(LoopGuard.has_cut(w, self._end) for w in windows)
            heard.append(_Heard(text.strip(), tokens, hit_length_limit, loop_cut))
        return heard


class _Progress:
    """A bar of utterances with the WER and speed so far."""

    def __init__(self, arm: str, corpus: SpeechCorpus, normalize: Normalizer) -> None:
        total = None if corpus.streaming else len(corpus)
        self._bar = tqdm(total=total, desc=f"{arm} on {corpus.name}", unit="utt", mininterval=1.0)
        self._normalize = normalize
        self._errors = ErrorCounts()
        self._audio = self._wall = 0.0

    def update(self, transcripts: Sequence[Transcript]) -> None:
        for transcript in transcripts:
            self._errors += count_word_errors(
                self._normalize(transcript.reference), self._normalize(transcript.hypothesis)
            )
            self._audio += transcript.duration
            self._wall += transcript.seconds
        if self._errors.reference_words:
            figures = f"WER {100 * self._errors.wer:.1f} %, {self._audio / self._wall:.1f}x real time"
            self._bar.set_postfix_str(figures, refresh=False)
        self._bar.update(len(transcripts))

    def close(self) -> None:
        self._bar.close()


def _batches(corpus: SpeechCorpus, size: int) -> Iterator[list[dict[str, Any]]]:
    """Rows in the corpus' order, `size` at a time, checked on the way."""
    seen: set[str] = set()
    rows = iter(corpus)
    while batch := list(islice(rows, size)):
        for row in batch:
            if row["id"] in seen:
                raise EvaluationError(
                    f"corpus {corpus.name!r}, row {row['id']!r}: this id comes twice, the utterance would count twice; "
                    "give every row its own id"
                )
            if row["text"] is None:
                raise EvaluationError(
                    f"corpus {corpus.name!r}, row {row['id']!r}: has no text to compare with; "
                    "a test corpus needs a transcript for every row"
                )
            seen.add(row["id"])
        yield batch
