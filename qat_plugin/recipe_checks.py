"""What a recipe's values must be: types, bounds, and combinations that cannot work.

Every function is pure: values in, a list of messages out. A message quotes the fields, their values, and the mend.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from transformers.models.whisper.tokenization_whisper import LANGUAGES, TO_LANGUAGE_CODE

from qat_plugin.arms import ARMS, FLOAT_FOLDED
from qat_plugin.data.corpora import known_corpora
from qat_plugin.fake_quant.schemes import GROUP_SIZES
from qat_plugin.recipe import is_of_errors
from qat_plugin.recipe_types import quote

Values = Mapping[str, Any]
"""Every field of a recipe by its name, defaults filled in."""

WINDOW = 30.0
"""Seconds that Whisper hears at once."""

# Inclusive bounds; None: open.
_BOUNDS: dict[str, tuple[float, float | None]] = {
    "max_train_samples": (1, None),
    "min_duration_in_seconds": (0, None),
    "max_duration_in_seconds": (0, WINDOW),
    "max_label_length": (1, None),
    "max_bad_row_share": (0, 1),
    "join_to_seconds": (0, WINDOW),
    "speed_perturbation": (0, 0.3),
    "preprocessing_num_workers": (1, None),
    "hot_tokens": (0, None),
    "calibration_samples": (0, None),
    "scale_learning_rate": (0, None),
    "fake_quant_start_step": (0, None),
    "freeze_scales_step": (0, None),
    "ce_weight": (0, None),
    "kl_weight": (0, None),
    "encoder_weight": (0, None),
    "decoder_weight": (0, None),
    "max_eval_samples": (1, None),
    "min_eval_words": (1, None),
    "eval_num_beams": (1, None),
    "eval_batch_size": (1, None),
    "bootstrap_resamples": (200, None),
    "parity_samples": (1, None),
    "num_threads": (1, None),
    "learning_rate": (0, None),
    "per_device_train_batch_size": (1, None),
    "per_device_eval_batch_size": (1, None),
    "gradient_accumulation_steps": (1, None),
}
_DISTILLATION_WEIGHTS = ("kl_weight", "encoder_weight", "decoder_weight")


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name that `name` is most likely meant to be, if any is near."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return matches[0] if matches else None


def check_keys(keys: Iterable[str], known: Iterable[str]) -> list[str]:
    """A message for every key that is not a field."""
    names = list(known)
    messages = []
    for key in keys:
        if key not in names:
            near = closest(key, names)
            mend = f"did you mean '{near}'?" if near else "'qat-plugin fields' lists the fields"
            messages.append(f"unknown field '{key}': {mend}")
    return messages


def check_values(values: Values) -> list[str]:
    """A message for every value out of bounds and every combination that cannot work."""
    messages: list[str] = []
    for check in _CHECKS:
        messages += check(values)
    return messages


def _bounds(v: Values) -> Iterator[str]:
    for name, (low, high) in _BOUNDS.items():
        value = v[name]
        if value is None or (value >= low and (high is None or value <= high)):
            continue
        mend = f"{low:g} or more" if high is None else f"between {low:g} and {high:g}"
        yield f"{name} is {quote(value)}: it must be {mend}"
    temperature = v["distillation_temperature"]
    if temperature <= 0:
        yield f"distillation_temperature is {quote(temperature)}: it must be above 0; 1 changes nothing"


def _language(v: Values) -> Iterator[str]:
    known = [*LANGUAGES, *TO_LANGUAGE_CODE]
    if v["language"].lower() not in known:
        near = closest(v["language"].lower(), known)
        mend = f"did you mean '{near}'?" if near else "give a name or code of Whisper's, as in 'french' or 'fr'"
        yield f"language is {quote(v['language'])}, which Whisper does not know: {mend}"


def _train_data(v: Values) -> Iterator[str]:
    if not (v["train_corpora"] or v["train_data"]):
        yield "train_corpora and train_data are both empty: name a corpus or a manifest to train and calibrate on"


def _durations(v: Values) -> Iterator[str]:
    low, high = v["min_duration_in_seconds"], v["max_duration_in_seconds"]
    if low >= high:
        yield (
            f"min_duration_in_seconds is {quote(low)} and max_duration_in_seconds is {quote(high)}: no clip is left; "
            "lower the first"
        )


def _streaming(v: Values) -> Iterator[str]:
    if not v["streaming"]:
        return
    if v["max_steps"] <= 0:
        yield f"streaming is true and max_steps is {quote(v['max_steps'])}: a stream has no length, so set max_steps"
    for name in ("eval_strategy", "save_strategy", "logging_strategy"):
        if v[name] == "epoch":
            yield f'streaming is true and {name} is "epoch": a stream goes on without end, so set it to "steps"'
    if v["pseudo_labels"]:
        yield (
            "streaming and pseudo_labels are both true: the teacher transcribes a corpus once, before training; "
            "turn one off"
        )


def _epochs(v: Values) -> Iterator[str]:
    changing = [name for name in ("streaming", "speed_perturbation") if v[name]]
    if v["dataloader_persistent_workers"] and changing:
        yield (
            f"dataloader_persistent_workers is true and {changing[0]} is {quote(v[changing[0]])}: workers that stay never hear "
            "of a new epoch, and would give the first one again; turn the former off"
        )


def _corpus_manifests(v: Values) -> Iterator[str]:
    if not v["corpus_manifests"]:
        return
    given = [*v["train_corpora"], *v["train_data"], *v["validation_data"], *v["corpora"], *v["test_data"]]
    names = sorted({*known_corpora(), *(Path(name).stem for name in given)})
    for entry in v["corpus_manifests"]:
        name = entry.partition("=")[0]
        if name not in names:
            near = closest(name, names)
            mend = f": did you mean {quote(near)}?" if near else f"; known are {', '.join(names)}"
            yield f"corpus_manifests names {quote(name)}, which no corpus is called{mend}"


def _validation(v: Values) -> Iterator[str]:
    train = {*v["train_corpora"], *v["train_data"]}
    validation, test = set(v["validation_data"]), {*v["corpora"], *v["test_data"]}
    for name in sorted(train & test):
        yield f"{quote(name)} is both trained on and tested on: take it out of one of them"
    for name in sorted(validation & (train | test)):
        yield f"{quote(name)} in validation_data is also trained or tested on: take it out of one of them"
    strategy = v["eval_strategy"]
    evaluates = strategy != "no"
    if evaluates and not validation:
        yield f"eval_strategy is {quote(strategy)} and validation_data is empty: name speech to measure on"
    if validation and not evaluates:
        yield (
            f'validation_data is {quote(v["validation_data"])} and eval_strategy is "no", so that nothing reads it: '
            'set eval_strategy to "steps" or "epoch"'
        )
    metric = v["metric_for_best_model"]
    if v["greater_is_better"] and is_of_errors(metric):
        yield (
            f"metric_for_best_model is {quote(metric)} and greater_is_better is true: the worst checkpoint would count as the "
            "best; leave the latter out"
        )
    if is_of_errors(metric) and not v["predict_with_generate"]:
        yield (
            f"metric_for_best_model is {quote(metric)} and predict_with_generate is false: without transcripts there are no "
            'errors to count; set the latter to true, or the metric to "loss"'
        )


def _quantization(v: Values) -> Iterator[str]:
    for name in ("int8_modules", "hot_tokens"):
        if v[name] and v["target"] == "int8":
            yield f'{name} is {quote(v[name])} and target is "int8": everything has 8 bits then; leave it out'
    if v["target"] == "int4" and v["group_size"] not in GROUP_SIZES:
        yield f"group_size is {quote(v['group_size'])}: target int4 has groups of {', '.join(map(str, GROUP_SIZES))}"
    if v["initial_rounding"] == "gptq" and (v["calibration_samples"] == 0 or v["weight_observer"] != "mse"):
        yield (
            f'initial_rounding is "gptq", calibration_samples is {quote(v["calibration_samples"])} and weight_observer is '
            f'{quote(v["weight_observer"])}: it needs clips and "mse"; or set initial_rounding to "nearest"'
        )
    calibrated = [arm for arm in v["arms"] if arm in ARMS and ARMS[arm].needs_speech]
    if v["calibration_samples"] == 0 and calibrated:
        yield (
            f"arms has {', '.join(map(quote, calibrated))} and calibration_samples is 0: what they round by is heard on clips; "
            "set it to 1 or more, or take them out of arms"
        )
    start, freeze, steps = v["fake_quant_start_step"], v["freeze_scales_step"], v["max_steps"]
    if freeze is not None and freeze < start:
        yield (
            f"freeze_scales_step is {quote(freeze)} and fake_quant_start_step is {quote(start)}: scales would stand "
            "still before they are used; raise the first or leave it out"
        )
    if 0 < steps <= start:
        yield (
            f"fake_quant_start_step is {quote(start)} and max_steps is {quote(steps)}: nothing would be quantized; "
            "lower the first"
        )


def _distillation(v: Values) -> Iterator[str]:
    weights = {name: v[name] for name in ("ce_weight", *_DISTILLATION_WEIGHTS)}
    if not any(weights.values()):
        yield f"{', '.join(weights)} are all 0: nothing would be learned; set ce_weight or one of the others above 0"
    teacher = v["teacher_model_name_or_path"]
    if teacher is not None and not v["pseudo_labels"] and not any(v[name] for name in _DISTILLATION_WEIGHTS):
        yield (
            f"teacher_model_name_or_path is {quote(teacher)} and {', '.join(_DISTILLATION_WEIGHTS)} are all 0: it "
            "would teach nothing; set one of them, set pseudo_labels, or leave the teacher out"
        )


def _evaluation(v: Values) -> Iterator[str]:
    arms = v["arms"]
    for arm in arms:
        if arm not in ARMS:
            yield f"arms is {quote(arms)}: {quote(arm)} is not one of {', '.join(ARMS)}"
    if len(set(arms)) < len(arms):
        yield f"arms is {quote(arms)}: name each arm once"
    if FLOAT_FOLDED in arms and v["encoder_context"] != "auto":
        yield (
            f"arms is {quote(arms)} and encoder_context is {quote(v['encoder_context'])}: {quote(FLOAT_FOLDED)} is float with "
            'silence folded, and nothing would be; take it out, or set encoder_context to "auto"'
        )
    if not arms:
        yield f"arms is []: name at least one of {', '.join(ARMS)}"
    if not (v["corpora"] or v["test_data"]):
        yield "corpora and test_data are both empty: name a corpus or a manifest to verify and measure the model on"


def _training(v: Values) -> Iterator[str]:
    epochs, steps = v["num_train_epochs"], v["max_steps"]
    if epochs <= 0 and steps <= 0:
        yield (
            f"num_train_epochs is {quote(epochs)} and max_steps is {quote(steps)}: nothing would be trained; set one of them "
            "above 0"
        )
    if v["label_smoothing_factor"] != 0:
        yield (
            f"label_smoothing_factor is {quote(v['label_smoothing_factor'])}: the Trainer would take the labels away from the "
            "loss that trains here; leave it out, and smooth by kl_weight and distillation_temperature"
        )
    if v["torch_compile"]:
        yield (
            "torch_compile is true: the loss and the folded silence are hooks, which a compiled graph may leave out; leave it out"
        )
    if v["resume_from_checkpoint"] is not None:
        yield (
            f"resume_from_checkpoint is {quote(v['resume_from_checkpoint'])}: a run goes on from the last checkpoint in its "
            "output_dir by itself; leave it out"
        )
    if v["push_to_hub"]:
        yield (
            "push_to_hub is true: the Trainer would publish weights that are not quantized yet; leave it out, and run "
            "'qat-plugin push' when the model is measured"
        )


def _sharding(v: Values) -> Iterator[str]:
    for name in ("fsdp", "deepspeed"):
        if v[name]:
            yield (
                f"{name} is {quote(v[name])}: each process would have a piece of the weights, and quantizers are found for whole "
                "ones; leave it out, and start several processes with `accelerate launch --multi_gpu`"
            )


def _precision(v: Values) -> Iterator[str]:
    if v["bf16"] and v["fp16"]:
        yield "bf16 and fp16 are both true: keep one"


def _tokens(v: Values) -> Iterator[str]:
    for name, value in v.items():
        if name.endswith("_token") and value is not None:
            yield (
                f"{name} is set: a recipe is kept beside the output, so it must hold no secret; use 'hf auth login' or "
                "the variable HF_TOKEN"
            )


_CHECKS: tuple[Callable[[Values], Iterator[str]], ...] = (
    _bounds,
    _language,
    _train_data,
    _durations,
    _streaming,
    _epochs,
    _corpus_manifests,
    _validation,
    _quantization,
    _distillation,
    _evaluation,
    _training,
    _sharding,
    _precision,
    _tokens,
)
