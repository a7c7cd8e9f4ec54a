"""What a Trainer may be given beside the callback that would train something else, without a word."""

import copy
from types import SimpleNamespace

import pytest
import torch
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from test_training import DISTILLATION, arguments, collate, examples
from transformers import Seq2SeqTrainer, WhisperForConditionalGeneration

from qat_plugin.encoder_context import EncoderContext
from qat_plugin.errors import ModelError, QATError, QuantizationError, RecipeError
from qat_plugin.models import load_whisper
from qat_plugin.recipe_loading import load_recipe
from qat_plugin.training import QATCallback, QATTrainer
from qat_plugin.training import callback as callback_module
from qat_plugin.training.run import make_trainer


def added_later(model, options, qat):
    trainer = Seq2SeqTrainer(model=model, **options)
    trainer.add_callback(qat)
    trainer.train()


def with_an_own_optimizer(model, options, qat):
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    Seq2SeqTrainer(model=model, callbacks=[qat], optimizers=(optimizer, None), **options).train()


def with_label_smoothing(model, options, qat):
    options["args"].label_smoothing_factor = 0.1
    Seq2SeqTrainer(model=model, callbacks=[qat], **options)


def with_a_teacher_in_half_precision(model, options, qat):
    qat.teacher.to(torch.float16)
    Seq2SeqTrainer(model=model, callbacks=[qat], **options)


def compiled(model, options, qat):
    options["args"].torch_compile = True
    Seq2SeqTrainer(model=model, callbacks=[qat], **options)


def with_a_model_for_each_train(model, options, qat):
    """The Trainer makes another one when training begins, in which nothing is prepared."""
    QATTrainer(model_init=lambda: copy.deepcopy(model), qat=qat, **options).train()


def evaluated_in_half_precision(model, options, qat):
    trainer = QATTrainer(model=model, qat=qat, **options)
    trainer.model.to(torch.bfloat16)  # as the Trainer does for bf16_full_eval
    trainer.train()


def with_flash_attention(model, options, qat):
    qat.encoder_context = EncoderContext()
    model.config._attn_implementation = "flash_attention_2"
    Seq2SeqTrainer(model=model, callbacks=[qat], **options)


@pytest.mark.parametrize(
    ("misuse", "error", "message"),
    [
        (added_later, QuantizationError, r"has prepared nothing: give it to the trainer as Seq2SeqTrainer\(.*callbacks"),
        (with_an_own_optimizer, QuantizationError, r"does not have model\.\S+\.scale_offset.*Let the trainer make it"),
        (with_label_smoothing, QuantizationError, r"label_smoothing_factor is 0\.1: .*LossWeights\(kl="),
        (compiled, QuantizationError, r"torch_compile is true: .*hooks.*leave it out"),
        (with_a_model_for_each_train, QuantizationError, r"not the one that this trainer's QATCallback has prepared: `model_init`"),
        (evaluated_in_half_precision, QuantizationError, r"is torch\.bfloat16: the integers that half-precision weights"),
        (with_flash_attention, ModelError, r"attn_implementation is 'flash_attention_2', .*encoder_context.*'sdpa'"),
        (with_a_teacher_in_half_precision, ModelError, r"teacher is torch\.float16 .*dtype=torch\.float32"),
    ],
)  # fmt: skip
def test_misuse_is_refused(tiny_whisper_dir, tmp_path, misuse, error, message):
    options = {"args": arguments(tmp_path, max_steps=1), "train_dataset": examples(2), "data_collator": collate}
    qat = QATCallback("int4", loss_weights=DISTILLATION, teacher=load_whisper(tiny_whisper_dir))
    with pytest.raises(error, match=message):
        misuse(load_whisper(tiny_whisper_dir), options, qat)


def test_an_own_optimizer_will_do_where_scales_are_not_learned(tiny_whisper_dir, tmp_path):
    from qat_plugin.fake_quant import QuantizerConfig

    options = {"args": arguments(tmp_path, max_steps=1), "train_dataset": examples(2), "data_collator": collate}
    with_an_own_optimizer(
        load_whisper(tiny_whisper_dir), options, QATCallback(QuantizerConfig("int4", 32, learned_scales=False))
    )
    assert (tmp_path / "checkpoint-1" / "quantizer.json").is_file()


@pytest.mark.parametrize("kind", [DistributedType.FSDP, DistributedType.DEEPSPEED])
def test_weights_in_pieces_are_refused(tiny_whisper_dir, tmp_path, monkeypatch, kind):
    state = SimpleNamespace(distributed_type=kind, mixed_precision="no")
    monkeypatch.setattr(callback_module, "AcceleratorState", lambda: state)
    with pytest.raises(QATError, match=rf"accelerate is set to {kind.value}, .*accelerate launch --multi_gpu"):
        Seq2SeqTrainer(
            model=load_whisper(tiny_whisper_dir), args=arguments(tmp_path), train_dataset=examples(2), data_collator=collate,
            callbacks=[QATCallback("int4")],
        )  # fmt: skip


@pytest.fixture
def accelerated(monkeypatch):
    """As `accelerate launch` passes its configuration on; its state is one for the whole process."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def test_a_mixed_precision_that_the_recipe_does_not_know_of_is_refused(
    accelerated, tiny_whisper_dir, tones_manifest, tmp_path
):
    overrides = [
        "--model_name_or_path", str(tiny_whisper_dir), "--train_data", str(tones_manifest), "--use_cpu", "true",
        "--output_dir", str(tmp_path), "--calibration_samples", "1",
    ]  # fmt: skip
    with pytest.raises(RecipeError, match=r"bf16 and fp16 are false, .*'bf16'.*launch --mixed_precision no"):
        make_trainer(load_recipe("demo", overrides), tmp_path / "train")
    assert not (tmp_path / "train").exists()


def test_the_teacher_runs_in_the_precision_that_accelerate_brings(accelerated, tiny_whisper_dir, tmp_path):
    qat = QATCallback("int4", loss_weights=DISTILLATION)
    trainer = Seq2SeqTrainer(
        model=load_whisper(tiny_whisper_dir), args=arguments(tmp_path, max_steps=1), train_dataset=examples(2),
        data_collator=collate, callbacks=[qat],
    )  # fmt: skip
    heard = []
    for model in (trainer.model, qat._loss.teacher):
        model.model.encoder.layers[0].fc1.register_forward_hook(lambda *a: heard.append(a[2].dtype))
    trainer.train()
    assert heard == [torch.bfloat16] * 2 and isinstance(qat._loss.teacher, WhisperForConditionalGeneration)
