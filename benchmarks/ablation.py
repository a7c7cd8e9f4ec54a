"""Does each part of the method earn its place? int4 Whisper base, one part changed at a time, on speech that no test hears.

    python benchmarks/ablation.py --common_voice FOLDER

`FOLDER/LANGUAGE/manifest.jsonl` hold Common Voice clips. Portuguese and Dutch are measured on, Spanish and Italian left to
`quality.py`, all others trained on, as there. What is measured is what the model that ships would say: KL(float, whole window
|| quantized, as exported) of the next token of every transcript, in nats, which tells methods apart long before words do. The
interval of a difference is drawn over clips. Trainings are short, so that there can be many: the table orders methods, it
does not say how good a long training gets, and least of all at which learning rate: 3e-5 is ahead after 20 steps and worse
than no training after 300. Rows are kept in `bench-ablation/`, and an interrupted run goes on where it stopped. Writes
benchmarks/results/ablation.json and ablation.md.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from figures import RESULTS, folder_bytes, run, write_results
from quality import TRAINED_ON, held_back_speech

from qat_plugin import steps
from qat_plugin.arms import ARMS
from qat_plugin.demo.fetch import fetch_all
from qat_plugin.demo.run import DATA_DIR, fast_precision
from qat_plugin.encoder_context import encoder_context_of
from qat_plugin.evaluation.bootstrap import paired_difference
from qat_plugin.export.writer import export_onnx
from qat_plugin.fake_quant import read_checkpoint
from qat_plugin.models import load_fake_quant
from qat_plugin.recipe import Recipe
from qat_plugin.recipe_loading import load_recipe
from qat_plugin.training.distillation import kl_divergence
from qat_plugin.training.run import load_model, run_ptq
from qat_plugin.training.sensitivity import label_logits
from qat_plugin.training.speech import labelled_batches
from qat_plugin.workspace import say

AS_SHIPPED = "as the recipe has it"
# Of a nat: the bootstrap counts.
_MICRO = 1e6

# What is changed in the recipe; the arm that is measured: "qat" is trained, the others are not.
ROWS: dict[str, tuple[str, tuple[str, ...]]] = {
    "plain rounding": ("ptq-rtn", ()),
    "searched scales": ("ptq-mse", ()),
    "GPTQ, where training starts": ("ptq-gptq", ()),
    "GPTQ, no part in 8 bits (int8_modules)": ("ptq-gptq", ("--int8_modules",)),
    "GPTQ, no tokens in 8 bits (hot_tokens)": ("ptq-gptq", ("--hot_tokens", "0")),
    "GPTQ, groups of 64": ("ptq-gptq", ("--group_size", "64")),
    "GPTQ, groups of 128": ("ptq-gptq", ("--group_size", "128")),
    "GPTQ, silence not folded (encoder_context)": ("ptq-gptq", ("--encoder_context", "full")),
    AS_SHIPPED: ("qat", ()),
    "start: nearest integers, searched scales": ("qat", ("--initial_rounding", "nearest")),
    "scales stand still": ("qat", ("--learned_scales", "false")),
    "scales learn ten times as fast": ("qat", ("--scale_learning_rate", "5e-3")),
    "activations in float while training": ("qat", ("--fake_quantize_activations", "false")),
    "taught by logits alone": ("qat", ("--encoder_weight", "0", "--decoder_weight", "0")),
    "taught by hidden states alone": ("qat", ("--kl_weight", "0")),
    "taught by transcripts (cross entropy)": (
        "qat",
        ("--ce_weight", "1", "--kl_weight", "0", "--encoder_weight", "0", "--decoder_weight", "0"),
    ),
    "clips at other speeds (speed_perturbation)": ("qat", ("--speed_perturbation", "0.1")),
    "French prompts alone": ("qat", ()),  # see `_recipe`
    "learning rate constant behind its warm-up": ("qat", ("--lr_scheduler_type", "constant_with_warmup")),
    "learning rate 3e-5": ("qat", ("--learning_rate", "3e-5")),
    "learning rate 1e-4": ("qat", ("--learning_rate", "1e-4")),
}
FRENCH_ONLY = "French prompts alone"


def _recipe(name: str, train: list[Path], french: Path, measured: list[Path], overrides: list[str]) -> Recipe:
    arm, changes = ROWS[name]
    speech = [french] if name == FRENCH_ONLY else train
    folder = "".join(char if char.isalnum() else "-" for char in name)
    return load_recipe(
        "whisper-base-int4",
        [
            *("--model_name_or_path", str(DATA_DIR / "whisper-base"), "--output_dir", f"bench-ablation/{folder}"),
            *("--train_corpora", "--train_data", *map(str, speech), "--corpora", "--arms", arm),
            *("--test_data", *map(str, measured)),
            *("--join_to_seconds", "12", "--calibration_samples", "48", "--per_device_train_batch_size", "4"),
            *("--max_steps", "20", "--warmup_steps", "3", "--save_steps", "1000", "--logging_steps", "5"),
            *fast_precision(),
            *overrides,
            *changes,
        ],
    )


def _measured_on(recipe: Recipe, speech: list[Path]) -> tuple[list[dict[str, Any]], list[torch.Tensor]]:
    """One clip a batch, on the device that trains, and what the float model says of each with the whole window computed."""
    names, device = [str(path) for path in speech], recipe.training.device
    teacher, processor = load_model(recipe)
    batches = [
        {name: value.to(device) for name, value in batch.items()}
        for batch in labelled_batches(recipe, names, teacher, processor)
    ]
    teacher.to(device).eval()
    return batches, [label_logits(teacher, batch, None) for batch in batches]


def _measure(name: str, recipe: Recipe, batches: list[dict[str, Any]], answers: list[torch.Tensor]) -> dict[str, Any]:
    """KL of each clip's tokens, summed, and the bytes of the model as exported."""
    arm, workspace, inputs = ROWS[name][0], steps.open_workspace(recipe), steps.training_inputs(recipe)
    kept, trained, folder = workspace.root / "ablation.json", workspace.checkpoint("qat"), workspace.checkpoint(arm)
    if not workspace.is_done("ablation", inputs):
        say("ablation", name)
        with workspace.step("ablation", inputs):
            if arm == "qat":
                steps.train(recipe, workspace)
            else:
                run_ptq(recipe, ARMS[arm], folder, training_folder=trained, fine_tuned_folder=trained)
            model = load_fake_quant(folder).to(recipe.training.device)
            context = encoder_context_of(model.config)
            clips = [
                float(kl_divergence(label_logits(model, batch, context), answer, 1.0)) * len(answer)
                for batch, answer in zip(batches, answers, strict=True)
            ]
            with tempfile.TemporaryDirectory() as scratch:
                export_onnx(read_checkpoint(folder), Path(scratch))
                size = folder_bytes(Path(scratch))
            kept.write_text(json.dumps({"bytes": size, "kl_by_clip": clips}), encoding="utf8")
        # Three hundred megabytes a row, of which nothing more is needed.
        shutil.rmtree(folder)
    found: dict[str, Any] = json.loads(kept.read_text(encoding="utf8"))
    return found


