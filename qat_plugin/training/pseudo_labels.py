"""The teacher's own greedy transcripts as labels: distillation then needs no text, and stays in the teacher's words."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from tqdm.auto import tqdm
from transformers import LogitsProcessorList, WhisperForConditionalGeneration, WhisperProcessor

from qat_plugin.data.loading import Corpus
from qat_plugin.encoder_context import EncoderContext, in_context
from qat_plugin.errors import DataError
from qat_plugin.fake_quant.state import weights_digest
from qat_plugin.prompt import generating_to_limit, is_multilingual
from qat_plugin.runtime.logits import LoopGuard


class RelabelledDataset(Dataset[dict[str, Any]]):
    """The `TrainingDataset` `dataset` with other labels, and what the Trainer and records ask of it; clips whose label is None are
    left out."""

    def __init__(self, dataset: Any, labels: list[list[int] | None]) -> None:
        self.dataset, self.labels = dataset, labels
        self.indices = [i for i, label in enumerate(labels) if label is not None]
        self.durations = [dataset.durations[i] for i in self.indices]

    @property
    def corpora(self) -> list[Corpus]:
        """See `TrainingDataset`."""
        corpora: list[Corpus] = self.dataset.corpora
        return corpora

    def set_epoch(self, epoch: int) -> None:
        """See `TrainingDataset.set_epoch`."""
        self.dataset.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        at = self.indices[index]
        return {**self.dataset[at], "labels": self.labels[at]}


class TeacherLabels:
    """The teacher's greedy transcripts of a dataset's samples as labels, each made when it is asked for first.

    Clips in which the teacher hears nothing, whose transcript falls into a loop, or is longer than a label may be, have no label.
    Transcripts are appended to `cache` (JSONL) as they are made; an interrupted run goes on there, and what one step needs of
    them another does not make again. `inputs` names what decides them (model, corpora, ...); ids and lengths of the clips, the
    teacher's weights and its generation config are added here. A cache made from others is begun anew. With a `context`, the
    teacher hears clips in it, and clips of about the same length together. It computes on `device`;
    afterwards it is back on its own, in its own mode.
    """

    def __init__(
        self,
        teacher: WhisperForConditionalGeneration,
        dataset: Any,
        processor: WhisperProcessor,
        cache: Path,
        *,
        inputs: dict[str, Any],
        task: str,
        max_label_length: int,
        context: EncoderContext | None = None,
        batch_size: int = 8,
        device: torch.device | None = None,
    ) -> None:
        self._teacher, self._dataset, self._tokenizer = teacher, dataset, processor.tokenizer
        self._cache, self._context, self._batch_size, self._device = cache, context, batch_size, device
        # A teacher that knows English only is told neither.
        self._is_told, self._task = is_multilingual(teacher.generation_config), task
        self._max_label_length = max_label_length
        with generating_to_limit(teacher):
            self._inputs = {**inputs, **_decisive(teacher, dataset)}
        self._texts = _read_cache(cache, self._inputs)

    def __len__(self) -> int:
        """Number of samples, with a label or without."""
        return len(self._dataset)

    def of(self, indices: Sequence[int]) -> RelabelledDataset:
        """These samples of the dataset, with their labels. Raises `DataError` when none has one."""
        self._make(indices)
        labels: list[list[int] | None] = [None] * len(self._dataset)
        for index in indices:
            labels[index] = self._label(index)
        relabelled = RelabelledDataset(self._dataset, labels)
        if len(relabelled) == 0:
            raise self._nothing_usable(len(indices))
        return relabelled

    def near(self, indices: Sequence[int]) -> dict[int, list[int]]:
        """Labels of these samples, by index; of each that has none, of the next one that has and is not among them yet.

        Raises `DataError` when no clip of the whole dataset has one.
        """
        self._make(indices)
        count, found = len(self._dataset), dict[int, list[int]]()
        for index in indices:
            for at in ((index + shift) % count for shift in range(count)):
                if at in found:
                    continue
                self._make([at])
                label = self._label(at)
                if label is not None:
                    found[at] = label
                    break
        if indices and not found:
            raise self._nothing_usable(count)
        return found

    def _label(self, index: int) -> list[int] | None:
        # The collator takes the start token off again; kept here so that labels look like the tokenizer's own.
        text, prefix = self._texts[index], self._dataset.encoder.prefix(self._dataset.languages[index])
        label = [*prefix, *text, self._tokenizer.eos_token_id]
        return label if text and len(label) <= self._max_label_length else None

    def _make(self, indices: Iterable[int]) -> None:
        """Transcribe those that are not transcribed yet, the longest first."""
        durations = self._dataset.durations
        missing = [i for i in indices if i not in self._texts]
        missing.sort(key=lambda i: float(durations[i]), reverse=True)
        if not missing:
            return
        if not self._texts:
            self._cache.parent.mkdir(parents=True, exist_ok=True)
            header = json.dumps({"inputs": self._inputs}, sort_keys=True)
            self._cache.write_text(header + "\n", encoding="utf8")
        was_training, device = self._teacher.training, self._teacher.device
        self._teacher.to(device if self._device is None else self._device).eval()
        with self._cache.open("a", encoding="utf8") as file:
            starts = range(0, len(missing), self._batch_size)
            for start in tqdm(starts, desc="teacher's transcripts", unit="batch"):
                batch = missing[start : start + self._batch_size]
                for index, text in zip(batch, self._transcribe(batch), strict=True):
                    self._texts[index] = text
                    row = {"sample": index, "tokens": text, "text": self._tokenizer.decode(text)}
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
                file.flush()
        # Where it was: what goes on with the untrained model expects it there.
        self._teacher.to(device).train(was_training)

    def _transcribe(self, indices: Sequence[int]) -> list[list[int]]:
        teacher, dataset = self._teacher, self._dataset
        rows, languages = [dataset[i] for i in indices], [dataset.languages[i] for i in indices]
        features = torch.stack([torch.as_tensor(row["input_features"]) for row in rows]).to(teacher.device)
        asked = {"language": languages, "task": self._task} if self._is_told else {}
        end = self._tokenizer.eos_token_id
        # One row that loops to the length limit would keep all others of its batch waiting.
        guard = LoopGuard(end, begin_index=len(dataset.encoder.prefix(languages[0])))
        with torch.no_grad(), in_context(teacher, self._context, features) as heard, generating_to_limit(teacher):
            generated = teacher.generate(
                heard, **asked, num_beams=1, do_sample=False, logits_processor=LogitsProcessorList([guard])
            ).tolist()
        return [
            [] if guard.has_cut(tokens, end) else [token for token in tokens if token < end] for tokens in generated
        ]

    def _nothing_usable(self, samples: int) -> DataError:
        return DataError(
            f"the teacher wrote no usable transcript for any of {samples} training samples: check `language`, `task` and the audio"
        )


def _decisive(teacher: WhisperForConditionalGeneration, dataset: Any) -> dict[str, Any]:
    """What names do not tell: a manifest and a folder keep theirs when their content changes."""
    clips = hashlib.sha256(json.dumps([dataset.ids, [float(seconds) for seconds in dataset.durations]]).encode())
    generation: dict[str, Any] = teacher.generation_config.to_diff_dict()
    generation.pop("transformers_version", None)
    return {"clips": clips.hexdigest(), "weights": weights_digest(teacher), "generation_config": generation}


def _read_cache(cache: Path, inputs: dict[str, Any]) -> dict[int, list[int]]:
    """Transcripts by the index of their sample."""
    if not cache.is_file():
        return {}
    lines = cache.read_text(encoding="utf8").split("\n")
    # The last piece is empty, or half a line that an interrupted run left.
    header, rows, torn = lines[0], lines[1:-1], lines[-1]
    if len(lines) == 1 or json.loads(header) != json.loads(json.dumps({"inputs": inputs}, sort_keys=True)):
        return {}
    if torn:
        cache.write_text("\n".join([header, *rows]) + "\n", encoding="utf8")
    read = (json.loads(row) for row in rows)
    return {row["sample"]: row["tokens"] for row in read}
