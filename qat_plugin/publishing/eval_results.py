"""`.eval_results/wer.yaml`: figures on benchmark datasets, as the Hub collects them for model pages and leaderboards.

The format is https://github.com/huggingface/hub-docs/blob/main/eval_results.yaml; model-index, in the card's front matter,
holds all corpora. Written as plain mappings: huggingface_hub has classes for them from 1.0 on only, and Optimum needs an
older one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from huggingface_hub.utils import yaml_dump  # type: ignore[attr-defined]  # its stubs do not say so

from qat_plugin.arms import TRAINED
from qat_plugin.evaluation.formatting import tested_part

EVAL_RESULTS_FILE = ".eval_results/wer.yaml"
"""Where it lies in a repo, and in the folder of a card."""


def render_eval_results(document: Mapping[str, Any]) -> str | None:
    """The YAML of the published arm's WER, in percent, on every benchmark; None where no corpus is one.

    `document` is that of the card. A benchmark is a corpus of the Hub whose definition names its `task_id`. Figures on a
    part of one (`max_eval_samples`, `min_eval_words`) are left out: a leaderboard would set them beside those of the whole.
    """
    recipe, settings = document["recipe"], document["settings"]
    if tested_part(recipe):
        return None
    notes = f"WER in percent, normalizer {settings['normalizer']}, {document['arms'][TRAINED]['format']}, " + (
        "greedy" if settings["num_beams"] == 1 else f"{settings['num_beams']} beams"
    )
    entries = []
    for corpus, measurement in document["measurements"][TRAINED].items():
        definition = document["definitions"].get(corpus) or {}
        if not definition.get("hub_id") or not definition.get("task_id"):
            continue
        dataset = {"id": definition["hub_id"], "task_id": definition["task_id"]}
        if re.fullmatch(r"[0-9a-f]{40}", definition.get("revision") or ""):  # a commit; branches are not taken
            dataset["revision"] = definition["revision"]
        entry = {"dataset": dataset, "value": round(100 * measurement["wer"], 2)}
        if document["repo_id"]:
            entry["source"] = {"url": f"https://huggingface.co/{document['repo_id']}", "name": "Model card"}
        entries.append({**entry, "notes": notes})
    return yaml_dump(entries) if entries else None
