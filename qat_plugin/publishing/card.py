"""The Hub's README.md, rendered from a document of measured figures: `qat_plugin.publishing.document` describes it."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined, UndefinedError, select_autoescape

from qat_plugin.arms import ARMS, TRAINED
from qat_plugin.errors import PublishError
from qat_plugin.evaluation.baselines import baseline_notes
from qat_plugin.evaluation.formatting import tested_part
from qat_plugin.normalizers import NORMALIZERS
from qat_plugin.publishing.languages import asked_of_clients, hub_language

Document = Mapping[str, Any]

ARM = TRAINED
"""The arm that is published: the card is about it, the other arms are what it is compared with."""

POOLED = "all corpora"

ARM_NAMES = {name: arm.description for name, arm in ARMS.items()}
_TAGS = ("whisper", "onnx", "onnxruntime", "quantization", "qat", "quantization-aware-training")
_TASK = "automatic-speech-recognition"


def render_card(document: Document) -> str:
    """The whole README.md: front matter and body. The same document gives the same text.

    `document` is what `card_document` returns and `write_card` saves.

    Raises `PublishError` naming what the document lacks, or a language that is none.
    """
    try:
        recipe = with_effect(document["recipe"])
        return render(
            "card.md.jinja",
            document,
            front_matter=card_metadata(document).to_yaml(),
            repo=document["repo_id"] or "path/to/this/folder",
            arm_names=ARM_NAMES | {ARM: f"**this model**, {ARM_NAMES[ARM]}"},
            baseline_notes=baseline_notes(document, {n: f"“{d}”" for n, d in ARM_NAMES.items()} | {ARM: "This model"}),
            external_data=", ".join(f"{name}: true" for name in graphs_with_external_data(document)),
            parity_rows=list(_flatten(document["parity"])),
            effective=recipe,
            recipe_json=json.dumps(recipe, indent=2, ensure_ascii=False),
        )
    except KeyError as error:
        raise _lacks(error) from error


def with_effect(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that decide something beside the others: those of a card; with the rest left out, a recipe trains the same."""
    idle = {"num_train_epochs" if recipe.get("max_steps", -1) > 0 else "max_steps"}
    if recipe.get("target") != "int4":
        idle.add("group_size")
    if not recipe.get("kl_weight"):
        idle.add("distillation_temperature")
    if not recipe.get("learned_scales", True):
        idle.add("scale_learning_rate")
    return {name: value for name, value in recipe.items() if name not in idle}


def render(template: str, document: Document, **values: Any) -> str:
    """One of the templates with the document's keys, what all templates say, and `values`.

    Raises `PublishError` naming what the document lacks.
    """
    try:
        shared = {
            "arm": ARM,
            "title": card_title(document),
            "language_code": hub_language(document["settings"]["language"]),
            "asked": asked_of_clients(document["settings"]),
            "by_corpus": _by_corpus(document),
            "heard": {corpus: _heard_in_training(document, corpus) for corpus in document["corpora"]},
            "tested_part": tested_part(document["recipe"]),
            "normalizer": NORMALIZERS[document["settings"]["normalizer"]],
            "unverified": _unverified(document["parity"]),
        }
        return _environment().get_template(template).render({**document, **shared, **values})
    except (KeyError, UndefinedError) as error:
        raise _lacks(error) from error


def _unverified(parity: Mapping[str, Any]) -> str:
    """What readers are told of files that were published although their parity gate did not pass."""
    state = "failed on" if len(parity) > 1 else "was not run on"
    return (
        f"The check against the trained model {state} these files: whether they compute what was trained is not known."
    )


def _lacks(error: Exception) -> PublishError:
    return PublishError(
        f"the results lack {error}, which the card shows: run `qat-plugin evaluate` and `qat-plugin card` again"
    )


def card_metadata(document: Document) -> ModelCardData:
    """The front matter: what the Hub indexes, with a model-index of one WER for each test corpus."""
    recipe, base_model = document["recipe"], document["base_model"]["hub_id"]
    trained_on = [definition["hub_id"] for definition in document["training"]["corpora"].values()]
    return ModelCardData(
        language=hub_language(document["settings"]["language"]),
        license=recipe.get("model_license"),
        library_name="onnx",
        pipeline_tag=_TASK,
        base_model=base_model,
        datasets=sorted({hub_id for hub_id in trained_on if hub_id}) or None,
        metrics=["wer"],
        tags=[*_TAGS, _format(document)],
        model_name=card_title(document),
        eval_results=evaluation_results(document),
        base_model_relation=base_model and "quantized",
    )


