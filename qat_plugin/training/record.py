"""What a training heard and ran on: written beside the checkpoint, read for results and card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer

from qat_plugin.data.corpora import find_corpora
from qat_plugin.evaluation.environment import describe_environment
from qat_plugin.recipe import DataArguments

_FILE = "training.json"


def write_record(trainer: Trainer, folder: Path, models: Mapping[str, str | None]) -> None:
    """Write `folder`/training.json; `models` are the recipe's fields that name one. It is an object of

    * "samples", "seconds": of the training speech, once through; null where it is streamed;
    * "device", "processes": what computed, and how many processes of it;
    * "revisions": {corpus: commit} of the corpora that came from the Hub;
    * "local_models": {field: whether it names a folder of this machine}, which may look like an id of the Hub elsewhere.
    """
    dataset, device = trainer.train_dataset, trainer.args.device
    # A stream has none.
    durations = getattr(dataset, "durations", None)
    record = {
        "samples": None if durations is None else len(durations),
        "seconds": None if durations is None else round(float(sum(durations)), 1),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else describe_environment()["cpu"],
        "processes": trainer.args.world_size,
        "revisions": {corpus.name: corpus.revision for corpus in dataset.corpora if corpus.revision is not None},
        "local_models": {name: Path(model).exists() for name, model in models.items() if model is not None},
    }
    (folder / _FILE).write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf8")


def read_record(data: DataArguments, folder: Path) -> dict[str, Any]:
    """What `write_record` wrote, with "corpora" in place of "revisions": {name: see `CorpusDefinition.source_of`}.

    Without the file, as where only arms without training are compared, "corpora" is all that is known.
    """
    file = folder / _FILE
    record: dict[str, Any] = json.loads(file.read_text(encoding="utf8")) if file.is_file() else {}
    revisions = record.pop("revisions", {})
    definitions = find_corpora([*data.train_corpora, *data.train_data], data.corpus_manifests)
    return {"corpora": {found.name: found.source_of(revisions.get(found.name)) for found in definitions}, **record}
