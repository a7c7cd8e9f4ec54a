"""One measured run in small: ONNX folders, and transcripts scored by the real evaluation."""

import json
from pathlib import Path
from typing import Any

from qat_plugin.evaluation.folder_files import list_files
from qat_plugin.evaluation.results import collect_results
from qat_plugin.evaluation.transcripts import Transcript, TranscriptFile
from qat_plugin.files import sha256_of

REFERENCES = ["bonjour à tous les amis", "merci beaucoup madame", "il fait très beau ce matin", "au revoir et à demain"]
HYPOTHESES = {
    "fp": ["bonjour à tous les amis", "merci beaucoup madame", "il fait très beau ce matin", "au revoir à demain"],
    "ptq-rtn": ["bonjour à tous", "merci merci merci merci merci merci", "il fait beau le matin", "au revoir à demain"],
    "qat": ["bonjour à tous les amis", "merci beaucoup madame", "il fait très beau le matin", "au revoir à demain"],
}
SECONDS = {"fp": 0.125, "ptq-rtn": 0.0625, "qat": 0.0625}
GRAPHS = {"fp": 40_000, "ptq-rtn": 9_000, "qat": 9_100}
SOURCES = {
    "studio": {"source": "hub", "path": "someone/studio-fr", "config": "fr", "split": "test",
               "revision": "1234abc", "license": "cc0-1.0", "description": ""},
    "calls": {"source": "manifest", "path": "/home/me/secret/calls.jsonl", "description": "calls | unpublished"},
}  # fmt: skip
TRAINING = {
    "corpora": {"big-fr": {"source": "hub", "path": "someone/big-fr"},
                "studio": {"source": "manifest", "path": "/home/me/secret/mine/manifest.jsonl"}},
    "samples": 812, "seconds": 9540.5, "device": "Some GPU", "processes": 2,
}  # fmt: skip
RECIPE = {
    "model_name_or_path": "openai/whisper-tiny", "language": "french", "task": "transcribe",
    "train_corpora": ["big-fr"], "train_data": ["/home/me/secret/mine/manifest.jsonl"], "target": "int4",
    "group_size": 64, "skip_modules": ["model.decoder.layers.0.fc1"], "learning_rate": 5e-6, "max_steps": 120,
    "max_train_samples": None, "corpora": ["studio", "calls"], "model_license": "apache-2.0", "model_title": None,
    "output_dir": "/home/me/secret/out", "hub_model_id": "tester/whisper-tiny-int4", "normalizer": "basic", "bf16": False,
}  # fmt: skip
PARITY = {
    "passed": True,
    "target": "int4",
    "operators": {"encoder_model.onnx": {"MatMulNBits": 12}, "decoder_model_merged.onnx": {"MatMulNBits": 21}},
    "quantized_share": 0.9312,
    "max_weight_only_logit_difference": 2.5e-06,
    "greedy_clips": 8,
    "greedy_identical": 8,
    "greedy_undecided": 0,
}


def make_onnx_folder(folder: Path, arm: str) -> Path:
    """A folder with the names of an export and made-up graphs."""
    folder.mkdir(parents=True)
    content = bytes(range(256)) * (GRAPHS[arm] // 256)
    (folder / "encoder_model.onnx").write_bytes(content)
    (folder / "decoder_model_merged.onnx").write_bytes(content[::-1])
    (folder / "config.json").write_text(json.dumps({"model_type": "whisper", "arm": arm}))
    (folder / "parity.json").write_text(json.dumps(PARITY))
    if arm != "fp":
        describe(folder, "int4")
    return folder


def describe(folder: Path, target: str | None) -> None:
    """What export writes of the files that are there before the gate."""
    names = [path.name for path in sorted(folder.iterdir()) if path.name not in ("parity.json", "quantization.json")]
    files = {name: sha256_of(folder / name) for name in names}
    (folder / "quantization.json").write_text(json.dumps({"target": target, "skip_modules": [], "files": files}))


def measure(root: Path, folders: dict[str, Path], recipe: dict[str, Any]) -> Path:
    """results.json that the real evaluation makes of these transcripts."""
    environment = {"cpu": "Some CPU", "cpu_flags": ["avx2"], "cores": 2, "architecture": "x86_64", "system": "Linux",
                   "python": "3.11.7", "packages": {"qat_plugin": "0.1.0", "onnxruntime": "1.31.1"}}  # fmt: skip
    settings = {"language": "french", "task": "transcribe", "num_beams": 1, "loop_guard": True, "max_target_positions": 448,
                "generation_config": {}, "batch_size": 1, "num_threads": 2, "environment": environment}  # fmt: skip
    for corpus, take in (("studio", slice(None)), ("calls", slice(0, 2))):
        for arm, hypotheses in HYPOTHESES.items():
            own = {"arm": arm, "corpus": corpus, "files": list_files(folders[arm])}
            lines = [
                Transcript(
                    f"u{i}", f"u{i}", reference, hypothesis, 9, 2.5, SECONDS[arm], None, "fr", False, False, False
                )
                for i, (reference, hypothesis) in enumerate(
                    list(zip(REFERENCES[take], hypotheses[take], strict=True)) * 3
                )
            ]
            file = TranscriptFile(root / corpus, arm, {**own, **settings})
            file.append(lines)
            file.finish(lines)
    results = collect_results(
        root, folders, ["studio", "calls"], normalizer="basic", recipe=recipe,
        step_seconds={"train": 754.2, "export_qat": 31.0}, git_commit="abcdef0", resamples=200, sources=SOURCES,
    )  # fmt: skip
    results["training"] = TRAINING
    path = root / "results.json"
    path.write_text(json.dumps(results), encoding="utf8")
    return path


COMMIT = "0123456789abcdef0123456789abcdef01234567"
BENCHMARK = {"task_id": "french", "revision": COMMIT}


def set_source(results_file: Path, corpus: str, **changed: str | None) -> Path:
    """The results file with another origin of a corpus."""
    results = json.loads(results_file.read_text(encoding="utf8"))
    results["corpora"][corpus]["source"] |= changed
    results_file.write_text(json.dumps(results), encoding="utf8")
    return results_file