def evaluation_results(document: Document) -> list[EvalResult]:
    """The published arm's WER in percent on each test corpus, as the front matter lists them.

    The name of one measured on a part of its corpus (`max_eval_samples`, `min_eval_words`) says so.
    """
    entries, seen, part = [], [], tested_part(document["recipe"])
    for corpus, measurement in document["measurements"][ARM].items():
        definition = document["definitions"].get(corpus) or {}
        hub_id = definition.get("hub_id")
        place = {f"dataset_{key}": definition[key] for key in ("config", "split", "revision")} if hub_id else {}
        dataset = (hub_id or corpus, place)
        # The index has one entry for a dataset, under the name of the first corpus that is of it.
        told = ", ".join([*([corpus] if dataset in seen else []), *([part] if part else [])])
        entries.append(
            EvalResult(
                task_type=_TASK,
                task_name="Automatic Speech Recognition",
                dataset_type=hub_id or corpus,
                dataset_name=corpus,
                metric_type="wer",
                metric_name=f"WER ({told})" if told else "WER",
                metric_value=round(100 * measurement["wer"], 2),
                **place,
            )
        )
        seen.append(dataset)
    return entries


def graphs_with_external_data(document: Document) -> list[str]:
    """The published graphs, without '.onnx', whose weights lie in a file beside them: transformers.js must be told."""
    files = document["arms"][ARM]["files"]
    return [name.removesuffix(".onnx_data") for name in files if name.endswith(".onnx_data")]


def card_title(document: Document) -> str:
    """The name that the card gives the model."""
    given = document["recipe"].get("model_title")
    return str(given or f"{document['base_model']['name'].split('/')[-1]}-{_format(document)}-qat")


def _format(document: Document) -> str:
    return str(document["arms"][ARM]["format"])


def _by_corpus(document: Document) -> dict[str, dict[str, Any]]:
    """Corpus → arm → measurement, with all corpora together last where there are several."""
    arms, measurements = list(document["arms"]), document["measurements"]
    table = {corpus: {arm: measurements[arm][corpus] for arm in arms} for corpus in document["corpora"]}
    if len(table) > 1:
        table[POOLED] = {arm: document["pooled"][arm] for arm in arms}
    return table


def _heard_in_training(document: Document, corpus: str) -> str:
    """What training had of a test corpus, in the words of the card's legend."""
    trained = {definition["hub_id"] for definition in document["training"]["corpora"].values()}
    own = (document["definitions"].get(corpus) or {}).get("hub_id")
    overlap = document["corpora"][corpus].get("overlap")
    found = ["its dataset"] if own and own in trained else []
    if not overlap or not overlap["test_rows"]:
        return "; ".join([*found, "not compared"])
    if overlap["same_text"]:
        found.append(f"{overlap['same_text']} of {overlap['test_rows']} texts")
    if without_text := overlap.get("without_text"):  # which older results do not name
        found.append(f"texts compared as far as known of {', '.join(without_text)}")
    if overlap["unchecked"]:
        found.append(f"not compared with {', '.join(overlap['unchecked'])}")
    return "; ".join(found) or "nothing"


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(words, value) of every single value in nested mappings; lists are what the values were computed from."""
    for key, value in values.items():
        name = prefix + (key if "." in key else key.replace("_", " "))  # file names stay
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{name}: ")
        elif not isinstance(value, list) and value is not None:
            yield name, value


# --- how the template writes figures


def _percent(fraction: float, digits: int = 1) -> str:
    return f"{100 * fraction:.{digits}f}"


def _signed(fraction: float) -> str:
    return f"{100 * fraction:+.2f}"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _cell(text: Any) -> str:
    """Text that stays within one cell of a Markdown table."""
    return re.sub(r"\s+", " ", str(text)).replace("|", "\\|")


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("qat_plugin.publishing"), autoescape=select_autoescape(["html.jinja"]),
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters |= {
        "percent": _percent, "signed": _signed, "megabytes": _megabytes, "duration": _duration, "value": _value,
        "cell": _cell,
    }  # fmt: skip
    return environment
