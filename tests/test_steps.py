"""The whole line on a tiny Whisper: train, export, evaluate, card, push, each as the command runs it, and again."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import torch
from hub_server import hub  # noqa: F401
from safetensors.torch import load_file
from test_readme import BLOCKS
from tiny import save_tiny_whisper
from transformers import WhisperForConditionalGeneration

from qat_plugin.arms import ARMS
from qat_plugin.cli import main
from qat_plugin.errors import WorkspaceError
from qat_plugin.evaluation.environment import git_commit
from qat_plugin.publishing.document import read_parity
from qat_plugin.recipe import QATTrainingArguments
from qat_plugin.recipe_loading import load_recipe
from qat_plugin.steps import open_workspace, training_inputs
from qat_plugin.workspace import Workspace


@pytest.fixture(scope="module")
def recipe(tones_manifest, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("steps")
    model = save_tiny_whisper(folder / "tiny-whisper", max_target_positions=12)
    test = folder / "test" / "clips.jsonl"
    test.parent.mkdir()
    rows = [json.loads(line) for line in tones_manifest.read_text().splitlines()]
    # Other audio than is trained on: the last clips, which training leaves out.
    (folder / "train.jsonl").write_text(
        "".join(json.dumps({**row, "audio": str(tones_manifest.parent / row["audio"])}) + "\n" for row in rows[:4])
    )
    test.write_text(
        "".join(json.dumps({**row, "audio": str(tones_manifest.parent / row["audio"])}) + "\n" for row in rows[4:])
    )
    content = {
        "model_name_or_path": str(model), "language": "french", "task": "transcribe",
        "train_data": [str(folder / "train.jsonl")], "test_data": [str(test)], "target": "int4", "calibration_samples": 2,
        "kl_weight": 1.0, "encoder_weight": 1.0, "decoder_weight": 1.0, "pseudo_labels": True, "parity_samples": 2,
        "arms": ["fp", "ptq-static", "ptq-rtn", "ptq-gptq", "qat"], "bootstrap_resamples": 200, "output_dir": str(folder / "out"), "max_steps": 2, "learning_rate": 1e-3,
        "per_device_train_batch_size": 2, "save_steps": 1, "logging_steps": 1, "report_to": "none", "use_cpu": True, "num_threads": 1,
    }  # fmt: skip
    path = folder / "recipe.json"
    path.write_text(json.dumps(content))
    return path


@pytest.fixture(scope="module")
def finished(recipe) -> Path:
    assert main(["run", str(recipe)]) == 0
    return recipe.parent / "out"


def test_what_training_began_with_is_the_arm_ptq_gptq_and_not_computed_twice(finished, recipe, tmp_path):
    from qat_plugin.training.run import run_ptq

    assert not (finished / "train" / "start").exists()
    # Labels that the teacher wrote are calibrated on, too, and found where training left them.
    labels = (finished / "pseudo_labels.jsonl").stat()
    loaded = load_recipe(str(recipe), [])
    run_ptq(loaded, ARMS["ptq-gptq"], tmp_path / "again", training_folder=tmp_path, fine_tuned_folder=tmp_path)
    assert (finished / "pseudo_labels.jsonl").stat().st_mtime_ns == labels.st_mtime_ns
    for name in ("model.safetensors", "quantizer.safetensors"):
        kept, computed = (load_file(folder / name) for folder in (finished / "ptq-gptq", tmp_path / "again"))
        # A start that is trained from has learned scales; at step 0 nothing is learned.
        assert not any(kept.pop(key).any() for key in [key for key in kept if key not in computed])
        assert kept.keys() == computed.keys()
        assert all(torch.equal(kept[key], computed[key]) for key in kept)


def test_run_makes_a_verified_onnx_a_table_and_a_card(finished):
    results = json.loads((finished / "evaluation" / "results.json").read_text())
    assert list(results["arms"]) == ["fp", "ptq-static", "ptq-rtn", "ptq-gptq", "qat"]
    assert results["arms"]["ptq-static"]["format"] == "int8" and "QuantizeLinear" in {
        node.op_type for node in onnx.load(finished / "onnx" / "ptq-static" / "encoder_model.onnx").graph.node
    }
    assert results["corpora"]["clips"]["utterances"] == 2
    for arm in ("ptq-rtn", "ptq-gptq", "qat"):
        parity = json.loads((finished / "onnx" / arm / "parity.json").read_text())
        assert parity["passed"] and parity["target"] == "int4" and parity["quantized_share"] > 0.5
        kinds = [node.op_type for node in onnx.load(finished / "onnx" / arm / "encoder_model.onnx").graph.node]
        assert kinds.count("MatMulInteger") == 2 * 6 + 2  # Linear layers, convolutions
    _, info = WhisperForConditionalGeneration.from_pretrained(finished / "train", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    for arm in results["arms"].values():
        assert (
            0 < arm["cost"]["libraries_memory_bytes"] <= arm["cost"]["peak_memory_bytes"]
            and arm["cost"]["load_seconds"] > 0
        )
    source = results["corpora"]["clips"]["source"]
    assert source["source"] == "manifest" and source["path"].endswith("test/clips.jsonl")
    training = results["training"]
    assert list(training["corpora"]) == ["train"] and training["corpora"]["train"]["source"] == "manifest"
    # Clips of 0.6 to 1.2 s, those left out whose pseudo label runs into the length limit.
    assert (
        0 < training["samples"] <= 4 and 0.6 * training["samples"] <= training["seconds"] <= 1.2 * training["samples"]
    )
    assert training["device"] == results["environment"]["cpu"] and training["processes"] == 1
    overlap = results["corpora"]["clips"]["overlap"]
    assert (overlap["test_rows"], overlap["same_audio"], overlap["unchecked"]) == (2, 0, [])
    assert isinstance(results["settings"]["num_threads"], int)
    page = (finished / "evaluation" / "report.html").read_text("utf8")
    # One file: plots are inside, nothing is fetched.
    assert page.count('<img src="data:image/png;base64,') == 6 and "http" not in page and "Worst utterances" in page
    card = (finished / "card" / "README.md").read_text()
    assert "base_model" in card or "library_name" in card
    assert f"{100 * results['measurements']['qat']['clips']['wer']:.1f}" in card
    assert {"train", "export_fp", "export_ptq-gptq", "export_qat", "evaluate"} <= json.loads(
        (finished / "state.json").read_text()
    ).keys()


def test_a_second_run_finds_everything_done(finished, recipe, capsys):
    stamp = (finished / "onnx" / "qat" / "decoder_model_merged.onnx").stat().st_mtime_ns
    assert main(["run", str(recipe)]) == 0
    said = capsys.readouterr()
    for step in ("[train] done already", "[export] qat: done already", "[evaluate] done already"):
        assert step in said.err
    assert "WER" in said.out
    assert (finished / "onnx" / "qat" / "decoder_model_merged.onnx").stat().st_mtime_ns == stamp


def test_a_report_is_rendered_again_without_any_model(finished, recipe, capsys, tmp_path):
    folder = finished / "evaluation"
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.name.startswith("report.")}
    for name in before:
        (folder / name).unlink()
    (finished / "onnx").rename(tmp_path / "onnx")
    try:
        assert main(["report", str(recipe)]) == 0
    finally:
        (tmp_path / "onnx").rename(finished / "onnx")
    assert len(before) == 2 and all((folder / name).read_bytes() == content for name, content in before.items())
    assert "qat" in capsys.readouterr().out
    assert main(["report", str(recipe), "--output_dir", str(tmp_path / "new")]) == 1
    assert "results.json: not there; run the evaluation first" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["report", "card"])
def test_figures_are_not_shown_as_another_recipes(finished, recipe, capsys, command):
    run, card = finished / "recipe.json", finished / "card" / "README.md"
    kept = run.read_bytes(), card.read_bytes()
    assert main([command, str(recipe), "--normalizer", "french"]) == 1
    error = capsys.readouterr().err
    assert "normalizer is 'french'" in error and "was scored with 'basic': run the step 'evaluate'" in error
    assert (run.read_bytes(), card.read_bytes()) == kept
    # How the model is presented is of now, what was run is not.
    assert main([command, str(recipe), "--model_title", "Another"]) == 0
    assert run.read_bytes() == kept[0] and ("# Another" in card.read_text()) == (command == "card")
    assert main(["card", str(recipe)]) == 0


def test_files_that_were_changed_by_hand_are_neither_taken_for_exported_nor_for_measured(
    finished, recipe, tmp_path, capsys, monkeypatch
):
    """One byte: what push then asks for, export and evaluate do, and do not say that it is done already."""

    def stop(*_):
        raise WorkspaceError("measured again")

    own = shutil.copytree(finished, tmp_path / "out")
    command = [str(recipe), "--output_dir", str(own)]
    monkeypatch.setattr("qat_plugin.steps._measure", stop)
    assert main(["evaluate", *command]) == 0
    with monkeypatch.context() as other:
        other.setattr("qat_plugin.evaluation.decoder.DECODING_VERSION", 0)
        assert main(["evaluate", *command, "--output_dir", str(shutil.copytree(own, tmp_path / "older"))]) == 1
    graph = own / "onnx" / "qat" / "decoder_model_merged.onnx"
    before = graph.read_bytes()
    graph.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    assert main(["card", *command]) == 1
    assert "decoder_model_merged.onnx has sha256" in capsys.readouterr().err
    assert main(["evaluate", *command]) == 1
    assert "measured again" in capsys.readouterr().err
    assert main(["export", *command, "--arms", "fp", "qat"]) == 0
    said = capsys.readouterr().err
    assert "fp: done already" in said and "qat no longer holds what was written there" in said
    assert read_parity(own / "onnx" / "qat")["passed"]


def test_two_evaluations_in_one_folder_do_not_run_at_once(finished, recipe, tmp_path, capsys):
    own = shutil.copytree(finished, tmp_path / "out")
    transcripts = own / "evaluation" / "clips" / "qat.jsonl"
    before = (own / "evaluation" / "results.json").read_bytes(), transcripts.read_bytes()
    with Workspace(own).alone("evaluate"):
        # Another normalizer, so that it is not done already.
        assert main(["evaluate", str(recipe), "--output_dir", str(own), "--normalizer", "none"]) == 1
    assert "another process does step 'evaluate' in" in capsys.readouterr().err
    assert ((own / "evaluation" / "results.json").read_bytes(), transcripts.read_bytes()) == before


def test_another_recipe_does_not_overwrite_a_training(finished, recipe, capsys):
    assert main(["train", str(recipe), "--learning_rate", "5e-4", "--logging_steps", "7"]) == 1
    error = capsys.readouterr().err
    assert "holds another run" in error and "learning_rate: 0.001 → 0.0005" in error and "logging_steps" not in error


def test_a_mended_recipe_goes_on_where_the_first_one_failed_before_any_checkpoint(recipe, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["train", str(recipe), "--output_dir", str(out)]
    assert main([*command, "--int8_modules", "nonsense.*"]) == 1
    assert "matches no layer of the model" in capsys.readouterr().err
    labels = (out / "pseudo_labels.jsonl").stat()
    (out / "train" / "start").mkdir(parents=True)  # as of a training that began and ran out of memory
    mended = [*command, "--initial_rounding", "nearest"]
    with Workspace(out).alone("train"):
        assert main(mended) == 1
    assert "another process does step 'train'" in capsys.readouterr().err
    assert main(mended) == 0
    assert json.loads((out / "state.json").read_text())["train"]["done"]
    # It is not of this recipe; what the teacher wrote is.
    assert not (out / "train" / "start").exists()
    assert (out / "pseudo_labels.jsonl").stat().st_mtime_ns == labels.st_mtime_ns


def test_a_checkpoint_of_another_recipe_is_not_gone_on_from(recipe, tmp_path):
    workspace = Workspace(tmp_path)
    loaded = load_recipe(str(recipe), ["--output_dir", str(tmp_path)])
    with pytest.raises(KeyboardInterrupt), workspace.step("train", training_inputs(loaded)):
        raise KeyboardInterrupt
    checkpoint = workspace.checkpoint("qat") / "checkpoint-1"
    checkpoint.mkdir(parents=True)
    (checkpoint / "trainer_state.json").write_text("{}")
    other = load_recipe(str(recipe), ["--output_dir", str(tmp_path), "--learning_rate", "5e-4"])
    with pytest.raises(WorkspaceError, match="holds another run"):
        open_workspace(other)
    assert open_workspace(loaded).differences("train", training_inputs(loaded)) == []


def test_a_training_argument_that_another_version_has_makes_no_other_run(recipe):
    @dataclasses.dataclass
    class Newer(QATTrainingArguments):
        knows_more: bool = False

    loaded = load_recipe(str(recipe), [])
    newer = dataclasses.replace(
        loaded,
        training=Newer(output_dir="out", max_steps=2, learning_rate=1e-3, per_device_train_batch_size=2, use_cpu=True),
    )
    assert training_inputs(newer) == training_inputs(loaded)
    assert training_inputs(loaded)["learning_rate"] == 1e-3
    # What arguments make of their own defaults differs between versions, too.
    assert not {"debug", "accelerator_config", "gradient_checkpointing"} & {*training_inputs(loaded)}
    # And some copy a field that is set into one that others do not have.
    saved = [load_recipe(str(recipe), ["--gradient_checkpointing", value]) for value in ("true", "false")]
    assert training_inputs(saved[0]) == training_inputs(saved[1])
    newer.training.knows_more = True
    assert training_inputs(newer) != training_inputs(loaded)


def test_what_a_gpu_has_trained_is_measured_on_a_cpu(recipe):
    loaded = load_recipe(str(recipe), [])
    elsewhere = load_recipe(str(recipe), ["--use_cpu", "false", "--tf32", "false"])
    assert loaded.training.use_cpu and not elsewhere.training.use_cpu
    assert training_inputs(loaded) == training_inputs(elsewhere)
    # Which a machine without such a GPU cannot be told.
    elsewhere.training.tf32 = True
    assert training_inputs(loaded) == training_inputs(elsewhere)


def test_a_run_without_the_trained_arm_is_refused_before_it_trains(recipe, tmp_path, capsys):
    assert main(["run", str(recipe), "--output_dir", str(tmp_path / "out"), "--arms", "fp", "ptq-rtn"]) == 1
    assert "arms is fp, ptq-rtn: a card is that of the trained arm; add 'qat', or compare" in capsys.readouterr().err
    assert not (tmp_path / "out" / "train").exists()


def test_arms_that_another_recipe_exported_are_not_measured_as_of_this_one(recipe, tmp_path, capsys):
    """Without a training in the folder, which would tell."""
    command = [str(recipe), "--output_dir", str(tmp_path / "out"), "--arms", "fp", "ptq-rtn"]
    assert main(["export", *command]) == 0
    assert main(["evaluate", *command, "--parity_samples", "1"]) == 0
    capsys.readouterr()
    assert main(["evaluate", *command, "--language", "italian"]) == 1
    error = capsys.readouterr().err
    assert "onnx/fp was exported with other values of" in error and "language: 'fr' → 'it'" in error
    assert "run the step 'export' again" in error


def test_export_before_training_says_what_to_do(recipe, tmp_path, capsys):
    assert main(["evaluate", str(recipe), "--output_dir", str(tmp_path / "new")]) == 1
    assert "run the step 'export' first" in capsys.readouterr().err
    assert main(["export", str(recipe), "--output_dir", str(tmp_path / "new"), "--arms", "qat"]) == 1
    assert "run the step 'train' first" in capsys.readouterr().err


def test_an_arm_that_lost_its_quantizers_is_not_exported_as_if_it_were_float(finished, recipe, tmp_path, capsys):
    own = shutil.copytree(finished, tmp_path / "out")
    (own / "train" / "quantizer.json").unlink()
    command = ["export", str(recipe), "--output_dir", str(own), "--arms", "qat", "--parity_samples", "1"]
    assert main(command) == 1
    assert "train has no quantizer.json, so it would be exported in float" in capsys.readouterr().err


def test_test_audio_in_the_training_speech_is_refused(finished, recipe, capsys):
    (train,) = json.loads(recipe.read_text())["train_data"]
    assert main(["evaluate", str(recipe), "--test_data", train]) == 1
    assert "is both trained on and tested on" in capsys.readouterr().err
    leaked = shutil.copy(train, recipe.parent / "leaked.jsonl")
    assert main(["evaluate", str(recipe), "--test_data", str(leaked)]) == 1
    assert "4 audio files and 4 texts of 4 test rows are also in the training speech" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["--corpora", "comunity-v2"], "unknown corpus 'comunity-v2'. Known: "),
        (["--test_data", "LEAKED"], "1 audio files and 0 texts of 1 test rows are also in the training speech"),
    ],
)
def test_test_speech_that_cannot_be_used_is_refused_before_training(recipe, tmp_path, capsys, command, message):
    """The same bytes under another name and with another text are the same audio."""
    (train,) = json.loads(recipe.read_text())["train_data"]
    heard = json.loads(Path(train).read_text().splitlines()[0])["audio"]
    shutil.copy(heard, tmp_path / "other.wav")
    (tmp_path / "leaked.jsonl").write_text(json.dumps({"audio": "other.wav", "text": "autre chose"}) + "\n")
    command = [str(tmp_path / "leaked.jsonl") if value == "LEAKED" else value for value in command]
    out = tmp_path / "out"
    assert main(["run", str(recipe), "--output_dir", str(out), *command]) == 1
    assert message in capsys.readouterr().err
    assert not (out / "train").exists() and json.loads((out / "state.json").read_text()) == {}


def test_training_alone_refuses_test_audio_too_and_goes_on_where_there_is_none(recipe, tmp_path, capsys):
    """What one machine trains, another may measure."""
    (train,) = json.loads(recipe.read_text())["train_data"]
    leaked = shutil.copy(train, recipe.parent / "leaked.jsonl")
    command = [
        "train",
        str(recipe),
        "--output_dir",
        str(tmp_path / "out"),
        "--arms",
        "fp",
        "qat",
        "--max_steps",
        "1",
        "--test_data",
    ]
    assert main([*command, str(leaked)]) == 1
    assert "4 audio files and 4 texts of 4 test rows are also in the training speech" in capsys.readouterr().err
    assert not (tmp_path / "out" / "train").exists()
    assert main([*command, str(tmp_path / "elsewhere.jsonl")]) == 0
    assert "is left to 'evaluate', for the test speech cannot be read: " in capsys.readouterr().err


def test_a_private_corpus_is_measured_after_training_and_again_when_it_changed(finished, recipe, tmp_path, capsys):
    """In a copy of the run: its own results stay."""
    own = shutil.copytree(finished, tmp_path / "out")
    rows = [json.loads(line) for line in Path(json.loads(recipe.read_text())["test_data"][0]).read_text().splitlines()]
    for row, speaker in zip(rows, ("a", "b"), strict=True):
        row["speaker"] = speaker
    private = tmp_path / "zaion5.jsonl"

    def evaluate() -> dict:
        private.write_text("".join(json.dumps(row) + "\n" for row in rows))
        command = ["evaluate", str(recipe), "--output_dir", str(own), "--test_data", "--corpora", "zaion5"]
        more = ["--corpus_manifests", f"zaion5={private}", "--language", "fr", "--preprocessing_num_workers", "2"]
        assert main([*command, *more]) == 0
        return json.loads((own / "evaluation" / "results.json").read_text())

    def words(results: dict) -> int:
        return results["measurements"]["qat"]["zaion5"]["reference_words"]

    before = evaluate()
    assert list(before["corpora"]) == ["zaion5"]
    evaluate()
    assert "[evaluate] done already" in capsys.readouterr().err
    rows[0]["text"] += " encore"
    after = evaluate()
    assert words(after) == words(before) + 1


def test_an_evaluation_that_is_not_all_there_is_made_again(finished, recipe, tmp_path, capsys, caplog):
    """What errors then advise helps: evaluate does not say that it is done."""
    own = shutil.copytree(finished, tmp_path / "out")
    command = ["evaluate", str(recipe), "--output_dir", str(own)]
    (own / "evaluation" / "clips" / "qat.jsonl").unlink()
    assert main(command) == 0 and "done already" not in capsys.readouterr().err
    assert (own / "evaluation" / "clips" / "qat.jsonl").is_file()
    assert main(command) == 0 and "[evaluate] done already" in capsys.readouterr().err
    (own / "evaluation" / "results.json").write_text("{")
    assert main(command) == 0 and "done already" not in capsys.readouterr().err
    assert "results.json: not JSON" in caplog.text


def test_the_card_of_an_earlier_evaluation_is_not_published(finished, recipe, tmp_path, capsys):
    own = shutil.copytree(finished, tmp_path / "out")
    path = own / "evaluation" / "results.json"
    assert main(["evaluate", str(recipe), "--output_dir", str(own)]) == 0
    results = json.loads(path.read_text())
    command = ["push", str(recipe), "--output_dir", str(own), "--hub_model_id", "tester/tiny", "--dry_run"]
    assert main(command) == 0, capsys.readouterr().err
    results["measurements"]["qat"]["clips"]["deletions"] += 1
    path.write_text(json.dumps(results))
    assert main(command) == 1
    assert (
        "is the card of an earlier evaluation" in (error := capsys.readouterr().err)
        and "run the step 'card' again" in error
    )
    assert main(["card", *command[1:4]]) == 0 and main(command) == 0
    # As when fewer corpora are asked for now.
    document = json.loads((own / "card" / "results.json").read_text())
    document["corpora"]["street"] = document["corpora"]["clips"]
    (own / "card" / "results.json").write_text(json.dumps(document))
    assert main(command) == 1
    assert "is the card of an earlier evaluation, of street, too" in capsys.readouterr().err


def test_a_folder_of_audio_is_measured_again_when_its_metadata_changed(finished, recipe, tmp_path, capsys):
    own = shutil.copytree(finished, tmp_path / "out")
    folder = tmp_path / "folder"
    folder.mkdir()
    rows = [json.loads(line) for line in Path(json.loads(recipe.read_text())["test_data"][0]).read_text().splitlines()]
    for row in rows:
        shutil.copy(row["audio"], folder)
    metadata = "file_name,text\n" + "".join(f"{Path(row['audio']).name},{row['text']}\n" for row in rows)

    def evaluate(content: str) -> str:
        (folder / "metadata.csv").write_text(content)
        assert main(["evaluate", str(recipe), "--output_dir", str(own), "--test_data", str(folder)]) == 0
        return capsys.readouterr().err

    assert "done already" not in evaluate(metadata)
    assert "[evaluate] done already" in evaluate(metadata)
    assert "[evaluate] done already" not in evaluate(metadata.rstrip("\n") + " encore\n")


def test_the_steps_of_the_readme_go_one_after_the_other(finished, recipe, tmp_path, monkeypatch, hub, capsys):  # noqa: F811
    """As written, but for the recipe's name; what is trained and tested on is small and lies here."""
    (block,) = [text for kind, text in BLOCKS if kind == "bash" and "accelerate launch" in text]
    lines = [line.partition("#")[0].split() for line in block.splitlines()]
    commands = [["train", *words[4:]] if words[0] == "accelerate" else words[1:] for words in lines]
    assert [words[0] for words in commands] == ["train", "export", "evaluate", "report", "card", "push"]
    shutil.copytree(finished, tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    values = json.loads(recipe.read_text())
    rows = [json.loads(line) for line in Path(values["test_data"][0]).read_text().splitlines()]
    Path("my_test.json").write_text(json.dumps(rows))
    names = ["community-v2", "mtedx"]
    for name, row in zip(names, rows, strict=True):
        # Both names of the column: what a definition says of its corpus holds for the private copy.
        Path(f"{name}.jsonl").write_text(json.dumps({**row, "sentence": row["text"]}))
    own = {"corpora": names, "corpus_manifests": [f"{name}={tmp_path / name}.jsonl" for name in names], "test_data": []}
    Path("tiny.json").write_text(json.dumps({**values, **own, "output_dir": "out", "arms": ["fp", "qat"]}))
    hub.patch(monkeypatch)

    def run(words: list[str]) -> str:
        assert main([words[0], "tiny.json", *words[2:]]) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    *steps, push = commands
    for words in steps:
        run(words)
    card = Path("out/card/README.md").read_text()
    assert (
        "| community-v2 | fr | 1 |" in card and "| my_test | fr | 2 |" in card and "huggingface.co/datasets" not in card
    )
    assert "path/to/this/folder" in card
    assert "nothing was created or sent" in run([*push, "--dry_run", "--model_license", "apache-2.0"])
    run([*push, "--to_folder", "published", "--model_license", "apache-2.0"])
    published = Path("published/README.md").read_text()
    assert "\nlicense: apache-2.0\n" in published and 'repo = "me/whisper-fr-int8"' in published
    # Given to `card` alone, it need not be said again.
    run(["card", "", "--hub_model_id", "tester/mine", "--model_license", "cc0-1.0", "--hub_private_repo", "true"])
    run(["push", "", "--hub_model_id", "tester/mine", "--hub_private_repo", "true"])
    assert "\nlicense: cc0-1.0\n" in hub.files("tester/mine")["README.md"].decode() and hub.repo("tester/mine").private


def test_a_repository_that_git_refuses_to_read_has_no_commit(monkeypatch):
    assert git_commit()
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    assert git_commit() is None


def test_push_uploads_what_was_measured_and_dry_run_nothing(finished, recipe, hub, monkeypatch, capsys):  # noqa: F811
    hub.patch(monkeypatch)
    assert main(["push", str(recipe), "--hub_model_id", "tester/tiny", "--dry_run"]) == 0
    assert "nothing was created or sent" in capsys.readouterr().out
    assert main(["push", str(recipe), "--hub_model_id", "tester/tiny", "--space"]) == 0
    assert "index.html" in hub.files("tester/tiny", repo_type="space")
    files = hub.files("tester/tiny")
    assert {"README.md", "encoder_model.onnx", "decoder_model_merged.onnx", "parity.json"} <= set(files)


def test_a_new_process_transcribes_by_hub_id_what_evaluation_did(finished, recipe, hub, monkeypatch, tmp_path):  # noqa: F811
    hub.patch(monkeypatch)
    assert main(["push", str(recipe), "--hub_model_id", "tester/tiny"]) == 0
    measured = [json.loads(line) for line in (finished / "evaluation" / "clips" / "qat.jsonl").read_text().splitlines()]
    test = Path(json.loads(recipe.read_text())["test_data"][0])
    clips = [json.loads(line)["audio"] for line in test.read_text().splitlines()]
    words = ["transcribe", "tester/tiny", *clips, "--language", "french", "--num_threads", "1", "--output_dir", "said"]
    variables = {**os.environ, **hub.environment(), "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-m", "qat_plugin.cli", *words], cwd=tmp_path, env=variables, check=True)
    said = [(tmp_path / "said" / Path(clip).with_suffix(".txt").name).read_text().strip() for clip in clips]
    assert said == [row["hypothesis"].strip() for row in measured] and any(said)
    assert any(request.endswith("/decoder_model_merged.onnx") for request in hub.requests) and hub.unknown == []


