"""The teacher's own greedy transcripts as labels: distillation then needs no text, and stays in the teacher's words."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from tqdm.auto import tqdm
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from qat_plugin.data.loading import Corpus
from qat_plugin.encoder_context import EncoderContext, in_context
from qat_plugin.errors import DataError
from qat_plugin.fake_quant.state import weights_digest
from qat_plugin.prompt import is_multilingual


class RelabelledDataset(Dataset[dict[str, Any]]):
    """`dataset` with other labels; clips whose label is None are left out."""

    def __init__(self, dataset: Any, labels: list[list[int] | None]) -> None:
        self.dataset = dataset
        self.labels = labels
        self.indices = [i for i, label in enumerate(labels) if label is not None]
        self.durations = [dataset.durations[i] for i in self.indices]

    @property
    def corpora(self) -> list[Corpus]:
        """See `TrainingDataset`."""
        corpora: list[Corpus] = self.dataset.corpora
        return corpora

    def __len__(self) -> int:
        return len(self.indices)

    def set_epoch(self, epoch: int) -> None:
        """See `TrainingDataset.set_epoch`."""
        self.dataset.set_epoch(epoch)

    def __getitem__(self, index: int) -> dict[str, Any]:
        i = self.indices[index]
        return {**self.dataset[i], "labels": self.labels[i]}


def pseudo_labels(
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
) -> RelabelledDataset:
    """Transcribe `dataset` greedily with `teacher` and return it with those transcripts as labels.

    Clips in which the teacher hears nothing, or whose transcript runs into the length limit (it loops), are left out.
    Transcripts are appended to `cache` (JSONL) as they are made; an interrupted run goes on there. `inputs` names what
    decides them (model, corpora, ...); ids and lengths of the clips, the teacher's weights and its generation config are
    added here. A cache made from others is begun anew. With a `context`, the teacher hears clips in it, and clips of about the
    same length together.

    Raises `DataError` when no clip is left.
    """
    inputs = {**inputs, **_decisive(teacher, dataset)}
    done = _read_cache(cache, inputs)
    tokenizer = processor.tokenizer
    if not done:
        cache.parent.mkdir(parents=True, exist_ok=True)
        cache.write_text(json.dumps({"inputs": inputs}, sort_keys=True) + "\n", encoding="utf8")
    # The order of the cache's rows. A gap in the batch size of an interrupted run changes nothing.
    order = sorted(range(len(dataset)), key=lambda i: float(dataset.durations[i]), reverse=True)
    with cache.open("a", encoding="utf8") as file:
        starts = range(len(done), len(dataset), batch_size)
        for start in tqdm(starts, desc="teacher's transcripts", unit="batch", disable=not starts):
            indices = order[start : start + batch_size]
            rows, languages = [dataset[i] for i in indices], [dataset.languages[i] for i in indices]
            features = torch.stack([torch.as_tensor(row["input_features"]) for row in rows]).to(teacher.device)
            # A teacher that knows English only is told neither.
            asked = {"language": languages, "task": task} if is_multilingual(teacher.generation_config) else {}
            with torch.no_grad(), in_context(teacher, context, features) as heard:
                generated = teacher.generate(heard, **asked, num_beams=1, do_sample=False)
            for tokens in generated.tolist():
                text = [token for token in tokens if token < tokenizer.eos_token_id]
                done.append(text)
                file.write(json.dumps({"tokens": text, "text": tokenizer.decode(text)}, ensure_ascii=False) + "\n")
            file.flush()
    # The collator takes the start token off again; kept here so that labels look like the tokenizer's own.
    labels: list[list[int] | None] = [None] * len(dataset)
    for i, text in zip(order, done, strict=True):
        label = [*dataset.encoder.prefix(dataset.languages[i]), *text, tokenizer.eos_token_id]
        if text and len(label) <= max_label_length:
            labels[i] = label
    relabelled = RelabelledDataset(dataset, labels)
    if len(relabelled) == 0:
        raise DataError(
            f"the teacher wrote no usable transcript for any of the {len(labels)} training samples: check `language`, "
            "`task` and the audio"
        )
    return relabelled


def _decisive(teacher: WhisperForConditionalGeneration, dataset: Any) -> dict[str, Any]:
    """What names do not tell: a manifest and a folder keep theirs when their content changes."""
    clips = hashlib.sha256(json.dumps([dataset.ids, [float(seconds) for seconds in dataset.durations]]).encode())
    generation: dict[str, Any] = teacher.generation_config.to_diff_dict()
    generation.pop("transformers_version", None)
    return {"clips": clips.hexdigest(), "weights": weights_digest(teacher), "generation_config": generation}


def _read_cache(cache: Path, inputs: dict[str, Any]) -> list[list[int]]:
    if not cache.is_file():
        return []
    lines = cache.read_text(encoding="utf8").split("\n")
    # The last piece is empty, or half a line that an interrupted run left.
    header, rows, torn = lines[0], lines[1:-1], lines[-1]
    if len(lines) == 1 or json.loads(header) != json.loads(json.dumps({"inputs": inputs}, sort_keys=True)):
        return []
    if torn:
        cache.write_text("\n".join([header, *rows]) + "\n", encoding="utf8")
    return [json.loads(row)["tokens"] for row in rows]
