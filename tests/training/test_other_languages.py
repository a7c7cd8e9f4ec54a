"""Training speech written down in languages that are not spoken in it."""

import json
from types import SimpleNamespace

import pytest
import torch
from tiny import save_tiny_whisper
from transformers import WhisperForConditionalGeneration

from qat_plugin.errors import DataError, RecipeError
from qat_plugin.recipe_loading import load_recipe
from qat_plugin.steps import training_inputs
from qat_plugin.training.other_languages import InOtherLanguages
from qat_plugin.training.record import write_record
from qat_plugin.training.run import make_trainer


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return save_tiny_whisper(tmp_path_factory.mktemp("teacher"), max_target_positions=24)


@pytest.fixture
def told(monkeypatch):
    """The languages that the teacher was told, clip by clip; it says the same of all."""
    languages: list[str] = []

    def say(_, features, language, **__):
        languages.extend(language)
        return torch.full((len(features), 2), 40)

    monkeypatch.setattr(WhisperForConditionalGeneration, "generate", say)
    return languages


@pytest.fixture
def make(teacher, tones_manifest, tmp_path):
    """A trainer of five clips in French: a sixth has a longer text than this model writes."""
    content = {
        "model_name_or_path": str(teacher), "train_data": [str(tones_manifest)], "test_data": ["b.jsonl"], "target": "int4",
        "output_dir": str(tmp_path), "use_cpu": True, "report_to": "none", "calibration_samples": 2, "ce_weight": 0.0,
        "kl_weight": 1.0, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 1,
    }  # fmt: skip
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(content))

    def trainer(*options: str, quantized: bool = True):
        return make_trainer(load_recipe(path, list(options)), tmp_path / "train", quantized=quantized)

    return trainer


def languages_of(dataset, tokenizer) -> list[str]:
    labels = [dataset[i]["labels"] for i in range(len(dataset))]
    return [tokenizer.convert_ids_to_tokens([row[1]])[0].strip("<|>") for row in labels]


class Clips(list):
    durations, ids = (1.0, 2.0, 3.0, 4.0), ("c:a", "c:b", "c:c", "c:d")
    languages, corpora, encoder = ("fr", "es", "fr", "it"), [], SimpleNamespace()


def test_languages_take_turns_and_nobody_is_told_the_own_one():
    clips = Clips({"input_features": i, "labels": [i]} for i in range(4))
    both = InOtherLanguages(clips, ["es", "it"])
    assert both.languages == ["es", "it", "es", "es"]
    assert both.ids == ["c:a in es", "c:b in it", "c:c in es", "c:d in es"]
    assert [both[i] for i in range(4)] == [{"input_features": i} for i in range(4)]
    one = InOtherLanguages(clips, ["es"])
    assert one.ids == ["c:a in es", "c:c in es", "c:d in es"] and one.durations == [1.0, 3.0, 4.0]
    assert one[1] == {"input_features": 2}


def test_each_sample_is_heard_a_second_time_in_another_language(make, told, tmp_path):
    trainer = make("--pseudo_label_languages", "spanish", "fr", "it")
    dataset, tokenizer = trainer.train_dataset, trainer.processing_class.tokenizer
    assert sorted(told) == ["es", "es", "es", "it", "it"]
    assert len(dataset) == len(dataset.durations) == 10 and dataset.corpora
    assert languages_of(dataset, tokenizer) == ["fr"] * 5 + ["es", "it"] * 2 + ["es"]
    for i in range(5):
        own, other = dataset[i], dataset[5 + i]
        assert torch.equal(torch.as_tensor(own["input_features"]), torch.as_tensor(other["input_features"]))
        assert other["labels"][-3:] == [40, 40, 256] and own["labels"][-3:] != [40, 40, 256]
    # What is calibrated on is the speech as it is spoken.
    assert all(batch["labels"][0, 0] == dataset[0]["labels"][1] for batch in trainer.qat.calibration_batches)
    # The control hears the same, and the teacher does not write it again.
    control = make("--pseudo_label_languages", "spanish", "fr", "it", quantized=False)
    assert len(control.train_dataset) == 10 and len(told) == 5
    assert (tmp_path / "other_languages.jsonl").is_file()
    make("--pseudo_label_languages", "spanish")
    assert len(told) == 10


