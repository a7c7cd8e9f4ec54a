"""Checkpoints on the way: what they export to, and from which run they can be gone on."""

import numpy as np
import torch
from test_training import DISTILLATION, arguments, collate, examples
from tiny import save_tiny_whisper

from qat_plugin.export import export_verified
from qat_plugin.fake_quant import fake_quant_layers, read_checkpoint
from qat_plugin.models import load_processor, load_whisper
from qat_plugin.training import QATCallback, QATTrainer


def integers(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """What each fake-quantized weight rounds to at present, moved by its zero points, by the name of its part."""
    found = {}
    for name, layer in fake_quant_layers(model):
        for suffix, rows, quantizer, _ in layer.parts():
            with torch.no_grad():
                weight = quantizer(layer.weight[rows]).flatten(1)
                scaled = weight if quantizer.equalization is None else weight * quantizer.equalization
                steps = quantizer.steps.repeat_interleave(weight.shape[1] // quantizer.steps.shape[1], dim=1)
                found[f"{name}{suffix}"] = (scaled / steps).round().int().numpy()
    return found


class Watched(QATCallback):
    """Keeps the integers of the first step."""

    def on_save(self, args, state, control, model=None, **kwargs):
        super().on_save(args, state, control, model=model, **kwargs)
        if state.global_step == 1:
            self.integers = integers(model)
            self.latent = model.model.encoder.layers[0].fc1.weight.detach().clone()


def test_a_checkpoint_on_the_way_exports_the_integers_of_its_step(tmp_path):
    start = save_tiny_whisper(tmp_path / "start", max_target_positions=12)
    qat = Watched("int4", calibration_batches=[collate(examples(2, 9))], loss_weights=DISTILLATION)
    trainer = QATTrainer(
        model=load_whisper(start), args=arguments(tmp_path / "run", max_steps=2, save_steps=1), qat=qat,
        train_dataset=examples(8), data_collator=collate, processing_class=load_processor(start),
    )  # fmt: skip
    trainer.train()
    folder = tmp_path / "run" / "checkpoint-1"
    checkpoint = read_checkpoint(folder)
    for name, weight in checkpoint.quantized.items():
        found = weight.integers.astype(int)
        if weight.zero_point is not None:
            found = found - np.repeat(weight.zero_point.astype(int), found.shape[1] // weight.zero_point.shape[1], 1)
        assert np.array_equal(found, qat.integers[name]), name
    # Its weights are those that training goes on from, not folded ones; the gate compares the files with the folded.
    assert torch.equal(load_whisper(folder).model.encoder.layers[0].fc1.weight, qat.latent)
    audio = np.random.default_rng(0).standard_normal(16000).astype(np.float32) * 0.1
    report = export_verified(folder, tmp_path / "onnx", clips=[(audio, "fr"), (audio[::2], "es")], task="transcribe")
    assert report.passed and report.integers_compared == sum(w.integers.size for w in checkpoint.quantized.values())
