"""Every shipped recipe binds to the real parser, and holds the values that were promised."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path

import pytest

from qat_plugin.data.corpora import find_corpus, known_corpora, read_definition
from qat_plugin.recipe_loading import field_hints, load_recipe, save_recipe, shipped_recipes
from qat_plugin.shipped import recipes_folder

RECIPES = shipped_recipes()
PRIVATE = {"zaion5", "zaion6"}
_COMMIT = re.compile("[0-9a-f]{40}")
# Fields that only one of transformers 4.57 and 5 has; a recipe that used one could not be read by the other.
ONE_VERSION_ONLY = {
    "activation_checkpointing", "activation_checkpointing_kwargs", "dataloader_in_order", "ddp_static_graph",
    "adafactor", "group_by_length", "half_precision_backend", "include_tokens_per_second", "logging_dir", "no_cuda",
    "overwrite_output_dir", "save_safetensors", "train_sampling_strategy", "use_cache", "warmup_ratio",
}  # fmt: skip


def test_the_recipes_are_there() -> None:
    assert set(RECIPES) == {
        "demo",
        "demo-full",
        "whisper-base-int4",
        "whisper-base-int8",
        "whisper-large-v3-distil-fr-int4",
        "whisper-large-v3-distil-fr-int8",
        "whisper-large-v3-distil-fr-int8-extended",
    }


@pytest.mark.parametrize("name", RECIPES)
def test_binds_to_the_parser(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        recipe = load_recipe(name)
    written = json.loads(RECIPES[name].read_text(encoding="utf8"))
    assert not ONE_VERSION_ONLY & set(written)
    groups = [vars(group) for group in vars(recipe).values()]
    for field, value in written.items():
        bound = [group[field] for group in groups if field in group]
        assert bound == [value] or (field, value, bound) == ("report_to", "none", [[]]), field
    assert recipe.training.report_to == []
    assert recipe.training.eval_strategy == "no"


@pytest.mark.parametrize("name", [name for name in RECIPES if not name.startswith("demo")])
def test_what_is_compared_tells_quantization_from_all_else(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.model.encoder_context == "auto" and "fp-auto" in recipe.evaluation.arms
    assert ("fp-ft" in recipe.evaluation.arms) == ("ptq-ft" in recipe.evaluation.arms)
    assert ("fp-ft" in recipe.evaluation.arms) == (recipe.distillation.ce_weight > 0)


@pytest.mark.parametrize("name", RECIPES)
def test_reads_back_what_it_saves(name: str, tmp_path: Path) -> None:
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    save_recipe(load_recipe(name), first)
    save_recipe(load_recipe(first), second)
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("name", RECIPES)
def test_corpora_are_defined_and_apart(name: str) -> None:
    recipe = load_recipe(name)
    for corpus in [*recipe.data.train_corpora, *recipe.evaluation.corpora]:
        assert find_corpus(corpus).name == corpus


@pytest.mark.parametrize(
    ("name", "target", "epochs", "learning_rate", "batch", "accumulation", "samples"),
    [
        ("whisper-large-v3-distil-fr-int8", "int8", 5, 5e-6, 8, 4, 60_000),
        ("whisper-large-v3-distil-fr-int8-extended", "int8", 10, 5e-6, 8, 4, 120_000),
        ("whisper-large-v3-distil-fr-int4", "int4", 15, 3e-6, 2, 16, 60_000),
    ],
)
def test_the_guides_values(
    name: str, target: str, epochs: int, learning_rate: float, batch: int, accumulation: int, samples: int
) -> None:
    recipe = load_recipe(name)
    args = recipe.training
    assert recipe.model.model_name_or_path == "bofenghuang/whisper-large-v3-distil-fr-v0.2"
    assert recipe.quantization.target == target
    assert (args.num_train_epochs, args.learning_rate) == (epochs, learning_rate)
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps) == (batch, accumulation)
    assert (recipe.data.max_train_samples, recipe.data.join_to_seconds) == (samples, 30.0)
    assert recipe.evaluation.corpora == ["community-v2", "mtedx"]


def test_output_folders_differ() -> None:
    folders = [load_recipe(name).training.output_dir for name in RECIPES]
    assert len(set(folders)) == len(folders)


def test_the_demo_tests_on_speech_it_does_not_train_on() -> None:
    # The full demo's pooled figures count no prompt twice, and hear a language that it does not train on.
    for name, second in (("demo", "asterisk_fr_long"), ("demo-full", "asterisk_it")):
        recipe = load_recipe(name)
        assert recipe.data.train_data[0] == "demo-data/speech/tuxpaint_fr/manifest.jsonl"
        assert not set(recipe.data.train_data) & set(recipe.evaluation.test_data)
        tested = [f"demo-data/speech/{corpus}/manifest.jsonl" for corpus in ("asterisk_fr", second)]
        assert recipe.evaluation.test_data == tested
        assert recipe.quantization.target == "int4"


def test_hub_corpora_are_pinned() -> None:
    definitions = [read_definition(path) for path in known_corpora().values()]
    branches = {each.name for each in definitions if each.source == "hub" and not _COMMIT.fullmatch(str(each.revision))}
    assert branches == {"community-v2", "mtedx"}  # gated, and a small copy: no commit of them is known for sure


def test_the_guides_corpora_are_known() -> None:
    assert {"community-v2", "mtedx"} | PRIVATE <= set(known_corpora())
    for name in PRIVATE:
        assert find_corpus(name, [f"{name}={recipes_folder()}"]).path == str(recipes_folder())


def test_no_two_groups_share_a_field() -> None:
    recipe = load_recipe("demo")
    count = sum(sum(f.init for f in group.__dataclass_fields__.values()) for group in vars(recipe).values())
    assert count == len(field_hints())
