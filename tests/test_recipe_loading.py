"""Reading, overriding and saving a recipe; every error names the place, the value and the mend."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from qat_plugin.errors import RecipeError
from qat_plugin.recipe_loading import field_hints, load_recipe, recipe_help, recipe_to_dict, save_recipe

MINIMAL = {
    "model_name_or_path": "openai/whisper-tiny",
    "train_data": ["train.jsonl"],
    "test_data": ["test.jsonl"],
    "output_dir": "out",
}


def write(folder: Path, **values: Any) -> Path:
    path = folder / "mine.json"
    path.write_text(json.dumps({**MINIMAL, **values}), encoding="utf8")
    return path


# What must not be an error.


def test_the_least_a_recipe_needs(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path))
    assert recipe.model.model_name_or_path == "openai/whisper-tiny"
    assert recipe.data.train_data == ["train.jsonl"]
    assert recipe.evaluation.arms == ["fp", "ptq-rtn", "ptq-gptq", "qat"]
    assert recipe.training.output_dir == "out"


@pytest.mark.parametrize(
    "values",
    [
        {"max_train_samples": None},
        {"learning_rate": 1},
        {"report_to": "none"},
        {"report_to": ["tensorboard"]},
        {"lr_scheduler_type": "cosine"},
        {"lr_scheduler_kwargs": {"num_cycles": 1}},
        {"language": "FR"},
        {"language": "Castilian"},
        {"target": "int8", "group_size": 24},
        {"fake_quant_start_step": 10, "freeze_scales_step": 10},
        {"streaming": True, "max_steps": 10},
        {"eval_strategy": "steps", "eval_steps": 5, "validation_data": ["validation.jsonl"]},
        {"ce_weight": 0, "kl_weight": 1},
        {"arms": ["qat"]},
        {"teacher_model_name_or_path": "openai/whisper-small", "pseudo_labels": True},
    ],
)
def test_values_that_work(tmp_path: Path, values: dict[str, Any]) -> None:
    load_recipe(write(tmp_path, **values))


@pytest.mark.parametrize(
    ("metric", "greater"),
    [("wer", False), ("eval_cer", False), ("eval_insertions", False), ("hits", True), ("loss", False), (None, None)],
)
@pytest.mark.parametrize("way", [{"save_strategy": "best"}, {"lr_scheduler_type": "reduce_lr_on_plateau"}])
def test_of_errors_fewer_are_better(
    tmp_path: Path, way: dict[str, Any], metric: str | None, greater: bool | None
) -> None:
    """transformers would take the checkpoint with the most errors for the best."""
    evaluates = {"eval_strategy": "steps", "eval_steps": 5, "validation_data": ["validation.jsonl"]}
    recipe = load_recipe(write(tmp_path, metric_for_best_model=metric, **evaluates, **(way if metric else {})))
    assert recipe.training.greater_is_better is greater
    save_recipe(recipe, tmp_path / "saved.json")
    assert load_recipe(tmp_path / "saved.json").training.greater_is_better is greater


def test_a_shipped_recipe_by_name_and_by_path() -> None:
    by_name = load_recipe("whisper-base-int8")
    by_path = load_recipe(Path(__file__).parents[1] / "recipes" / "whisper-base-int8.json")
    assert recipe_to_dict(by_name) == recipe_to_dict(by_path)


# Overrides.


def test_overrides_change_only_what_they_name(tmp_path: Path) -> None:
    path = write(tmp_path, learning_rate=3e-6, corpora=["mtedx"])
    before = recipe_to_dict(load_recipe(path))
    overrides = ["--target", "int4", "--max_steps=7", "--corpora", "community-v2", "zaion5", "--pseudo-labels"]
    after = recipe_to_dict(load_recipe(path, overrides))
    changed = {name: value for name, value in after.items() if before[name] != value}
    assert changed == {
        "target": "int4",
        "max_steps": 7,
        "corpora": ["community-v2", "zaion5"],
        "pseudo_labels": True,
    }
    assert after["learning_rate"] == 3e-6


def test_processes_wait_a_day_for_the_first_one_unless_told_otherwise(tmp_path: Path) -> None:
    assert load_recipe(write(tmp_path)).training.ddp_timeout_delta.days == 1
    assert load_recipe(write(tmp_path), ["--ddp_timeout", "60"]).training.ddp_timeout_delta.seconds == 60


def test_an_override_can_give_what_the_file_lacks(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text('{"train_corpora": ["mtedx"], "test_data": ["a.json"]}')
    assert load_recipe(path, ["--model_name_or_path", "m", "--output_dir", "o"]).training.output_dir == "o"


def test_an_override_can_switch_off_and_empty(tmp_path: Path) -> None:
    path = write(tmp_path, learned_scales=True, pseudo_labels=True, corpora=["mtedx"])
    recipe = load_recipe(path, ["--no_learned_scales", "--pseudo_labels", "false", "--corpora"])
    assert recipe.quantization.learned_scales is False
    assert recipe.distillation.pseudo_labels is False
    assert recipe.evaluation.corpora == []


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--learing_rate", "1"], "--learing_rate is not a field of a recipe: did you mean --learning_rate?"),
        (["--zzzz", "1"], "--zzzz is not a field of a recipe: qat-plugin fields lists them"),
        (["--targ", "int8"], "--targ is not a field of a recipe: did you mean --target?"),
        (["stray"], "'stray' belongs to no field: write --field value"),
        (["--target", "int5"], "--target: invalid choice: 'int5' (choose from"),
        (["--max_steps", "many"], "invalid int value: 'many'"),
        (["--max_steps"], "--max_steps/--max-steps: expected one argument"),
        (["--lr_scheduler_type", "wavy"], "invalid choice: 'wavy'"),
        (["--distillation_temperature", "0"], "distillation_temperature is 0.0: it must be above 0"),
    ],
)
def test_overrides_that_do_not_work(tmp_path: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(tmp_path), overrides)
    assert message in str(caught.value)


# Files that do not work.


def test_a_missing_recipe_lists_the_shipped_ones() -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe("recipes/whisper-base-int9.json")
    message = str(caught.value)
    assert "recipe 'recipes/whisper-base-int9.json' does not exist: did you mean 'whisper-base-int" in message
    assert "Shipped recipes: demo, demo-full, whisper-base-int4, whisper-base-int8," in message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{\n  "target": "int8",\n}', "mine.json, line 3, column 1: not JSON"),
        ('["target"]', 'a recipe is one JSON object of fields, and this is ["target"]'),
        ('{"seed": 1, "seed": 2}', "mine.json: field 'seed' stands there twice: keep one"),
        ("{}", "mine.json: model_name_or_path is missing: Hub id or local folder"),
        ('{"model_name_or_path": "m"}', "mine.json: output_dir is missing: Folder of the whole run"),
    ],
)
def test_a_broken_file(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.json"
    path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert message in str(caught.value)


def test_a_file_in_another_encoding(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_bytes('{"language": "français"}'.encode("latin-1"))
    with pytest.raises(RecipeError, match=r"mine\.json: not UTF-8 text: byte 18 is 0xe7"):
        load_recipe(path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learnig_rate": 1}, "unknown field 'learnig_rate': did you mean 'learning_rate'?"),
        ({"evaluation_strategy": "no"}, "unknown field 'evaluation_strategy': did you mean 'eval_strategy'?"),
        ({"qqq": 1}, "unknown field 'qqq': 'qat-plugin fields' lists the fields"),
        ({"learning_rate": "1e-5"}, 'learning_rate is "1e-5": it must be a number; write it without quotes'),
        ({"learning_rate": True}, "learning_rate is true: it must be a number"),
        ({"max_steps": 1.5}, "max_steps is 1.5: it must be an integer"),
        ({"max_steps": True}, "max_steps is true: it must be an integer"),
        ({"max_steps": None}, "max_steps is null: it must be an integer"),
        ({"max_train_samples": "all"}, 'max_train_samples is "all": it must be an integer or null'),
        ({"streaming": 1}, "streaming is 1: it must be true or false"),
        ({"streaming": "true"}, 'streaming is "true": it must be true or false; write it without quotes'),
        ({"corpora": "mtedx"}, 'corpora is "mtedx": it must be a list of strings'),
        ({"corpora": ["mtedx", 5]}, 'corpora is ["mtedx", 5]: it must be a list of strings'),
        ({"target": "int2"}, 'target is "int2": it must be one of "int8", "int4"'),
        ({"target": ["int8"]}, 'target is ["int8"]: it must be one of "int8", "int4"'),
        ({"lr_scheduler_type": "wavy"}, 'lr_scheduler_type is "wavy": it must be one of "linear", "cosine"'),
        ({"language": 5}, "language is 5: it must be a string"),
        ({"lr_scheduler_kwargs": 3}, "lr_scheduler_kwargs is 3: it must be"),
    ],
)
def test_fields_of_a_wrong_name_or_type(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    path = write(tmp_path, **values)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert f"{path}: {message}" in str(caught.value)


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(tmp_path, kl_weight=-1, language="klingon", join_to_seconds=31))
    assert len(str(caught.value).splitlines()) == 3


def test_transformers_own_checks_are_recipe_errors(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"mine\.json: .*load_best_model_at_end requires"):
        load_recipe(write(tmp_path, load_best_model_at_end=True))


# Saving.


def test_every_field_is_saved(tmp_path: Path) -> None:
    saved = recipe_to_dict(load_recipe(write(tmp_path)))
    left_out = {"local_rank", "logging_dir", "disable_tqdm"} | {n for n in field_hints() if n.endswith("_token")}
    assert set(saved) == set(field_hints()) - left_out


def test_a_token_is_never_saved(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path))
    recipe.training.hub_token = "hf_secret"
    save_recipe(recipe, tmp_path / "saved.json")
    assert "secret" not in (tmp_path / "saved.json").read_text(encoding="utf8")
    assert not [name for name in recipe_to_dict(recipe) if name.endswith("_token")]


def test_saved_text_keeps_its_letters(tmp_path: Path) -> None:
    save_recipe(load_recipe(write(tmp_path, model_title="Whisper à l'été")), tmp_path / "saved.json")
    assert load_recipe(tmp_path / "saved.json").publishing.model_title == "Whisper à l'été"
    assert "Whisper à l'été" in (tmp_path / "saved.json").read_text(encoding="utf8")


# Help.


def test_every_field_has_help() -> None:
    text = recipe_help()
    lines = text.splitlines()
    for name in field_hints():
        (at,) = [i for i, line in enumerate(lines) if line.startswith(f"  --{name} (")]
        assert lines[at + 1].startswith("      "), name
    assert '  --target ("int8")' in lines
    assert "  --model_name_or_path (required)" in lines
    assert max(map(len, lines)) <= 110


def test_groups_are_in_order() -> None:
    recipe = load_recipe("demo")
    assert [type(getattr(recipe, f.name)).__name__ for f in dataclasses.fields(recipe)] == [
        f.type for f in dataclasses.fields(recipe)
    ]
