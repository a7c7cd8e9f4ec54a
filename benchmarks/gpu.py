"""Quantization-aware training on a GPU: what a step costs beside plain fine-tuning, and whether its integers are those that ship.

    python benchmarks/gpu.py

Whisper base on the speech of `make demo-full`, joined to 12 s, in float32, bf16 and fp16, in shuffled order. A step counts
by its median. Writes benchmarks/results/gpu.json.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from figures import figure, run, write_results
from torch.utils.data import Dataset
from transformers import TrainerCallback

from qat_plugin.demo.fetch import fetch_all
from qat_plugin.demo.run import DATA_DIR
from qat_plugin.errors import QATError
from qat_plugin.fake_quant import fake_quant_layers
from qat_plugin.models import load_fake_quant
from qat_plugin.recipe_loading import load_recipe
from qat_plugin.training.run import make_trainer
from qat_plugin.training.sensitivity import label_logits

SPEECH = ("tuxpaint_fr", "asterisk_en")
PRECISIONS: dict[str, tuple[str, ...]] = {"float32": (), "bf16": ("--bf16", "true"), "fp16": ("--fp16", "true")}
# Whether it is quantized, and what the recipe is changed in.
TRAININGS: dict[str, tuple[bool, tuple[str, ...]]] = {
    "fine-tuning": (False, ("--ce_weight", "1", "--kl_weight", "0", "--encoder_weight", "0", "--decoder_weight", "0")),
    "distillation": (False, ()),
    "QAT with distillation": (True, ()),
}
BATCH, STEPS, WARM = 32, 10, 4


class _Heard(Dataset[dict[str, Any]]):
    """The first samples of a dataset, decoded once: a GPU is timed here, not the reading of audio."""

    def __init__(self, dataset: Any, count: int) -> None:
        self.samples = [dataset[i] for i in range(count)]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.samples[index]


class _StepTimes(TrainerCallback):
    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        torch.cuda.synchronize()
        self._start = time.perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - self._start)


def _train(training: str, precision: str, heard: _Heard | None, folder: Path) -> tuple[Any, float]:
    """The trainer, when it is done, and the seconds of a step; the first one's dataset is `heard` by the next."""
    quantized, changes = TRAININGS[training]
    recipe = load_recipe(
        "whisper-base-int4",
        [
            *("--model_name_or_path", str(DATA_DIR / "whisper-base"), "--output_dir", str(folder)),
            *(
                "--train_corpora",
                "--train_data",
                *(str(DATA_DIR / "speech" / name / "manifest.jsonl") for name in SPEECH),
            ),
            *("--join_to_seconds", "12", "--per_device_train_batch_size", str(BATCH), "--max_steps", str(STEPS)),
            *("--warmup_steps", "2", "--save_strategy", "no", "--logging_steps", str(STEPS), "--disable_tqdm", "true"),
            *("--dataloader_num_workers", "4", "--calibration_samples", "0"),
            *("--initial_rounding", "nearest", "--arms", "qat"),
            *PRECISIONS[precision],
            *changes,
        ],
    )
    trainer = make_trainer(recipe, folder, quantized=quantized)
    trainer.train_dataset = heard or _Heard(trainer.train_dataset, 4 * BATCH)
    times = _StepTimes()
    trainer.add_callback(times)
    torch.cuda.reset_peak_memory_stats()
    trainer.train()
    return trainer, statistics.median(times.seconds[WARM:])


def _same_as_shipped(trainer: Any, folder: Path) -> tuple[float, float]:
    """Of the folded weights, and of the next tokens of some clips: the share that the checkpoint has, too, read on the CPU."""
    # In float32, as what ships: without the autocast that it was trained in.
    model = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    trainer.qat.finish(model, folder)
    shipped = load_fake_quant(folder)
    theirs = {name: layer.weight for name, layer in fake_quant_layers(shipped)}
    equal = total = 0
    for name, layer in fake_quant_layers(model):
        equal += int((layer.weight.detach().cpu() == theirs[name]).sum())
        total += layer.weight.numel()
    same: list[bool] = []
    model.eval()
    for index in range(16):
        batch = trainer.data_collator([trainer.train_dataset[index]])
        there = label_logits(model, {name: value.to(model.device) for name, value in batch.items()}, None).argmax(-1)
        same += (there.cpu() == label_logits(shipped, batch, None).argmax(-1)).tolist()
    return equal / total, sum(same) / len(same)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    if not torch.cuda.is_available():
        raise QATError("this benchmark needs a GPU and a torch that was built for it: torch.cuda sees none")
    fetch_all(DATA_DIR, full=True)
    seconds: dict[str, float] = {}
    memory: dict[str, float] = {}
    losses: dict[str, float] = {}
    heard, shipped = None, (0.0, 0.0)
    pairs = [(training, precision) for precision in PRECISIONS for training in TRAININGS]
    for training, precision in random.Random(0).sample(pairs, len(pairs)):
        name = f"{training}, {precision}"
        with tempfile.TemporaryDirectory() as folder:
            trainer, seconds[name] = _train(training, precision, heard, Path(folder))
            heard = trainer.train_dataset
            memory[name] = torch.cuda.max_memory_allocated() / 1e9
            losses[name] = trainer.state.log_history[0]["loss"]
            print(f"{name}: {seconds[name]:.3f} s a step, loss {losses[name]:.4f}", flush=True)
            if name == "QAT with distillation, bf16":
                shipped = _same_as_shipped(trainer, Path(folder) / "trained")
        del trainer
    figures = [
        figure(
            "trained on the GPU, read on the CPU: weights that are equal to the bit",
            100 * shipped[0],
            "%",
            100,
            at_least=True,
        ),
        figure("the same: next tokens that are equal", 100 * shipped[1], "%", 99, at_least=True),
    ]
    for precision in PRECISIONS:
        step = seconds[f"QAT with distillation, {precision}"]
        for other, bar in (("fine-tuning", 3.0), ("distillation", 2.0)):
            ratio = step / seconds[f"{other}, {precision}"]
            figures.append(figure(f"{precision}: seconds a step, QAT with distillation over {other}", ratio, "", bar))
        if precision == "float32":
            continue
        change = abs(losses[f"QAT with distillation, {precision}"] / losses["QAT with distillation, float32"] - 1)
        figures.append(figure(f"{precision}: loss of QAT, change to float32", 100 * change, "%", 5))
    write_results(
        "gpu", figures, gpu=torch.cuda.get_device_name(), batch=BATCH, seconds_a_step=seconds, peak_gigabytes=memory,
        losses=losses,
    )  # fmt: skip


if __name__ == "__main__":
    run(main)
