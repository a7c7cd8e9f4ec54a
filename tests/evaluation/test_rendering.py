"""Report and card come from files alone: where nothing that runs a model can be imported, and within seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from qat_plugin.evaluation.folder_files import list_files
from qat_plugin.evaluation.results import collect_results, write_results
from qat_plugin.evaluation.transcripts import Transcript, TranscriptFile
from qat_plugin.files import sha256_of

UTTERANCES = 1000
SECONDS = 60  # of this process, many times what it takes
SAID = "un deux trois quatre cinq six sept huit neuf dix onze douze"
PARITY = {
    "passed": True, "target": "int4", "operators": {"encoder_model.onnx": {"MatMulNBits": 12}}, "quantized_share": 0.93,
    "greedy_clips": 8, "greedy_identical": 8, "greedy_undecided": 0,
}  # fmt: skip
RENDER = """
import json, sys, time
from pathlib import Path

BLOCKED = {"torch", "transformers", "onnxruntime", "onnx", "datasets", "peft", "accelerate"}

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ImportError(f"{name} is not needed to render")

sys.meta_path.insert(0, Blocker())
try:
    import torch
except ImportError:
    pass
else:
    sys.exit("the blocker does not block")
from qat_plugin.evaluation.report import render_table
from qat_plugin.evaluation.report_files import write_report
from qat_plugin.evaluation.results import read_results
from qat_plugin.publishing import write_card

root = Path(sys.argv[1])
results = read_results(root / "results.json")
write_report(results, root)
render_table(results)
write_card(root / "results.json", root / "onnx" / "qat", root / "card")
print(time.process_time())
"""


def exported(root: Path, arm: str) -> Path:
    folder = root / "onnx" / arm
    folder.mkdir(parents=True)
    (folder / "encoder_model.onnx").write_bytes(arm.encode() * 100)
    (folder / "parity.json").write_text(json.dumps(PARITY), encoding="utf8")
    if arm != "fp":
        digest = sha256_of(folder / "encoder_model.onnx")
        quantization = {"target": "int4", "skip_modules": [], "files": {"encoder_model.onnx": digest}}
        (folder / "quantization.json").write_text(json.dumps(quantization), encoding="utf8")
    return folder


def transcribe(root: Path, arm: str, folder: Path, every: int) -> None:
    """One word is lost in every so manieth utterance."""
    environment = {"cpu": "Some CPU", "cpu_flags": [], "cores": 2, "architecture": "x86_64", "system": "Linux",
                   "python": "3.11.7", "packages": {}}  # fmt: skip
    file = TranscriptFile(root / "studio", arm, {
        "arm": arm, "corpus": "studio", "files": list_files(folder), "language": "french", "task": "transcribe", "num_beams": 1,
        "loop_guard": True, "max_target_positions": 448, "generation_config": {}, "batch_size": 1, "num_threads": 2,
        "environment": environment,
    })  # fmt: skip
    lines = [
        Transcript(
            id=f"u{i}", batch=f"u{i}", reference=SAID, hypothesis=SAID.removesuffix(" douze") if i % every == 0 else SAID,
            tokens=12, duration=2.5, seconds=0.1, speaker=f"s{i % 20}", language="fr", long_form=False,
            hit_length_limit=False, loop_cut=False,
        )
        for i in range(UTTERANCES)
    ]  # fmt: skip
    file.append(lines)
    file.finish(lines)


def test_a_thousand_utterances_are_rendered_without_any_model(tmp_path: Path) -> None:
    folders = {arm: exported(tmp_path, arm) for arm in ("fp", "ptq-rtn", "ptq-gptq", "qat")}
    for every, (arm, folder) in enumerate(folders.items(), start=2):
        transcribe(tmp_path, arm, folder, every)
    recipe = {"model_name_or_path": "openai/whisper-tiny", "language": "french", "task": "transcribe",
              "model_license": "mit", "normalizer": "basic", "target": "int4"}  # fmt: skip
    source = {"source": "manifest", "path": "studio.jsonl", "config": None, "split": None, "revision": None, "task_id": None,
              "license": None, "description": "Prompts"}  # fmt: skip
    results = collect_results(
        tmp_path, folders, ["studio"], normalizer="basic", recipe=recipe, step_seconds={}, resamples=200,
        sources={"studio": source},
    )  # fmt: skip
    results["training"] = {"corpora": {}, "samples": 5, "seconds": 60.0, "device": "Some CPU", "processes": 1}
    write_results(results, tmp_path / "results.json")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run(
        [sys.executable, "-c", RENDER, str(tmp_path)], env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert float(run.stdout.splitlines()[-1]) < SECONDS
    page = (tmp_path / "report.html").read_text(encoding="utf8")
    assert "Worst utterances" in page and "Where the arms part" in page
    assert (tmp_path / "report.md").is_file() and (tmp_path / "wer_by_corpus-dark.png").is_file()
    assert "quantization-aware training" in (tmp_path / "card" / "README.md").read_text(encoding="utf8")
