"""Transcribing a corpus with one arm, in the way that every arm shares, and timing it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

from tqdm.auto import tqdm
from transformers import GenerationConfig, WhisperConfig, WhisperProcessor

from qat_plugin.errors import EvaluationError
from qat_plugin.evaluation.decoder import Audio, Decoder, LongForm, SpeechModel
from qat_plugin.evaluation.environment import describe_environment, physical_cores
from qat_plugin.evaluation.folder_files import list_files
from qat_plugin.evaluation.normalizer import Normalizer, get_normalizer
from qat_plugin.evaluation.transcripts import Transcript, TranscriptFile
from qat_plugin.evaluation.wer import ErrorCounts, count_word_errors
from qat_plugin.models import load_processor

logger = logging.getLogger(__name__)


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
    long_form: LongForm = "sequential",
    batch_size: int = 1,
    num_threads: int | None = None,
    model: SpeechModel | None = None,
) -> Path:
    """Transcribe a corpus with the ONNX files of one arm, continuing what an earlier call began.

    Clips that fit the model's window are padded to it as audio. Longer ones (`long_form` in the transcripts) are decoded
    as `long_form` says: "sequential", window by window with timestamps, each beginning where the last one ended, or
    "chunked", see `qat_plugin.runtime.chunks`. Beam or greedy search without sampling; generation ends
    at the model's own `max_target_positions`. The first batch is run once before timing starts. Time includes features,
    generation and text, not the reading of audio files. Where every utterance is there already, no model is opened.

    Args:
        folder: complete ONNX folder.
        arm: its name, as in `qat_plugin.arms`.
        corpus: loaded test corpus; ids are unique, every row has text.
        out_dir: where CORPUS/ARM.jsonl goes, a `TranscriptFile`.
        language, task: as `generate` knows them; never guessed. The language is that of rows that do not tell theirs.
        normalizer: for the WER in the progress bar; transcripts are stored as they are.
        num_beams: 1 is greedy.
        loop_guard: end what falls into a loop, see `qat_plugin.runtime.logits.LoopGuard`.
        long_form: what is done with clips beyond the model's window.
        batch_size: utterances that are decoded together, in the corpus' order.
        num_threads: of each of ONNX Runtime's sessions, or of `model`'s where it is given; None: one for each physical
            core, see `physical_cores`. The number is among the settings.
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
    threads = physical_cores() if num_threads is None else num_threads

    def open_model() -> tuple[SpeechModel, WhisperProcessor]:
        # onnxruntime is an import that scoring and reports can do without.
        from qat_plugin.runtime import QuantizedWhisper

        opened = QuantizedWhisper.from_pretrained(folder, num_threads=threads) if model is None else model
        return opened, load_processor(folder)

    configured = model or SimpleNamespace(
        config=WhisperConfig.from_pretrained(folder), generation_config=GenerationConfig.from_pretrained(folder)
    )
    decoder = Decoder(
        configured.config,
        configured.generation_config,
        open_model,
        language=language,
        task=task,
        num_beams=num_beams,
        loop_guard=loop_guard,
        long_form=long_form,
    )
    output = TranscriptFile(
        out_dir / corpus.name,
        arm,
        {
            "arm": arm,
            "corpus": corpus.name,
            **decoder.settings,
            "batch_size": batch_size,
            "num_threads": threads,
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
