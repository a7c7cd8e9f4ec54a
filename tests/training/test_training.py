"""Training with fake quantization: what is saved, resumed, scheduled and learned."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate.data_loader import prepare_data_loader, skip_first_batches
from safetensors.torch import load_file
from torch.utils.data import DataLoader
from transformers import (
    GenerationConfig,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

from qat_plugin.encoder_context import EncoderContext, encoder_context_of
from qat_plugin.errors import ModelError, QuantizationError
from qat_plugin.fake_quant import QuantizerConfig, fake_quant_layers, read_checkpoint
from qat_plugin.fake_quant.insertion import weight_quantizers
from qat_plugin.models import load_fake_quant, load_whisper
from qat_plugin.training import LossWeights, QATCallback, QATTrainer
from qat_plugin.training.run import last_checkpoint
from qat_plugin.training.trainer import _BatchesOfOneLength

DISTILLATION = LossWeights(ce=0.5, kl=1.0, encoder=1.0, decoder=1.0, temperature=2.0)


def examples(count: int, seed: int = 0) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for i in range(count):
        labels = torch.randint(0, 256, (6 + i % 5,), generator=generator)
        rows.append({"input_features": torch.randn(80, 3000, generator=generator), "labels": labels})
    return rows


def collate(rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    labels = torch.nn.utils.rnn.pad_sequence([row["labels"] for row in rows], batch_first=True, padding_value=-100)
    return {"input_features": torch.stack([row["input_features"] for row in rows]), "labels": labels}


def arguments(folder: Path, **options: object) -> Seq2SeqTrainingArguments:
    defaults: dict[str, object] = {
        "output_dir": str(folder), "max_steps": 4, "per_device_train_batch_size": 2, "learning_rate": 1e-3, "save_steps": 2,
        "logging_steps": 1, "report_to": "none", "remove_unused_columns": False, "seed": 3, "use_cpu": True, "disable_tqdm": True,
    }  # fmt: skip
    return Seq2SeqTrainingArguments(**{**defaults, **options})


def make_trainer(
    model_dir: Path, folder: Path, kind: type = QATTrainer, qat: QATCallback | None = None, **options: object
):
    model = load_whisper(model_dir)
    qat = qat or QATCallback("int4", calibration_batches=[collate(examples(2, 9))], loss_weights=DISTILLATION)
    shared = {
        "model": model,
        "args": arguments(folder, **options),
        "train_dataset": examples(8),
        "data_collator": collate,
    }
    return kind(qat=qat, **shared) if kind is QATTrainer else kind(callbacks=[qat], **shared)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {**load_file(folder / "model.safetensors"), **load_file(folder / "quantizer.safetensors")}


def assert_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert not different


def test_checkpoints_load_in_plain_transformers_without_missing_or_unexpected_keys(tiny_whisper_dir, tmp_path):
    make_trainer(tiny_whisper_dir, tmp_path).train()
    _, info = WhisperForConditionalGeneration.from_pretrained(tmp_path / "checkpoint-2", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    vanilla = load_file(tiny_whisper_dir / "model.safetensors")
    assert load_file(tmp_path / "checkpoint-2" / "model.safetensors").keys() == vanilla.keys()


@pytest.mark.parametrize("context", [EncoderContext(), None])
def test_on_a_gpu_no_attention_prepares_for_every_new_length(tiny_whisper_dir, context):
    model, qat = load_whisper(tiny_whisper_dir), QATCallback("int4", encoder_context=context)
    qat.prepare(model)
    args = SimpleNamespace(device=torch.device("cuda"), n_gpu=1, learning_rate=1e-3)
    torch.backends.cuda.enable_cudnn_sdp(True)
    qat.on_train_begin(args, TrainerState(), TrainerControl(), model)
    kept = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(True)
    assert kept is (context is None)


@pytest.mark.parametrize("kind", [QATTrainer, Seq2SeqTrainer])
def test_a_checkpoint_has_one_end_token_not_a_list(tiny_whisper_dir, tmp_path, kind):
    """Some versions of the Trainer make the list, which Whisper's own timestamps cannot read."""
    trainer = make_trainer(tiny_whisper_dir, tmp_path, kind, max_steps=1, save_steps=1)
    end = trainer.model.generation_config.eos_token_id
    trainer.model.generation_config.eos_token_id = [end]
    trainer.train()
    assert GenerationConfig.from_pretrained(tmp_path / "checkpoint-1").eos_token_id == end