def _summarize(rows: dict[str, dict[str, Any]], tokens: list[int]) -> list[dict[str, Any]]:
    baseline, summary = rows[AS_SHIPPED]["kl_by_clip"], []
    for name, row in rows.items():
        counts = np.rint(
            np.stack([_MICRO * np.array(row["kl_by_clip"]), _MICRO * np.array(baseline), np.array(tokens)], axis=1)
        ).astype(np.int64)
        found = paired_difference([counts])
        assert found.interval is not None
        summary.append(
            {
                "row": name,
                "arm": ROWS[name][0],
                "changes": list(ROWS[name][1]),
                "kl": sum(row["kl_by_clip"]) / sum(tokens),
                "megabytes": row["bytes"] / 1e6,
                "difference": found.value / _MICRO,
                "interval": [found.interval.low / _MICRO, found.interval.high / _MICRO],
            }
        )
    return summary


def render(summary: list[dict[str, Any]]) -> str:
    """The table as Markdown."""
    lines = [
        f"| row | KL, nats a token | minus '{AS_SHIPPED}' | size, MB |",
        "| --- | ---: | ---: | ---: |",
    ]
    for trained, title in ((False, "not trained"), (True, "trained")):
        lines.append(f"| **{title}** | | | |")
        for row in (row for row in summary if (row["arm"] == "qat") == trained):
            low, high = row["interval"]
            apart = f"{row['difference']:+.4f} [{low:+.4f}, {high:+.4f}]" if row["row"] != AS_SHIPPED else ""
            lines.append(f"| {row['row']} | {row['kl']:.4f} | {apart} | {row['megabytes']:.1f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--common_voice", type=Path, required=True, help="folder of LANGUAGE/manifest.jsonl")
    options, overrides = parser.parse_known_args()
    fetch_all(DATA_DIR, full=True)
    train, measured = held_back_speech(options.common_voice)
    prompts = [DATA_DIR / "speech" / name / "manifest.jsonl" for name in TRAINED_ON]
    recipes = {name: _recipe(name, [*train, *prompts], prompts[0], measured, overrides) for name in ROWS}
    batches, answers = _measured_on(recipes[AS_SHIPPED], measured)
    rows = {name: _measure(name, recipe, batches, answers) for name, recipe in recipes.items()}
    summary = _summarize(rows, [len(answer) for answer in answers])
    training = recipes[AS_SHIPPED].training
    how = {"steps": training.max_steps, "batch": training.per_device_train_batch_size, "clips": len(batches)}
    write_results("ablation", [], private=str(options.common_voice), training=how, rows=summary)
    (RESULTS / "ablation.md").write_text(render(summary), encoding="utf8")
    print(render(summary))


if __name__ == "__main__":
    run(main)
