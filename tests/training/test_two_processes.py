"""Two processes of one clip each train what one process of two clips trains: the loss is neither summed nor halved."""

import json
import os
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
import torch
from test_training import assert_equal, tensors
from tiny import save_tiny_whisper
from transformers import WhisperForConditionalGeneration

WORKER = Path(__file__).with_name("two_process_worker.py")


def launch(*args: object, processes: int) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([*command, *map(str, args)], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_two_processes_train_what_one_trains(tiny_whisper_dir, tmp_path):
    launch(WORKER, tiny_whisper_dir, tmp_path / "one", 2, processes=1)
    launch(WORKER, tiny_whisper_dir, tmp_path / "two", 1, processes=2)
    one, two = tensors(tmp_path / "one" / "checkpoint-2"), tensors(tmp_path / "two" / "checkpoint-2")
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.slow
def test_processes_that_calibrate_on_clips_of_their_own_train_one_model(tiny_whisper_dir, tmp_path):
    launch(WORKER, tiny_whisper_dir, tmp_path, 1, "calibrated", processes=2)
    first, second = tensors(tmp_path / "0"), tensors(tmp_path / "1")
    assert "model.encoder.layers.0.fc2.equalization" in second
    assert_equal(first, second)


@pytest.mark.slow
def test_the_command_trains_qat_and_its_control_in_two_processes(tones_manifest, tmp_path):
    model = save_tiny_whisper(tmp_path / "model", max_target_positions=12)
    recipe = {
        "model_name_or_path": str(model), "train_data": [str(tones_manifest)], "test_data": ["elsewhere.jsonl"],
        "target": "int4", "calibration_samples": 2, "arms": ["fp", "ptq-ft", "qat"], "output_dir": str(tmp_path / "out"),
        "max_steps": 2, "per_device_train_batch_size": 1, "save_steps": 2, "report_to": "none", "use_cpu": True,
        "fake_quant_start_step": 1,
    }  # fmt: skip
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    launch("-m", "qat_plugin.train", tmp_path / "recipe.json", processes=2)
    state = json.loads((tmp_path / "out" / "state.json").read_text())
    assert state["train"]["done"] and state["train_fp-ft"]["done"]
    for folder in ("train", "fp-ft"):
        assert WhisperForConditionalGeneration.from_pretrained(tmp_path / "out" / folder).config.d_model == 64


@pytest.mark.slow
def test_two_processes_train_on_a_stream(tones_manifest, tmp_path):
    """Texts of different lengths, so that batches of one process cannot be another's; more steps than an epoch has."""
    clips = [json.loads(line) for line in tones_manifest.read_text().splitlines()]
    audio = [{"bytes": (tones_manifest.parent / clip["audio"]).read_bytes(), "path": clip["audio"]} for clip in clips]
    rows = {"audio": audio, "text": ["a" * (i + 1) for i in range(len(clips))]}
    (tmp_path / "speech").mkdir()
    table = datasets.Dataset.from_dict(rows).cast_column("audio", datasets.Audio(sampling_rate=16000))
    table.to_parquet(tmp_path / "speech" / "train-00000-of-00001.parquet")
    definition = {"source": "hub", "path": str(tmp_path / "speech"), "split": "train", "revision": "main"}
    (tmp_path / "streamed.json").write_text(json.dumps(definition))
    recipe = {
        "model_name_or_path": str(save_tiny_whisper(tmp_path / "model", max_target_positions=12)), "streaming": True,
        "train_corpora": [str(tmp_path / "streamed.json")], "test_data": ["elsewhere.jsonl"], "target": "int8",
        "calibration_samples": 2, "arms": ["qat"], "output_dir": str(tmp_path / "out"), "max_steps": 5, "save_steps": 5,
        "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "report_to": "none", "use_cpu": True,
    }  # fmt: skip
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    launch("-m", "qat_plugin.train", tmp_path / "recipe.json", processes=2)
    assert json.loads((tmp_path / "out" / "state.json").read_text())["train"]["done"]
