"""What an earlier training leaves behind: a second one on the same model or by the same trainer is as good as the first."""

import pytest
import torch
from test_training import DISTILLATION, arguments, assert_equal, collate, examples, speech, tensors
from transformers import Seq2SeqTrainer, TrainerCallback

from qat_plugin.encoder_context import EncoderContext
from qat_plugin.errors import QuantizationError
from qat_plugin.models import load_whisper
from qat_plugin.training import QATCallback, QATTrainer


def make_trainer(model, folder, qat, kind=QATTrainer, callbacks=(), **options):
    shared = {
        "model": model, "train_dataset": speech(8), "data_collator": collate, "args": arguments(folder, **options),
    }  # fmt: skip
    if kind is QATTrainer:
        return QATTrainer(qat=qat, callbacks=[*callbacks], **shared)
    return kind(callbacks=[*callbacks, qat], **shared)


def test_a_second_trainer_of_a_model_has_its_own_loss_and_context(tiny_whisper_dir, tmp_path):
    """As where a model is fine-tuned in float and then quantized, or a notebook's cell is run again."""
    first = make_trainer(
        load_whisper(tiny_whisper_dir), tmp_path / "first",
        QATCallback(None, loss_weights=DISTILLATION, encoder_context=EncoderContext()), max_steps=1,
    )  # fmt: skip
    first.train()
    first.model.save_pretrained(tmp_path / "tuned")
    for folder, model in (("same", first.model), ("loaded", load_whisper(tmp_path / "tuned"))):
        qat = QATCallback("int4", encoder_context=EncoderContext())
        make_trainer(model, tmp_path / folder, qat, gradient_accumulation_steps=2, max_steps=2).train()
    assert_equal(*(tensors(tmp_path / folder / "checkpoint-2") for folder in ("same", "loaded")))
    with pytest.raises(QuantizationError, match="a trainer that is made later takes a model over"):
        first.train()


class Interrupted(TrainerCallback):
    """Ctrl-C between the backward pass and the optimizer."""

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        raise KeyboardInterrupt


def test_what_a_stopped_step_leaves_is_a_model_that_can_be_saved_and_trained(tiny_whisper_dir, tmp_path):
    qat = QATCallback("int4", loss_weights=DISTILLATION, encoder_context=EncoderContext())
    interrupted = Interrupted()
    trainer = make_trainer(
        load_whisper(tiny_whisper_dir), tmp_path, qat, callbacks=[interrupted], max_steps=2, gradient_checkpointing=True
    )
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert trainer.model.config.max_source_positions == 1500
    trainer.save_model(str(tmp_path / "saved"))
    qat.finish(trainer.model, tmp_path / "finished")
    for folder in ("saved", "finished"):
        assert load_whisper(tmp_path / folder).config.max_source_positions == 1500
    trainer.remove_callback(interrupted)
    trainer.train()
    attention = trainer.model.model.encoder.layers[0].self_attn
    assert not attention._forward_pre_hooks and (tmp_path / "checkpoint-2").is_dir()


@pytest.mark.parametrize("kind", [QATTrainer, Seq2SeqTrainer])
def test_a_trainer_that_goes_back_to_an_earlier_checkpoint_has_its_quantizers(tiny_whisper_dir, tmp_path, kind):
    """Also those of a step at which scales were not frozen yet, and a second time."""
    qat = QATCallback("int4", calibration_batches=[collate(examples(2, 9))], freeze_scales_step=3)
    trainer = make_trainer(load_whisper(tiny_whisper_dir), tmp_path, qat, kind, save_steps=1)
    trainer.train()
    whole = tensors(tmp_path / "checkpoint-4")
    for step in (2, 1):
        (tmp_path / "checkpoint-4").rename(tmp_path / f"earlier-{step}")
        trainer.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
        assert_equal(whole, tensors(tmp_path / "checkpoint-4"))


def test_a_new_run_of_a_trainer_learns_scales_that_the_last_one_froze(tiny_whisper_dir, tmp_path):
    trainer = make_trainer(
        load_whisper(tiny_whisper_dir), tmp_path, QATCallback("int4", freeze_scales_step=2), max_steps=3, save_steps=1
    )
    for _ in range(2):
        trainer.train()
        first, second, third = (tensors(tmp_path / f"checkpoint-{step}") for step in (1, 2, 3))
        names = [name for name in first if name.endswith(".scale")]
        assert any(not torch.equal(first[name], second[name]) for name in names)
        assert all(torch.equal(second[name], third[name]) for name in names)
