"""Combinations that cannot work: each message quotes the fields, the values and the mend."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Any, Literal, Optional, Union

import pytest

from qat_plugin.errors import RecipeError
from qat_plugin.recipe_checks import check_values
from qat_plugin.recipe_loading import load_recipe
from qat_plugin.recipe_types import check_types

GOOD: dict[str, Any] = {
    "language": "french", "task": "transcribe", "encoder_context": "auto", "train_corpora": [], "train_data": ["a.jsonl"], "validation_data": [], "corpus_manifests": [], "streaming": False,
    "max_train_samples": None, "min_duration_in_seconds": 0.2, "max_duration_in_seconds": 30.0,
    "max_label_length": None, "max_bad_row_share": 0.01, "join_to_seconds": 0.0, "speed_perturbation": 0.0,
    "preprocessing_num_workers": 1,
    "target": "int4", "group_size": 64, "int8_modules": [], "hot_tokens": 0, "calibration_samples": 32,
    "initial_rounding": "gptq", "weight_observer": "mse", "scale_learning_rate": 1e-3,
    "fake_quant_start_step": 0, "freeze_scales_step": None, "teacher_model_name_or_path": None,
    "distillation_temperature": 1.0, "ce_weight": 1.0, "kl_weight": 0.0, "encoder_weight": 0.0, "decoder_weight": 0.0,
    "pseudo_labels": False, "corpora": ["mtedx"], "test_data": [], "arms": ["fp", "ptq-rtn", "qat"],
    "max_eval_samples": None, "min_eval_words": 1, "eval_num_beams": 1, "eval_batch_size": 1,
    "bootstrap_resamples": 2000, "parity_samples": 8, "num_threads": None, "learning_rate": 1e-5, "max_steps": -1,
    "per_device_train_batch_size": 8, "per_device_eval_batch_size": 8, "gradient_accumulation_steps": 1,
    "dataloader_persistent_workers": False, "eval_strategy": "no", "save_strategy": "steps", "logging_strategy": "steps",
    "bf16": False, "fp16": False, "hub_token": None,
    "num_train_epochs": 3.0, "label_smoothing_factor": 0.0, "torch_compile": False, "resume_from_checkpoint": None, "push_to_hub": False,
    "fsdp": None, "deepspeed": None, "metric_for_best_model": None, "greater_is_better": None, "predict_with_generate": True,
}  # fmt: skip


def test_good_values_have_no_message() -> None:
    assert check_values(GOOD) == []


@pytest.mark.parametrize(
    ("values", "messages"),
    [
        ({"language": "frensh"}, ['language is "frensh", which Whisper does not know: did you mean \'french\'?']),
        ({"language": "xyz"}, ['language is "xyz", which Whisper does not know: give a name or code of']),
        ({"train_data": []}, ["train_corpora and train_data are both empty: name a corpus or a manifest"]),
        ({"encoder_context": "full", "arms": ["fp", "fp-auto"]}, ['arms is ["fp", "fp-auto"] and encoder_context is "full": "fp-auto" is float with silence folded']),
        ({"corpus_manifests": ["a=b.jsonl", "mtedx=c.jsonl", "zaion5=d.jsonl"]}, []),
        ({"corpus_manifests": ["mtdx=c.jsonl"]}, ['corpus_manifests names "mtdx", which no corpus is called: did you mean "mtedx"?']),
        ({"corpora": []}, ["corpora and test_data are both empty: name a corpus or a manifest"]),
        ({"test_data": ["a.jsonl"]}, ['"a.jsonl" is both trained on and tested on: take it out of one of them']),
        (
            {"validation_data": ["mtedx"], "eval_strategy": "steps"},
            ['"mtedx" in validation_data is also trained or tested on'],
        ),
        ({"eval_strategy": "epoch"}, ['eval_strategy is "epoch" and validation_data is empty: name speech']),
        ({"validation_data": ["v.json"]}, ['validation_data is ["v.json"] and eval_strategy is "no", so that nothing']),
        (
            {"metric_for_best_model": "eval_wer", "greater_is_better": True},
            ['metric_for_best_model is "eval_wer" and greater_is_better is true: the worst checkpoint would count as the'],
        ),
        ({"metric_for_best_model": "hits", "greater_is_better": True}, []),
        (
            {"metric_for_best_model": "eval_wer", "predict_with_generate": False},
            ['metric_for_best_model is "eval_wer" and predict_with_generate is false: without transcripts there are no'],
        ),
        ({"metric_for_best_model": "loss", "predict_with_generate": False}, []),
        ({"min_duration_in_seconds": 5.0, "max_duration_in_seconds": 5.0},
         ["min_duration_in_seconds is 5.0 and max_duration_in_seconds is 5.0: no clip is left; lower the first"]),
        ({"max_duration_in_seconds": 31.0}, ["max_duration_in_seconds is 31.0: it must be between 0 and 30"]),
        (
            {"speed_perturbation": 0.1, "dataloader_persistent_workers": True},
            ["dataloader_persistent_workers is true and speed_perturbation is 0.1: workers that stay never hear of a new"],
        ),
        ({"speed_perturbation": 0.5}, ["speed_perturbation is 0.5: it must be between 0 and 0.3"]),
        ({"join_to_seconds": 40.0}, ["join_to_seconds is 40.0: it must be between 0 and 30"]),
        ({"max_bad_row_share": 1.5}, ["max_bad_row_share is 1.5: it must be between 0 and 1"]),
        ({"max_train_samples": 0}, ["max_train_samples is 0: it must be 1 or more"]),
        ({"num_threads": 0}, ["num_threads is 0: it must be 1 or more"]),
        ({"streaming": True}, ["streaming is true and max_steps is -1: a stream has no length, so set max_steps"]),
        (
            {"streaming": True, "max_steps": 9, "save_strategy": "epoch"},
            ['streaming is true and save_strategy is "epoch": a stream goes on without end, so set it to "steps"'],
        ),
        (
            {"streaming": True, "max_steps": 9, "pseudo_labels": True},
            ["streaming and pseudo_labels are both true: the teacher transcribes a corpus once"],
        ),
        ({"target": "int8", "hot_tokens": 9}, ['hot_tokens is 9 and target is "int8": everything has 8 bits then']),
        ({"target": "int8", "int8_modules": ["a.*"]}, ['int8_modules is ["a.*"] and target is "int8": everything']),
        ({"calibration_samples": 0}, ['initial_rounding is "gptq", calibration_samples is 0 and weight_observer is "mse"']),
        (
            {"calibration_samples": 0, "initial_rounding": "nearest", "arms": ["fp", "ptq-static", "ptq-hqq", "ptq-gptq", "ptq-ft"]},
            ['arms has "ptq-static", "ptq-gptq", "ptq-ft" and calibration_samples is 0: what they round by is heard on clips'],
        ),
        ({"weight_observer": "minmax"}, ['initial_rounding is "gptq", calibration_samples is 32 and weight_observer is']),
        ({"group_size": 24}, ["group_size is 24: target int4 has groups of 16, 32, 64, 128, 256"]),
        (
            {"fake_quant_start_step": 9, "freeze_scales_step": 8},
            ["freeze_scales_step is 8 and fake_quant_start_step is 9: scales would stand still before they are used"],
        ),
        (
            {"fake_quant_start_step": 9, "max_steps": 9},
            ["fake_quant_start_step is 9 and max_steps is 9: nothing would be quantized; lower the first"],
        ),
        ({"distillation_temperature": 0}, ["distillation_temperature is 0: it must be above 0"]),
        ({"kl_weight": -0.5}, ["kl_weight is -0.5: it must be 0 or more"]),
        ({"ce_weight": 0}, ["ce_weight, kl_weight, encoder_weight, decoder_weight are all 0: nothing would be"]),
        ({"teacher_model_name_or_path": "t"}, ['teacher_model_name_or_path is "t" and kl_weight, encoder_weight,']),
        ({"arms": ["fp", "qat", "qatt"]}, ['arms is ["fp", "qat", "qatt"]: "qatt" is not one of fp, fp-auto, ']),
        ({"arms": ["fp", "qat", "fp"]}, ['arms is ["fp", "qat", "fp"]: name each arm once']),
        ({"arms": []}, ["arms is []: name at least one of fp, fp-auto, "]),
        ({"num_train_epochs": 0}, ["num_train_epochs is 0 and max_steps is -1: nothing would be trained; set one of them"]),
        ({"num_train_epochs": 0, "max_steps": 5}, []),
        ({"torch_compile": True}, ["torch_compile is true: the loss and the folded silence are hooks, which a compiled"]),
        ({"label_smoothing_factor": 0.1}, ["label_smoothing_factor is 0.1: the Trainer would take the labels away from"]),
        ({"resume_from_checkpoint": "a"}, ['resume_from_checkpoint is "a": a run goes on from the last checkpoint in its']),
        ({"push_to_hub": True}, ["push_to_hub is true: the Trainer would publish weights that are not quantized yet; leave"]),
        ({"fsdp": "full_shard"}, ['fsdp is "full_shard": each process would have a piece of the weights, and quantizers are']),
        ({"deepspeed": "ds.json"}, ['deepspeed is "ds.json": each process would have a piece of the weights, and']),
        ({"bf16": True, "fp16": True}, ["bf16 and fp16 are both true: keep one"]),
        ({"hub_token": "x"}, ["hub_token is set: a recipe is kept beside the output, so it must hold no secret"]),
    ],
)  # fmt: skip
def test_combinations_that_cannot_work(values: dict[str, Any], messages: list[str]) -> None:
    found = check_values({**GOOD, **values})
    assert len(found) == len(messages)
    for message, expected in zip(found, messages, strict=True):
        assert message.startswith(expected)


def test_a_token_is_not_repeated() -> None:
    (message,) = check_values({**GOOD, "hub_token": "hf_secret"})
    assert "hf_secret" not in message


class Color(str, Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("hint", "good", "bad", "words"),
    [
        (int, [0, -3], [True, 1.0, "1", None], "an integer"),
        (float, [0, 1.5], [True, "1.5", None], "a number"),
        (bool, [True, False], [0, 1, "true", None], "true or false"),
        (str, ["", "a"], [1, None, ["a"]], "a string"),
        (Optional[int], [None, 3], ["3", 3.5], "an integer or null"),
        (int | None, [None, 3], ["3"], "an integer or null"),
        (list[str], [[], ["a"]], ["a", [1], None], "a list of strings"),
        (Literal["a", "b"], ["a"], ["c", 1], 'one of "a", "b"'),
        (Literal[1], [1], [True, 1.0], "one of 1"),
        (Union[Color, str], ["red"], ["blue", 1], 'one of "red"'),
        (
            Union[str, list[Color]],
            ["any", ["red"]],
            [["blue"]],
            'a string or a list of items that are each one of "red"',
        ),
        (dict[str, Any], [{}, {"a": 1}], [[], "a"], "an object"),
        (Union[None, str, Path], [None, "a"], [1], "null or a string"),
        (Optional[Any], [None, 1, "a"], [], ""),
    ],
)
def test_types(hint: Any, good: list[Any], bad: list[Any], words: str) -> None:
    for value in good:
        assert check_types({"field": value}, {"field": hint}) == []
    for value in bad:
        (message,) = check_types({"field": value}, {"field": hint})
        assert message.startswith("field is ") and f"it must be {words}" in message


def test_the_loader_applies_these_checks() -> None:
    with pytest.raises(RecipeError, match=r"demo\.json: group_size is 24: target int4 has groups of 16"):
        load_recipe("demo", ["--group_size", "24"])
