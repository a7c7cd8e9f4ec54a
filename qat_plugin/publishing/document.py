"""What a card is rendered from: the results of the evaluation, with what else the page says and without local paths."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from qat_plugin.errors import PublishError
from qat_plugin.evaluation.folder_files import changed_since_export
from qat_plugin.files import NAMED_BY_FOLDER, PARITY_FILE
from qat_plugin.publishing.card import render_card
from qat_plugin.publishing.eval_results import EVAL_RESULTS_FILE, render_eval_results
from qat_plugin.publishing.privacy import hub_id, public_results

# The fields of a recipe that decide the model or its figures, in the order in which a card shows them.
SHOWN_FIELDS = (
    "model_name_or_path", "model_revision", "language", "task", "encoder_context", "freeze_encoder",
    "train_corpora", "train_data", "streaming", "max_train_samples", "sample_seed", "min_duration_in_seconds",
    "max_duration_in_seconds", "max_label_length", "join_to_seconds", "speed_perturbation",
    "target", "group_size", "skip_modules", "int8_modules", "hot_tokens", "weight_observer", "calibration_samples",
    "initial_rounding", "learned_scales",
    "scale_learning_rate", "fake_quantize_activations", "fake_quant_start_step", "freeze_scales_step",
    "teacher_model_name_or_path", "distillation_temperature", "ce_weight", "kl_weight", "encoder_weight",
    "decoder_weight", "pseudo_labels",
    "num_train_epochs", "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate",
    "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "optim", "adam_beta1", "adam_beta2", "adam_epsilon", "weight_decay",
    "max_grad_norm", "label_smoothing_factor", "bf16", "fp16", "gradient_checkpointing", "seed", "data_seed",
    "load_best_model_at_end", "metric_for_best_model", "validation_data", "eval_strategy", "eval_steps", "save_strategy", "save_steps",
    "corpora", "test_data", "arms", "max_eval_samples", "min_eval_words", "normalizer", "eval_num_beams",
    "loop_guard", "long_form", "eval_batch_size", "bootstrap_resamples", "parity_samples", "num_threads",
    "model_license", "model_title", "base_model",
)  # fmt: skip

# Of those, what decides nothing unless the best checkpoint is gone back to.
_CHOOSING_FIELDS = SHOWN_FIELDS[SHOWN_FIELDS.index("load_best_model_at_end") : SHOWN_FIELDS.index("corpora")]

PUBLISHING_FIELDS = ("model_license", "model_title", "base_model", "hub_model_id")
"""The fields of a recipe that decide how a model is presented: whoever publishes gives them, not the evaluation."""

_MODEL_FIELDS = ("model_name_or_path", "teacher_model_name_or_path")
_NAME_FIELDS = ("train_corpora", "corpora")
_PATH_FIELDS = ("train_data", "validation_data", "test_data")
_DEFINITION_FIELDS = ("source", "config", "split", "revision", "task_id", "license", "description")


def write_card(
    results_file: str | Path,
    onnx_folder: str | Path,
    card_folder: str | Path,
    *,
    publishing: Mapping[str, Any] = MappingProxyType({}),
    allow_unverified: bool = False,
) -> Path:
    """Write `card_folder`/results.json, the document of the card, and `card_folder`/README.md, rendered from it.

    Where a test corpus is a benchmark, `card_folder`/.eval_results/wer.yaml holds its figure for the Hub.
    `results_file` is what `qat_plugin.evaluation.results` wrote, `onnx_folder` is the qat arm's, whose parity.json the
    card quotes, `publishing` holds the `PUBLISHING_FIELDS` that are given now, see `presented`. Files that did not pass the
    gate get a card with `allow_unverified` only, and it says so. Returns the path of README.md.

    Raises `PublishError` when parity.json is missing or failed, or the results lack what a card says.
    """
    results = read_object(Path(results_file), "qat-plugin evaluate")
    document = card_document(results, onnx_folder, publishing=publishing, allow_unverified=allow_unverified)
    return write_document(document, Path(card_folder))


def write_document(document: Mapping[str, Any], card_folder: Path) -> Path:
    """Write the document of a card and all that is rendered from it; returns the path of README.md."""
    text = render_card(document)
    card_folder.mkdir(parents=True, exist_ok=True)
    (card_folder / "results.json").write_text(
        json.dumps(document, ensure_ascii=False, indent=1, allow_nan=False) + "\n", encoding="utf8"
    )
    eval_results, benchmarks = card_folder / EVAL_RESULTS_FILE, render_eval_results(document)
    if benchmarks is None:
        eval_results.unlink(missing_ok=True)
    else:
        eval_results.parent.mkdir(exist_ok=True)
        eval_results.write_text(benchmarks, encoding="utf8")
    path = card_folder / "README.md"
    path.write_text(text, encoding="utf8")
    return path


def card_document(
    results: Mapping[str, Any],
    onnx_folder: str | Path,
    *,
    publishing: Mapping[str, Any] = MappingProxyType({}),
    allow_unverified: bool = False,
) -> dict[str, Any]:
    """The results as `public_results` leaves them, and with these keys added or replaced::

        "recipe":       the fields of `SHOWN_FIELDS` that are set, local paths shortened, corpora by their names
        "base_model":   {"hub_id": str | null, "name": str}; the recipe's `base_model` where it started from a folder
        "repo_id":      str | null, the recipe's `hub_model_id`
        "parity":       the ONNX folder's parity.json
        "definitions":  {test corpus: {source, config, split, revision, task_id, license, description, hub_id}}
        "training":     {"corpora": {training corpus: as in "definitions"}, ...}
        "measurements", "pooled":  with "insertion_rate", the fraction of words

    What was measured, and on which speech, is that of the results. Arguments and errors as in `write_card`.
    """
    recipe = results["recipe"]
    model = str(recipe["model_name_or_path"])
    published = public_results(results)
    tested = {name: corpus["source"] for name, corpus in published["corpora"].items()}
    training = published.get("training") or {"corpora": {}}
    # What was a folder where it was trained may look like an id here.
    local = training.get("local_models", {})
    hub_ids = {name: None if local.get(name) else hub_id(recipe.get(name)) for name in _MODEL_FIELDS}
    base = recipe.get("base_model") or hub_ids["model_name_or_path"]
    trained = training["corpora"]
    names = {"corpora": list(tested), "train_corpora": list(trained)}
    document = {
        **published,
        "measurements": {arm: _with_insertion_rate(found) for arm, found in published["measurements"].items()},
        "pooled": _with_insertion_rate(published["pooled"]),
        "corpora": {
            name: {figure: value for figure, value in corpus.items() if figure != "source"}
            for name, corpus in published["corpora"].items()
        },
        "recipe": {
            name: _public(name, recipe[name], names, hub_ids)
            for name in SHOWN_FIELDS
            if _is_set(recipe.get(name)) and (recipe.get("load_best_model_at_end") or name not in _CHOOSING_FIELDS)
        },
        "base_model": {"hub_id": base, "name": base or Path(model).name},
        "repo_id": recipe.get("hub_model_id"),
        "parity": read_parity(onnx_folder, allow_unverified=allow_unverified),
        "definitions": {name: _public_definition(name, source) for name, source in tested.items()},
        "training": {**training, "corpora": {name: _public_definition(name, trained[name]) for name in trained}},
    }
    return presented(document, publishing)


def presented(document: Mapping[str, Any], publishing: Mapping[str, Any]) -> dict[str, Any]:
    """The document of a card with the `PUBLISHING_FIELDS` that are given now; those that are not stay as they were."""
    given = {name: publishing[name] for name in PUBLISHING_FIELDS if publishing.get(name)}
    repo_id = given.pop("hub_model_id", document["repo_id"])
    recipe = {**document["recipe"], **given}
    base = given.get("base_model")
    return {
        **document,
        "recipe": {name: recipe[name] for name in SHOWN_FIELDS if name in recipe},
        "base_model": {"hub_id": base, "name": base} if base else document["base_model"],
        "repo_id": repo_id,
    }


def read_parity(onnx_folder: str | Path, *, allow_unverified: bool = False) -> dict[str, Any]:
    """The measured values of the gate that an exported folder passed.

    With `allow_unverified`, those of one that it did not pass, or {"passed": False} alone where there are none of these files.

    Raises `PublishError` when parity.json is no JSON object, and without `allow_unverified` when it is missing, says that
    the gate did not pass, or is of other files than the folder holds now.
    """
    path = Path(onnx_folder) / PARITY_FILE
    if allow_unverified and not path.is_file():
        return {"passed": False}
    parity = read_object(path, "qat-plugin export")
    if parity.get("passed") is True:
        changed = changed_since_export(Path(onnx_folder))
        if changed is None:
            return parity
        if allow_unverified:
            return {"passed": False}
        raise PublishError(
            f"{changed}: what it computes was not compared with the model; run `qat-plugin export` again"
        )
    if allow_unverified:
        return {**parity, "passed": False}
    raise PublishError(
        f"{path}: `passed` is {parity.get('passed')!r}: these files do not compute what was trained; "
        "run `qat-plugin export` again"
    )


def read_object(path: Path, command: str) -> dict[str, Any]:
    """The object in a JSON file that `command` writes. Raises `PublishError` when it is missing or something else."""
    if not path.is_file():
        raise PublishError(f"{path} is missing: run `{command}` first")
    try:
        value = json.loads(path.read_text(encoding="utf8"))
    except ValueError as error:
        raise PublishError(f"{path} is not JSON ({error}): run `{command}` again") from error
    if not isinstance(value, dict):
        raise PublishError(f"{path} holds a {type(value).__name__}, not an object: run `{command}` again")
    return value


def _with_insertion_rate(measurements: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: {
            **measured,
            "insertion_rate": round(measured["insertions"] / measured["reference_words"], 6),
        }
        for name, measured in measurements.items()
    }


def _is_set(value: Any) -> bool:
    return value is not None and value != [] and value != {}


def _public(name: str, value: Any, corpora: Mapping[str, Sequence[str]], hub_ids: Mapping[str, str | None]) -> Any:
    """A recipe value as others may see it: of local paths, the last part, and of a manifest's that says nothing one more.

    A corpus whose definition was given by its path goes by its name; `corpora` are those of all, in the recipe's order.
    `hub_ids` are those of the models that have one.
    """
    if name in _MODEL_FIELDS:
        return hub_ids[name] or Path(value).name
    if name in _PATH_FIELDS:
        return [_shortened(entry) if _is_path(entry) else entry for entry in value]
    if name in _NAME_FIELDS:
        return [corpora[name][i] if _is_path(entry) else entry for i, entry in enumerate(value)]
    return value


def _shortened(path: str) -> str:
    """What names a corpus, as in `data_definition`: folders above it may be named after people."""
    return "/".join(Path(path).parts[-2 if Path(path).stem in NAMED_BY_FOLDER else -1 :])


def _public_definition(name: str, definition: Mapping[str, Any] | None) -> dict[str, Any]:
    if definition is None or "path" not in definition:
        raise PublishError(
            f"the results do not say where the corpus {name!r} comes from, they are of an earlier version: delete "
            "evaluation/results.json and run `qat-plugin evaluate` again; transcripts are kept"
        )
    public = {field: definition.get(field) for field in _DEFINITION_FIELDS}
    return {**public, "hub_id": hub_id(definition["path"])}


def _is_path(entry: str) -> bool:
    return "/" in entry or "\\" in entry or Path(entry).suffix != ""