def test_what_no_step_hears_is_not_written_and_both_are_drawn_alike(make, told):
    options = ("--pseudo_label_languages", "es", "--max_steps", "6")
    dataset = make(*options).train_dataset
    own, others = dataset.datasets
    assert len(dataset) == 6 and len(told) == len(others) and 0 < len(others) < 6
    relabelled = make(*options, "--pseudo_labels", "true").train_dataset
    assert [part.indices for part in relabelled.datasets] == [own.indices, others.indices]
    # Of ten draws of one sample some are of one kind and some of the other.
    kinds = {
        type(make(*options[:2], "--max_steps", "1", "--seed", str(seed)).train_dataset).__name__ for seed in range(10)
    }
    assert kinds == {"Part", "RelabelledDataset"}


def test_speech_counts_once_in_what_is_said_of_the_training(make, told, tmp_path):
    trainer = make("--pseudo_label_languages", "es")
    write_record(trainer, tmp_path, {})
    record = json.loads((tmp_path / "training.json").read_text())
    assert record["samples"] == 5
    assert record["seconds"] == pytest.approx(sum(trainer.train_dataset.durations) / 2, abs=0.1)


def test_it_trains_at_the_speeds_of_each_epoch(make, told, tmp_path):
    trainer = make(
        *("--pseudo_label_languages", "es", "--max_steps", "12", "--speed_perturbation", "0.1"),
        *("--encoder_context", "auto", "--save_strategy", "no"),
    )
    trainer.train()
    own, others = trainer.train_dataset.datasets
    # Ten samples an epoch: the last steps are of the second one.
    assert own.dataset is others.dataset.dataset and own.dataset.epoch == 1


def test_the_recipes_language_is_one_whatever_it_is_called(make, told, tones_manifest, tmp_path):
    rows = [json.loads(line) for line in tones_manifest.read_text("utf8").splitlines()]
    manifest = tmp_path / "untold.jsonl"
    manifest.write_text(
        "".join(
            json.dumps({"audio": str(tones_manifest.parent / row["audio"]), "text": row["text"]}) + "\n" for row in rows
        )
    )
    make("--train_data", str(manifest), "--language", "french", "--pseudo_label_languages", "fr", "es")
    assert set(told) == {"es"}


def test_where_the_teacher_writes_nothing_the_field_is_named(make, monkeypatch):
    monkeypatch.setattr(
        WhisperForConditionalGeneration, "generate", lambda _, features, **__: torch.full((len(features), 2), 256)
    )
    with pytest.raises(DataError, match="no usable transcript for any of 5 .*check `pseudo_label_languages`, `task`"):
        make("--pseudo_label_languages", "es")


def test_speech_in_that_language_alone_and_languages_of_another_model_are_refused(make, told, tmp_path):
    with pytest.raises(
        RecipeError, match=r"pseudo_label_languages is \['french'\], and all training speech is in that"
    ):
        make("--pseudo_label_languages", "french")
    folder = save_tiny_whisper(tmp_path / "model", max_target_positions=24)
    settings = json.loads((folder / "generation_config.json").read_text())
    settings["lang_to_id"].pop("<|es|>")
    (folder / "generation_config.json").write_text(json.dumps(settings))
    with pytest.raises(
        RecipeError, match=r"pseudo_label_languages is \['it', 'es'\], and the teacher does not know es: leave"
    ):
        make("--model_name_or_path", str(folder), "--pseudo_label_languages", "it", "es")
    assert told == []


def test_runs_from_before_recipes_knew_the_field_go_on(teacher, tones_manifest, tmp_path):
    content = {
        "model_name_or_path": str(teacher), "train_data": [str(tones_manifest)], "test_data": ["b.jsonl"], "ce_weight": 0.0,
        "kl_weight": 1.0, "output_dir": str(tmp_path), "use_cpu": True,
    }  # fmt: skip
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(content))
    assert "pseudo_label_languages" not in training_inputs(load_recipe(path))
    named, coded = (
        training_inputs(load_recipe(path, ["--pseudo_label_languages", name])) for name in ("Spanish", "es")
    )
    assert named == coded and named["pseudo_label_languages"] == ["es"]
