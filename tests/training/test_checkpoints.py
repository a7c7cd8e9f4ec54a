"""Checkpoints on the way: what they export to, and from which run they can be gone on."""

import json

import numpy as np
import pytest
import torch
from test_training import DISTILLATION, arguments, assert_equal, collate, examples, make_trainer, tensors
from tiny import save_tiny_whisper
from transformers import Seq2SeqTrainer

from qat_plugin.errors import QuantizationError
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


@pytest.mark.parametrize("kind", [QATTrainer, Seq2SeqTrainer])
def test_a_checkpoint_of_another_base_model_is_not_gone_on_from(tiny_whisper_dir, tmp_path, kind):
    def resume(model_dir, weights=None, checkpoint=None):
        trainer = make_trainer(
            model_dir, tmp_path, kind, QATCallback("int4", loss_weights=weights), max_steps=2, save_steps=1
        )
        return trainer.train(resume_from_checkpoint=checkpoint)

    resume(tiny_whisper_dir)
    checkpoint = str(tmp_path / "checkpoint-1")
    expected = tensors(tmp_path / "checkpoint-2")
    began = json.loads((tmp_path / "checkpoint-1" / "quantizer.json").read_text())["started_from"]
    other = save_tiny_whisper(tmp_path / "other", seed=1)
    with pytest.raises(
        QuantizationError, match=rf"checkpoint-1 is of a run that began with other weights \({began[:12]}\)"
    ):
        resume(other, checkpoint=checkpoint)
    resume(tiny_whisper_dir, checkpoint=checkpoint)
    assert_equal(expected, tensors(tmp_path / "checkpoint-2"))
    # Its own weights are welcome, too, and the run stays the one that it was; but they are no teacher.
    resume(checkpoint, checkpoint=checkpoint)
    assert_equal(expected, tensors(tmp_path / "checkpoint-2"))
    assert json.loads((tmp_path / "checkpoint-2" / "quantizer.json").read_text())["started_from"] == began
    with pytest.raises(QuantizationError, match="give the trainer the model that the run began with"):
        resume(checkpoint, DISTILLATION, checkpoint)
