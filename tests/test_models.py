"""A model that cannot be trained or exported is refused in one sentence, before anything is done with it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import save_tiny_whisper

from qat_plugin.data.collator import SpeechSeq2SeqCollator
from qat_plugin.data.encoding import SampleEncoder
from qat_plugin.errors import DataError, ModelError, RecipeError
from qat_plugin.fake_quant.checkpoint import read_checkpoint
from qat_plugin.models import load_processor, load_whisper
from qat_plugin.prompt import set_prefix
from qat_plugin.recipe_loading import load_recipe
from qat_plugin.training.run import load_model, make_trainer


@pytest.fixture()
def folder(tiny_whisper_dir: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_whisper_dir, tmp_path / "model")


def edit(path: Path, **changes: Any) -> None:
    content = {**json.loads(path.read_text(encoding="utf8")), **changes}
    kept = {name: value for name, value in content.items() if value is not None}
    path.write_text(json.dumps(kept), encoding="utf8")


def recipe(folder: Path, manifest: Path | str = "a.jsonl", **values: Any) -> Any:
    content = {
        "model_name_or_path": str(folder), "train_data": [str(manifest)], "test_data": ["b.jsonl"], "target": "int8",
        "output_dir": str(folder.parent / "out"), "use_cpu": True, "report_to": "none", "calibration_samples": 2, **values,
    }  # fmt: skip
    path = folder.parent / "recipe.json"
    path.write_text(json.dumps(content))
    return load_recipe(path)


def truncate(path: Path, number: int) -> None:
    path.write_bytes(path.read_bytes()[:number])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "model.safetensors").unlink(), r"model: weights cannot be loaded \(.*no file named model.safetensors"),
        (lambda f: truncate(f / "model.safetensors", 90_000), r"model/model\.safetensors is no whole safetensors file \("),
        (lambda f: truncate(f / "model.safetensors", 0), r"model/model\.safetensors is no whole safetensors file \("),
        (lambda f: edit(f / "config.json", d_model=32), r"model: the tensors of its weights have not the shapes that its"),
        (lambda f: edit(f / "config.json", decoder_layers=3), r"model: its weights lack 24 tensors .*decoder\.layers\.2\."),
    ],
)  # fmt: skip
def test_unusable_weights(folder: Path, damage: Callable[[Path], Any], message: str) -> None:
    damage(folder)
    with pytest.raises(ModelError, match=message):
        load_whisper(folder)


def test_the_field_that_names_a_model_is_told(folder: Path) -> None:
    with pytest.raises(ModelError, match=r"^teacher_model_name_or_path is '.*lage', which is neither a folder"):
        load_whisper(folder / "lage", field="teacher_model_name_or_path")


def test_a_damaged_checkpoint_cannot_be_exported(folder: Path) -> None:
    truncate(folder / "model.safetensors", 90_000)
    with pytest.raises(ModelError, match=r"model/model\.safetensors is no whole safetensors file \("):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("generation_config.json", {"lang_to_id": None}, "has no lang_to_id and task_to_id.*copy the file from the Whisper"),
        ("generation_config.json", {"lang_to_id": {"<|en|>": 258}}, "language is 'french'; this model knows en"),
        ("generation_config.json", {"task_to_id": {"translate": 358}}, "task is 'transcribe'; this model knows translate"),
        ("config.json", {"activation_function": "relu"}, "activation_function is 'relu' in .*: only 'gelu' can be exported"),
        (
            "processor_config.json",
            {"feature_extractor": {"feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 128}},
            "feature_size is 128 in .* and num_mel_bins is 80 in its config.json: save the feature extractor",
        ),
    ],
)  # fmt: skip
def test_what_export_or_evaluation_would_refuse_is_refused_before_training(
    folder: Path, file: str, changes: dict[str, Any], message: str
) -> None:
    load_model(recipe(folder))
    edit(folder / file, **changes)
    with pytest.raises(ModelError, match=message):
        load_model(recipe(folder))


def test_labels_longer_than_the_model_writes(folder: Path) -> None:
    load_model(recipe(folder, max_label_length=448))
    with pytest.raises(RecipeError, match="max_label_length is 449 and the model writes 448 tokens at most"):
        load_model(recipe(folder, max_label_length=449))


@pytest.fixture()
def english(folder: Path) -> Path:
    edit(folder / "generation_config.json", is_multilingual=False, lang_to_id=None, task_to_id=None)
    return folder


def test_an_english_only_model_is_trained_without_language_and_task(english: Path, tones_manifest: Path) -> None:
    manifest = english.parent / "m.jsonl"
    rows = [json.loads(line) for line in tones_manifest.read_text(encoding="utf8").splitlines()]
    rows = [{**row, "audio": str(tones_manifest.parent / row["audio"]), "language": "en"} for row in rows]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf8")
    trainer = make_trainer(recipe(english, manifest, language="english"), english.parent / "train")
    tokenizer = trainer.processing_class.tokenizer
    prefix = ["<|startoftranscript|>", "<|notimestamps|>"]
    assert isinstance(trainer.data_collator, SpeechSeq2SeqCollator)
    for sample in trainer.train_dataset:
        tokens = tokenizer.convert_ids_to_tokens(sample["labels"])
        assert tokens[:2] == prefix and not [token for token in tokens[2:-1] if token.startswith("<|")]
    # What is saved beside the model begins as its labels do, and as it is generated from.
    assert tokenizer.convert_ids_to_tokens(tokenizer("a").input_ids[:2]) == prefix
    prompts: list[Any] = []
    hook = trainer.model.model.register_forward_pre_hook(
        lambda _module, _args, kwargs: prompts.append(kwargs["decoder_input_ids"]), with_kwargs=True
    )
    trainer.model.generate(torch.zeros(1, 80, 3000), max_new_tokens=2)
    hook.remove()
    assert tokenizer.convert_ids_to_tokens(prompts[0][0]) == prefix


def test_a_tokenizer_that_names_a_language_forgets_it_for_an_english_only_model(folder: Path) -> None:
    tokenizer = load_processor(folder).tokenizer
    tokenizer.set_prefix_tokens(language="en", task="transcribe")
    assert tokenizer.convert_ids_to_tokens(set_prefix(tokenizer, {})) == ["<|startoftranscript|>", "<|notimestamps|>"]


def test_an_english_only_model_writes_no_other_language(english: Path, tones_manifest: Path) -> None:
    for values in ({"language": "french"}, {"language": "english", "task": "translate"}):
        with pytest.raises(
            ModelError, match="this model only transcribes English; set them to 'english' and 'transcribe'"
        ):
            load_model(recipe(english, **values))
    with pytest.raises(DataError, match="language 'fr' and task 'transcribe': the model knows English only"):
        make_trainer(recipe(english, tones_manifest, language="english"), english.parent / "train")


def test_an_english_only_models_own_transcripts_become_labels(tmp_path: Path, tones_manifest: Path) -> None:
    folder = save_tiny_whisper(tmp_path / "model", max_target_positions=12)
    edit(folder / "generation_config.json", is_multilingual=False, lang_to_id=None, task_to_id=None)
    manifest = tmp_path / "m.jsonl"
    rows = [json.loads(line) for line in tones_manifest.read_text(encoding="utf8").splitlines()]
    manifest.write_text(
        "".join(json.dumps({"audio": str(tones_manifest.parent / row["audio"])}) + "\n" for row in rows),
        encoding="utf8",
    )
    trainer = make_trainer(recipe(folder, manifest, language="english", pseudo_labels=True), tmp_path / "train")
    start, quiet = (
        trainer.processing_class.tokenizer.convert_tokens_to_ids(t)
        for t in ("<|startoftranscript|>", "<|notimestamps|>")
    )
    for sample in trainer.train_dataset:
        assert sample["labels"][:2] == [start, quiet] and max(sample["labels"][2:]) < start


def test_the_encoder_tells_rows_in_other_languages_from_english(english: Path) -> None:
    _, processor = load_model(recipe(english, language="en"))
    encoder = SampleEncoder(processor, language="en", task="transcribe", multilingual=False)
    with pytest.raises(DataError, match="language 'de'"):
        encoder.prefix("de")
    # The tokenizer still begins as before.
    assert processor.tokenizer("").input_ids[:-1] == encoder.prefix("en") == encoder.prefix(None)


def test_calibration_hears_no_padding(folder: Path, tones_manifest: Path) -> None:
    trainer = make_trainer(
        recipe(folder, tones_manifest, language="english", calibration_samples=3), folder.parent / "train"
    )
    batches = list(trainer.qat.calibration_batches)
    assert len(batches) == 3
    for batch in batches:
        assert len(batch["labels"]) == 1 and batch["labels"].ne(-100).all()