def test_training_changes_weights_scales_and_integers_and_lowers_the_loss(tiny_whisper_dir, tmp_path):
    trainer = make_trainer(tiny_whisper_dir, tmp_path, max_steps=12, save_steps=12)
    trainer.train()
    state = load_file(tmp_path / "checkpoint-12" / "quantizer.safetensors")
    moved = [name for name in state if name.endswith(".scale_offset") and state[name].abs().max() > 0]
    assert len(moved) == sum(name.endswith(".scale_offset") for name in state)
    log = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert log[-1]["loss_ce"] < 0.9 * log[0]["loss_ce"]
    assert {"loss_ce", "loss_kl", "loss_encoder", "loss_decoder"} <= log[0].keys()


@pytest.mark.parametrize("kind", [QATTrainer, Seq2SeqTrainer])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(tiny_whisper_dir, tmp_path, kind):
    qat = {"loss_weights": DISTILLATION, "fake_quant_start_step": 1, "freeze_scales_step": 2}
    batches = [collate(examples(2, 9))]
    make_trainer(tiny_whisper_dir, tmp_path, kind, QATCallback("int4", calibration_batches=batches, **qat)).train()
    whole = tensors(tmp_path / "checkpoint-4")
    (tmp_path / "checkpoint-4").rename(tmp_path / "whole")
    resumed = make_trainer(tiny_whisper_dir, tmp_path, kind, QATCallback("int4", calibration_batches=batches, **qat))
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert_equal(whole, tensors(tmp_path / "checkpoint-4"))


def test_callback_in_an_unmodified_trainer_does_what_qat_trainer_does(tiny_whisper_dir, tmp_path):
    make_trainer(tiny_whisper_dir, tmp_path / "ours").train()
    make_trainer(tiny_whisper_dir, tmp_path / "theirs", Seq2SeqTrainer).train()
    assert_equal(tensors(tmp_path / "ours" / "checkpoint-4"), tensors(tmp_path / "theirs" / "checkpoint-4"))


@pytest.mark.parametrize("weights", [LossWeights(), DISTILLATION])
def test_gradient_accumulation_equals_one_large_batch(tiny_whisper_dir, tmp_path, weights):
    gradients = []
    for size, steps in ((4, 1), (1, 4)):
        model = load_whisper(tiny_whisper_dir)
        # Four clips with as many label tokens each: then the mean over tokens is the mean over micro-batches, too.
        rows = [{**row, "labels": row["labels"][:6]} for row in examples(4)]
        trainer = QATTrainer(
            model=model, train_dataset=rows, data_collator=collate,
            args=arguments(tmp_path, max_steps=1, per_device_train_batch_size=size, gradient_accumulation_steps=steps,
                           max_grad_norm=1e9, save_strategy="no"),
            qat=QATCallback("int4", loss_weights=LossWeights(weights.ce, weights.kl, 0.0, 0.0)),
        )  # fmt: skip
        trainer.train()
        gradients.append(next(e["grad_norm"] for e in trainer.state.log_history if "grad_norm" in e))
    assert gradients[1] == pytest.approx(gradients[0], rel=1e-3)


