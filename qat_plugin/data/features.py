"""Corpora as a torch dataset that decodes and computes features when a sample is asked for."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset
from transformers import WhisperProcessor

from qat_plugin.data.encoding import SampleEncoder, check_length
from qat_plugin.data.joining import Clip, join_audio, join_neighbours, join_seconds, join_texts
from qat_plugin.data.loading import Corpus
from qat_plugin.data.report import LoadReport
from qat_plugin.data.rows import Row
from qat_plugin.data.speed import speed_of_epoch
from qat_plugin.data.streaming import TrainingStream
from qat_plugin.errors import DataError
from qat_plugin.recipe import DataArguments

logger = logging.getLogger(__name__)


def training_dataset(
    corpora: Sequence[Corpus],
    processor: WhisperProcessor,
    data_args: DataArguments,
    *,
    language: str,
    task: str,
    max_label_length: int,
    allow_missing_text: bool = False,
    return_attention_mask: bool = False,
    speed_perturbation: float = 0.0,
    process: tuple[int, int] = (0, 1),
    multilingual: bool = True,
) -> TrainingDataset | TrainingStream:
    """Training samples of `corpora`, in their order, or a stream of them when any corpus is streamed.

    Args:
        corpora: from `load_training_corpora`.
        processor: of the model that is trained; its tokenizer's prefix is set to `language` and `task`.
        data_args: `join_to_seconds`, `max_train_samples` with `sample_seed`, and `max_bad_row_share` are used here.
        language, task: as Whisper names them; rows that tell their language keep it.
        max_label_length: transcripts of more tokens, start and end included, are left out and counted.
        allow_missing_text: rows without text give samples without "labels"; otherwise they are an error.
        return_attention_mask: for models whose config has `apply_spec_augment`.
        speed_perturbation: see the recipe; it begins with the first call of `set_epoch`, which the Trainer makes.
        process: index of this process and number of all that train together; each reads its own share of a stream.
        multilingual: False for a model that knows English only: its labels begin without language and task.

    Returns:
        A dataset whose samples are {"input_features": float32 (mels, frames), "labels": list of token ids}.

    Raises:
        DataError: no corpus, no sample left, an impossible `join_to_seconds`, a language or task that the model does not know.
    """
    if not corpora:
        raise DataError("no training speech. Name corpora in train_corpora or manifests in train_data.")
    encoder = SampleEncoder(
        processor,
        language=language,
        task=task,
        multilingual=multilingual,
        return_attention_mask=return_attention_mask,
    )
    if data_args.join_to_seconds > encoder.window:
        raise DataError(
            f"join_to_seconds is {data_args.join_to_seconds:g}, longer than the model's window of {encoder.window:g} s."
        )
    settings: dict[str, Any] = {
        "join_to_seconds": data_args.join_to_seconds,
        "max_label_length": max_label_length,
        "max_samples": data_args.max_train_samples,
        "seed": data_args.sample_seed,
        "max_bad_row_share": data_args.max_bad_row_share,
        "speed_perturbation": speed_perturbation,
    }
    if any(corpus.streaming for corpus in corpora):
        return TrainingStream(corpora, encoder, process=process, **settings)
    dataset = TrainingDataset(corpora, encoder, **settings)
    if not allow_missing_text and any(text is None for text in dataset.texts):
        raise DataError("some training rows have no text. Load them with require_text, or train on pseudo labels.")
    for language in dict.fromkeys(dataset.languages):
        encoder.prefix(language)  # one that the model does not know must fail now
    dataset.report.log()
    return dataset


class TrainingDataset(Dataset[dict[str, Any]]):
    """A map-style dataset: sample i is one row, or several neighbours joined; see `training_dataset`.

    Attributes:
        report: rows left out here because of their length, and how many samples the rest makes.
        durations: seconds of each sample, silence between joined clips included.
        texts: transcript of each sample, None where there is none.
        languages: code of each sample's language.
        ids: 'CORPUS:ROW_ID' of each sample's rows, joined with '+'.
    """

    def __init__(
        self,
        corpora: Sequence[Corpus],
        encoder: SampleEncoder,
        *,
        join_to_seconds: float,
        max_label_length: int,
        max_samples: int | None,
        seed: int,
        max_bad_row_share: float,
        speed_perturbation: float = 0.0,
    ) -> None:
        self.corpora = list(corpora)
        self.encoder = encoder
        self.max_bad_row_share = max_bad_row_share
        self.speed_perturbation, self.seed = speed_perturbation, seed
        self.epoch: int | None = None
        self.report = LoadReport("training samples")
        self._unreadable: set[int] = set()
        clips = self._clips(max_label_length)
        self.report.stop_if_empty()
        groups = list(
            join_neighbours(clips, max_seconds=join_to_seconds, max_tokens=max_label_length - encoder.num_special)
        )
        if join_to_seconds > 0:
            self.report.notes.append(f"joined into {len(groups)} samples of up to {join_to_seconds:g} s")
        if max_samples is not None and max_samples < len(groups):
            self.report.notes.append(f"{max_samples} of {len(groups)} samples drawn with seed {seed}")
            groups = [groups[i] for i in sorted(random.Random(seed).sample(range(len(groups)), max_samples))]
        self.groups = groups
        by_key = {clip.key: clip for clip in clips}
        self.durations = [join_seconds([by_key[key].duration for key in group]) for group in groups]
        self.texts = [join_texts([self._texts[key] for key in group]) for group in groups]
        self.languages = [by_key[group[0]].language or encoder.language for group in groups]
        self.ids = ["+".join(self._ids[key] for key in group) for group in groups]
        del self._texts, self._ids

    def set_epoch(self, epoch: int) -> None:
        """From now on samples are heard at this epoch's speeds; the Trainer calls this."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.groups)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Decode and encode one sample.

        Audio whose header was right but whose body cannot be decoded is replaced by the next sample, with a warning, so
        that one damaged file does not end a long training; more of them than `max_bad_row_share` do.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")  # which ends `for sample in dataset`
        for shift in range(len(self)):
            at = (index + shift) % len(self)
            try:
                return self.encoder.encode(self._heard(at), self.texts[at], self.languages[at])
            except DataError as error:
                if at not in self._unreadable:
                    self._unreadable.add(at)
                    logger.warning("%s The next sample is used in its place.", error)
                if len(self._unreadable) > self.max_bad_row_share * len(self):
                    raise DataError(
                        f"{len(self._unreadable)} of {len(self)} training samples cannot be decoded, more than the "
                        f"{self.max_bad_row_share:.1%} that max_bad_row_share allows. The latest: {error}"
                    ) from error
        raise AssertionError("unreachable: a share of 1 leaves no sample to try")

    def _heard(self, index: int) -> NDArray[np.float32]:
        return speed_of_epoch(
            self.audio(index),
            self.speed_perturbation,
            seed=self.seed,
            epoch=self.epoch,
            place=str(index),
            max_seconds=self.encoder.window,
        )

    def audio(self, index: int) -> NDArray[np.float32]:
        """Audio of one sample: float32 of shape (samples,) at 16 kHz."""
        return join_audio([self.corpora[c].read(self._row(c, r)) for c, r in self.groups[index]])

    def _row(self, corpus: int, row: int) -> Row:
        rows = self.corpora[corpus].rows
        assert isinstance(rows, datasets.Dataset)
        return dict(rows[row])

    def _clips(self, max_label_length: int) -> list[Clip[tuple[int, int]]]:
        """Every usable row; keys are (corpus, row). Fills `_texts`, `_ids` and the report."""
        clips = []
        self._texts: dict[tuple[int, int], str | None] = {}
        self._ids: dict[tuple[int, int], str] = {}
        for c, corpus in enumerate(self.corpora):
            assert isinstance(corpus.rows, datasets.Dataset)
            columns = corpus.rows.select_columns(["id", "text", "duration", "speaker", "language"])[:]
            tokens = self.encoder.text_tokens(columns["text"])
            for r, length in enumerate(tokens):
                speaker, language = columns["speaker"][r], columns["language"][r]
                clip = Clip((c, r), corpus.name, speaker, language, columns["duration"][r], length)
                name = f"{corpus.name}:{columns['id'][r]}"
                rejection = check_length(clip.duration, length, self.encoder, max_label_length)
                if rejection is not None:
                    self.report.reject(name, rejection)
                    continue
                self.report.keep(clip.duration)
                self._texts[clip.key], self._ids[clip.key] = columns["text"][r], name
                clips.append(clip)
        return clips