def test_push_opens_a_pull_request_or_writes_a_folder_when_asked(finished, recipe, hub, monkeypatch, tmp_path):  # noqa: F811
    target = tmp_path / "published"
    assert main(["push", str(recipe), "--to_folder", str(target), "--space"]) == 0
    assert {"README.md", "encoder_model.onnx", "index.html"} <= {path.name for path in target.iterdir()}
    hub.patch(monkeypatch)
    (target / "README.md").write_text("theirs")
    hub.add_repo("tester/theirs", target)
    assert main(["push", str(recipe), "--hub_model_id", "tester/theirs", "--create_pr"]) == 0
    assert hub.files("tester/theirs")["README.md"] == b"theirs"
    assert hub.files("tester/theirs", "refs/pr/1")["README.md"].startswith(b"---")
    with pytest.raises(SystemExit):
        main(["push", str(recipe), "--create_pr", "--to_folder", str(target)])


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["--hub_model_id", ""], "hub_model_id is not set"),
        (["--hub_model_id", "tester/tiny", "--output_dir", "nowhere"], "holds no card"),
        (["--hub_model_id", "tester/tiny", "--space", "--create_pr"], "create_pr and a Space do not go together"),
        (["--hub_model_id", "tester/tiny", "--space", "--hub_private_repo", "true"], "hub_private_repo and a Space"),
    ],
)
def test_push_explains_what_is_missing(finished, recipe, arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["push", str(recipe), *arguments]) == 1
    assert message in capsys.readouterr().err


def test_unknown_arguments_and_recipes_are_explained(recipe, capsys):
    assert main(["train", "whisper-base-int5"]) == 1
    assert "whisper-base-int4" in capsys.readouterr().err
    assert main(["train", str(recipe), "--learning_rat", "1"]) == 1
    assert "learning_rat" in capsys.readouterr().err
    assert main(["demo", "--fast"]) == 2
    assert "--fast" in capsys.readouterr().err


def test_help_teaches_and_is_quick(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert all(step in text for step in ("train", "export", "evaluate", "card", "push", "run", "demo", "transcribe"))
    assert main(["fields"]) == 0
    assert "group_size" in capsys.readouterr().out