def test_schedule_starts_and_freezes_at_its_steps(tiny_whisper_dir, tmp_path):
    seen = []

    class Spy(QATCallback):
        def on_step_begin(self, args, state, control, model=None, **kwargs):
            super().on_step_begin(args, state, control, model=model, **kwargs)
            layer = dict(fake_quant_layers(model))["model.encoder.layers.0.fc1"]
            seen.append(
                (not layer.weight_quantizer.waits, layer.weight_quantizer.frozen, layer.weight_quantizer.scale.clone())
            )

    qat = Spy("int4", fake_quant_start_step=1, freeze_scales_step=3)
    make_trainer(tiny_whisper_dir, tmp_path, qat=qat, max_steps=5).train()
    assert [s[0] for s in seen] == [False, True, True, True, True]
    assert [s[1] for s in seen] == [False, False, False, True, True]
    assert not torch.equal(seen[1][2], seen[2][2])
    assert torch.equal(seen[3][2], seen[4][2])


def test_finished_checkpoint_is_folded_and_gives_the_trained_integers(tiny_whisper_dir, tmp_path):
    trainer = make_trainer(tiny_whisper_dir, tmp_path)
    trainer.train()
    trained = {}
    with torch.no_grad():
        for name, layer in fake_quant_layers(trainer.model):
            quantizer = layer.weight_quantizer
            weight = layer.weight if quantizer.equalization is None else layer.weight * quantizer.equalization
            trained[name] = (weight.flatten(1) / quantizer.steps.repeat_interleave(
                layer.weight[0].numel() // quantizer.steps.shape[1], 1)).round()  # fmt: skip
    batch = collate(examples(2, 5))
    trainer.model.eval()
    with torch.no_grad():
        before = trainer.model(**batch).logits
    trainer.qat.finish(trainer.model, tmp_path / "final")
    checkpoint = read_checkpoint(tmp_path / "final")
    assert set(checkpoint.quantized) == set(trained) - {"proj_out"}
    for name, weight in checkpoint.quantized.items():
        point = (
            0
            if weight.zero_point is None
            else np.repeat(weight.zero_point.astype(int), weight.integers.shape[1] // weight.zero_point.shape[1], 1)
        )
        low, high = weight.scheme.weight.qmin - point, weight.scheme.weight.qmax - point
        assert np.array_equal(weight.integers.astype(int) - point, np.clip(trained[name].numpy(), low, high))
    with torch.no_grad():
        assert torch.equal(load_fake_quant(tmp_path / "final")(**batch).logits, before)
        vanilla = WhisperForConditionalGeneration.from_pretrained(tmp_path / "final").eval()
        weight_only = load_fake_quant(tmp_path / "final", activations=False)
        assert torch.equal(vanilla(**batch).logits, weight_only(**batch).logits)


@pytest.mark.parametrize("freeze", [None, 3])
def test_best_checkpoint_brings_its_quantizers_back(tiny_whisper_dir, tmp_path, freeze):
    model = load_whisper(tiny_whisper_dir)
    trainer = QATTrainer(
        model=model, train_dataset=examples(8), eval_dataset=examples(2, 7), data_collator=collate,
        args=arguments(tmp_path, eval_strategy="steps", eval_steps=2, load_best_model_at_end=True,
                       metric_for_best_model="loss", greater_is_better=True),
        qat=QATCallback("int4", freeze_scales_step=freeze),
    )  # fmt: skip
    trainer.train()
    # The "best" loss is the largest here, so that the Trainer has to go back to the earlier checkpoint.
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-2")
    best = load_file(tmp_path / "checkpoint-2" / "quantizer.safetensors")
    layer = dict(fake_quant_layers(model))["model.decoder.layers.1.fc2"]
    assert torch.equal(layer.weight_quantizer.scale, best["model.decoder.layers.1.fc2.scale"])


def test_resuming_without_the_quantizers_is_a_clear_error(tiny_whisper_dir, tmp_path):
    make_trainer(tiny_whisper_dir, tmp_path).train()
    (tmp_path / "checkpoint-2" / "quantizer.json").unlink()
    with pytest.raises(QuantizationError, match=r"checkpoint-2 has no quantizer.json.*earlier checkpoint"):
        make_trainer(tiny_whisper_dir, tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


def test_resuming_with_another_group_size_names_the_layer(tiny_whisper_dir, tmp_path):
    make_trainer(tiny_whisper_dir, tmp_path).train()
    other = make_trainer(tiny_whisper_dir, tmp_path, qat=QATCallback(QuantizerConfig("int4", 16)))
    with pytest.raises(QuantizationError, match=r"the scale of model\.\S+ has shape \(\d+, \d+\), the model needs"):
        other.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


def test_resuming_with_other_rates_does_not_move_the_scales(tiny_whisper_dir, tmp_path):
    make_trainer(tiny_whisper_dir, tmp_path, learning_rate=3e-4).train()
    checkpoint = str(tmp_path / "checkpoint-2")
    with pytest.raises(
        QuantizationError, match=r"over learning_rate is 1, and the checkpoint was trained with 1\.66667, .*same factor"
    ):
        make_trainer(tiny_whisper_dir, tmp_path, learning_rate=5e-4).train(resume_from_checkpoint=checkpoint)
    # Whatever rounding makes of the ratio.
    assert 0.2 * 5e-4 / (0.2 * 3e-4) != 5e-4 / 3e-4
    slower = QATCallback("int4", loss_weights=DISTILLATION, scale_learning_rate=0.2 * 5e-4)
    make_trainer(tiny_whisper_dir, tmp_path, qat=slower, learning_rate=0.2 * 3e-4).train(
        resume_from_checkpoint=checkpoint
    )
    # No scale is learned, so none has a rate.
    fixed = {"qat": QATCallback(QuantizerConfig("int4", 32, learned_scales=False))}
    make_trainer(tiny_whisper_dir, tmp_path / "fixed", **fixed).train()
    make_trainer(tiny_whisper_dir, tmp_path / "fixed", **fixed, learning_rate=5e-4).train(
        resume_from_checkpoint=str(tmp_path / "fixed" / "checkpoint-2")
    )


def test_quantization_that_would_begin_after_the_end_is_refused(tiny_whisper_dir, tmp_path):
    qat = QATCallback("int4", fake_quant_start_step=4)
    with pytest.raises(QuantizationError, match="fake_quant_start_step is 4 and training ends at step 4"):
        make_trainer(tiny_whisper_dir, tmp_path, qat=qat, max_steps=-1, num_train_epochs=1.0).train()


def test_half_precision_that_an_evaluation_left_is_not_folded(tiny_whisper_dir, tmp_path):
    trainer = make_trainer(tiny_whisper_dir, tmp_path, max_steps=1)
    trainer.train()
    trainer.model.to(torch.bfloat16)  # as the Trainer does for bf16_full_eval
    with pytest.raises(QuantizationError, match="is torch.bfloat16"):
        trainer.qat.finish(trainer.model, tmp_path / "finished")
    assert not (tmp_path / "finished").exists()


def test_what_reports_of_the_training_are_told_has_the_terms_of_the_loss(tiny_whisper_dir, tmp_path):
    told = []

    class Board(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            told.append(dict(logs))

    trainer = make_trainer(tiny_whisper_dir, tmp_path, max_steps=2)
    trainer.callback_handler.callbacks.insert(0, Board())  # where the Trainer has those of `report_to`
    trainer.train()
    assert [{"loss_ce", "loss_kl"} <= logs.keys() for logs in told if "loss" in logs] == [True, True]
    assert all("loss_kl" in entry for entry in trainer.state.log_history if "loss" in entry)
    assert "epoch" in trainer.evaluate(examples(2))


def test_only_whisper_is_trained(tmp_path):
    with pytest.raises(ModelError, match="has a Linear"):
        Seq2SeqTrainer(model=torch.nn.Linear(2, 2), args=arguments(tmp_path), callbacks=[QATCallback("int8")])


@pytest.mark.parametrize(
    ("change", "mend"),
    [
        ({"vocab_size": 51866}, "the same$"),
        ({"num_mel_bins": 128}, "the same$"),
        ({"d_model": 128}, "encoder_weight and decoder_weight"),
    ],
)
def test_a_teacher_of_another_kind_is_refused_before_anything_is_computed(tiny_whisper_dir, tmp_path, change, mend):
    config = WhisperConfig.from_pretrained(tiny_whisper_dir, **change)
    teacher = WhisperForConditionalGeneration(config)
    qat = QATCallback("int8", loss_weights=DISTILLATION, teacher=teacher)
    with pytest.raises(
        ModelError, match=rf"^{next(iter(change))} is {next(iter(change.values()))} in the teacher's .*{mend}"
    ):
        make_trainer(tiny_whisper_dir, tmp_path, qat=qat)


def test_a_wider_teacher_may_teach_by_logits(tiny_whisper_dir, tmp_path):
    teacher = WhisperForConditionalGeneration(WhisperConfig.from_pretrained(tiny_whisper_dir, d_model=128))
    weights = LossWeights(ce=0.0, kl=1.0)
    qat = QATCallback("int8", calibration_batches=[collate(examples(2, 9))], loss_weights=weights, teacher=teacher)
    trainer = make_trainer(tiny_whisper_dir, tmp_path, qat=qat, max_steps=1)
    trainer.train()
    assert trainer.state.log_history[0]["loss_kl"] > 0


@pytest.mark.parametrize("kind", [QATTrainer, Seq2SeqTrainer])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_in_half_precision_are_refused(tiny_whisper_dir, tmp_path, kind, dtype):
    model = WhisperForConditionalGeneration.from_pretrained(tiny_whisper_dir, dtype=dtype)
    qat = QATCallback("int4")
    options = {"qat": qat} if kind is QATTrainer else {"callbacks": [qat]}
    expected = rf"model\.encoder\.conv1\.weight is {dtype}: .*dtype=torch\.float32.*--bf16 or --fp16"
    with pytest.raises(QuantizationError, match=expected):
        kind(model=model, args=arguments(tmp_path), train_dataset=examples(2), data_collator=collate, **options)
    assert not list(fake_quant_layers(model))


def test_saved_quantizer_config_is_what_was_asked(tiny_whisper_dir, tmp_path):
    config = QuantizerConfig("int4", 32, ("model.encoder.conv*",))
    trainer = make_trainer(tiny_whisper_dir, tmp_path, qat=QATCallback(config))
    trainer.save_model(str(tmp_path / "saved"))
    content = json.loads((tmp_path / "saved" / "quantizer.json").read_text())
    assert (content["target"], content["group_size"], content["skip_modules"]) == ("int4", 32, ["model.encoder.conv*"])
    assert "model.encoder.conv1" not in content["layers"] and "model.encoder.layers.0.fc1" in content["layers"]


def speech(count: int) -> list[dict[str, torch.Tensor]]:
    """Examples of half a second in a window of silence."""
    rows = examples(count)
    for row in rows:
        row["input_features"][:, 50:] = row["input_features"].min()
    return rows


@pytest.mark.parametrize("accumulation", [1, 2])
def test_gradient_checkpointing_changes_nothing_where_silence_is_folded(tiny_whisper_dir, tmp_path, accumulation):
    logs = []
    for checkpointing in (False, True):
        qat = QATCallback("int4", loss_weights=DISTILLATION, encoder_context=EncoderContext())
        trainer = QATTrainer(
            model=load_whisper(tiny_whisper_dir), train_dataset=speech(8), data_collator=collate, qat=qat,
            args=arguments(tmp_path, gradient_checkpointing=checkpointing, gradient_accumulation_steps=accumulation,
                           max_steps=2, save_strategy="no", eval_strategy="no"),
        )  # fmt: skip
        trainer.train()
        logs.append([(e["loss"], e["grad_norm"], e["loss_encoder"]) for e in trainer.state.log_history if "loss" in e])
        assert trainer.model.config.max_source_positions == 1500
    assert np.allclose(logs[0], logs[1], rtol=1e-5)


def test_folded_silence_trains_nearly_as_the_whole_window_does(tiny_whisper_dir, tmp_path):
    losses = []
    for context in (None, EncoderContext()):
        qat = QATCallback("int4", loss_weights=LossWeights(ce=1.0), encoder_context=context)
        trainer = QATTrainer(
            model=load_whisper(tiny_whisper_dir), train_dataset=speech(4), data_collator=collate, qat=qat,
            args=arguments(tmp_path, max_steps=1, save_strategy="no"),
        )  # fmt: skip
        trainer.train()
        losses.append(trainer.state.log_history[0]["loss"])
    assert losses[0] != losses[1] and losses[1] == pytest.approx(losses[0], rel=0.05)


def test_the_float_control_trains_like_qat_and_saves_a_vanilla_checkpoint(tiny_whisper_dir, tmp_path):
    qat = QATCallback(None, encoder_context=EncoderContext())
    trainer = QATTrainer(
        model=load_whisper(tiny_whisper_dir), train_dataset=speech(8), data_collator=collate, qat=qat,
        args=arguments(tmp_path / "run"),
    )  # fmt: skip
    trainer.train()
    qat.finish(trainer.model, tmp_path / "end")
    before, after = load_whisper(tiny_whisper_dir), load_whisper(tmp_path / "end")
    assert not torch.equal(before.model.encoder.layers[0].fc1.weight, after.model.encoder.layers[0].fc1.weight)
    # transformers 5 would train Whisper's sinusoids.
    assert torch.equal(before.model.encoder.embed_positions.weight, after.model.encoder.embed_positions.weight)
    assert encoder_context_of(after.config) == EncoderContext()
    assert not list(tmp_path.rglob("quantizer*"))
    assert next(fake_quant_layers(trainer.model), None) is None
    again = QATTrainer(
        model=load_whisper(tiny_whisper_dir), train_dataset=speech(8), data_collator=collate,
        qat=QATCallback(None, encoder_context=EncoderContext()), args=arguments(tmp_path / "run"),
    )  # fmt: skip
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    whole = load_file(tmp_path / "end" / "model.safetensors")
    assert_equal(whole, load_file(tmp_path / "run" / "checkpoint-4" / "model.safetensors"))


class Timed(list):
    """Examples that know how long they are."""

    @property
    def durations(self) -> list[float]:
        return [row["seconds"] for row in self]


def clips_of(seconds: list[float]) -> Timed:
    rows = examples(len(seconds))
    for row, duration in zip(rows, seconds, strict=True):
        row["input_features"][:, round(100 * duration) :] = row["input_features"].min()
        row["seconds"] = duration
    return Timed(rows)


def test_clips_of_one_length_are_batched_together_and_a_resumed_run_keeps_the_order(tiny_whisper_dir, tmp_path):
    seen: list[list[float]] = []

    def collate_and_note(rows: list[dict[str, object]]) -> dict[str, torch.Tensor]:
        seen.append([row["seconds"] for row in rows])
        return collate(rows)

    def train(**options: object) -> list[list[float]]:
        seen.clear()
        QATTrainer(
            model=load_whisper(tiny_whisper_dir), train_dataset=clips_of([4.0, 1.0] * 16), data_collator=collate_and_note,
            qat=QATCallback("int4", encoder_context=EncoderContext()),
            args=arguments(tmp_path, max_steps=20, save_steps=9, learning_rate=1e-4),
        ).train(**options)  # fmt: skip
        return list(seen)

    whole = train()
    assert len(whole) >= 20 and np.mean([len(set(batch)) == 1 for batch in whole]) > 0.7  # half of them by chance
    expected = tensors(tmp_path / "checkpoint-20")
    for step in (9, 18):
        train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
        assert_equal(expected, tensors(tmp_path / "checkpoint-20"))


@pytest.mark.parametrize("processes", [1, 2])
def test_the_order_of_a_resumed_epoch_is_that_of_the_epoch_with_any_number_of_processes(processes):
    """As the Trainer prepares it: with several processes, what orders the clips lies one layer deeper."""

    def batches(epoch: int, skipped: int) -> list[list[int]]:
        lengths = [1.0 + i % 7 for i in range(24)]
        sampler = _BatchesOfOneLength(2, [round(100 * length) for length in lengths], seed=3)
        prepared = prepare_data_loader(
            DataLoader(list(range(24)), batch_size=2, sampler=sampler), num_processes=processes, process_index=0
        )
        loader = skip_first_batches(prepared, skipped) if skipped else prepared
        loader.set_epoch(epoch)
        QATCallback("int8").on_epoch_begin(None, SimpleNamespace(epoch=epoch), None, train_dataloader=prepared)
        return [batch.tolist() for batch in loader]

    whole = batches(2, 0)
    assert batches(2, 3) == whole[3:] != batches(0, 3)


def test_a_checkpoint_that_was_still_being_saved_is_not_gone_on_from(tiny_whisper_dir, tmp_path):
    assert last_checkpoint(tmp_path) is None
    make_trainer(tiny_whisper_dir, tmp_path).train()
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-4"
    (tmp_path / "checkpoint-4" / "quantizer.json").unlink()
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-2"
    (tmp_path / "checkpoint-10").mkdir()
    (tmp_path / "checkpoint-10" / "model.safetensors").write_bytes(b"half")
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-2"


class Epochs(torch.utils.data.Dataset):
    """Clips that are others in each epoch."""

    def __init__(self, count: int) -> None:
        self.rows, self.epoch = examples(count), None

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, object]:
        assert self.epoch is not None
        return {
            **self.rows[index],
            "input_features": self.rows[index]["input_features"] + self.epoch,
            "epoch": self.epoch,
        }


def test_the_dataset_is_told_each_epoch_so_that_a_resumed_run_hears_the_same(tiny_whisper_dir, tmp_path):
    seen: list[int] = []

    def collate_and_note(rows: list[dict[str, object]]) -> dict[str, torch.Tensor]:
        seen.extend(row["epoch"] for row in rows)
        return collate(rows)

    def train(**options: object) -> list[int]:
        seen.clear()
        QATTrainer(
            model=load_whisper(tiny_whisper_dir), train_dataset=Epochs(6), data_collator=collate_and_note,
            qat=QATCallback("int8"), args=arguments(tmp_path, max_steps=8, save_steps=4),
        ).train(**options)  # fmt: skip
        return sorted(set(seen))

    assert train() == [0, 1, 2]
    expected = tensors(tmp_path / "checkpoint-8")
    assert train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))[-1] == 2
    assert_equal(expected, tensors(tmp_path / "checkpoint-8"))


def test_under_bf16_student_and_teacher_run_in_bf16_and_the_loss_is_nearly_the_same(
    tiny_whisper_dir, tmp_path, monkeypatch
):
    # transformers 4 writes it there, and every later trainer of the process would take it from there.
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    losses, kinds, scales = {}, set(), []
    for bf16 in (False, True):
        qat = QATCallback(
            "int4", loss_weights=DISTILLATION, encoder_context=EncoderContext(),
            calibration_batches=[collate(speech(2))], initial_rounding="gptq",
        )  # fmt: skip
        trainer = QATTrainer(
            model=load_whisper(tiny_whisper_dir), train_dataset=speech(4), data_collator=collate, qat=qat,
            args=arguments(tmp_path, max_steps=1, save_strategy="no", bf16=bf16),
        )  # fmt: skip
        teacher = qat._loss.teacher
        teacher.model.encoder.layers[0].fc1.register_forward_hook(
            lambda *a, seen=kinds, b=bf16: seen.add((b, a[2].dtype))
        )
        trainer.train()
        log = trainer.state.log_history[0]
        losses[bf16] = [log[f"loss_{name}"] for name in ("ce", "kl", "encoder", "decoder")]
        assert all(parameter.dtype == torch.float32 for parameter in trainer.model.parameters())
        scales.append([quantizer.initial_scale for quantizer in weight_quantizers(trainer.model)])
    # Where training starts from is no matter of its precision: the arm without training is the same, whoever made it.
    assert all(torch.equal(*pair) for pair in zip(*scales, strict=True))
    assert kinds == {(False, torch.float32), (True, torch.bfloat16)}
    assert losses[True] != losses[False] and losses[True] == pytest.approx(losses[False], rel=0.1)
