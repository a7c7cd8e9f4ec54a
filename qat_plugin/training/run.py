"""A recipe's training, from corpora to the folded checkpoint; and the untrained arms beside it."""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import (
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    WhisperForConditionalGeneration,
    WhisperProcessor,
)
from transformers.trainer import TRAINER_STATE_NAME

from qat_plugin.arms import PTQ_START, Arm
from qat_plugin.data.encoding import set_language
from qat_plugin.data.loading import Corpus, load_training_corpora
from qat_plugin.data.overlap import OverlapReport, assert_no_overlap
from qat_plugin.data.revisions import RunRevisions
from qat_plugin.encoder_context import EncoderContext, set_encoder_context
from qat_plugin.errors import RecipeError
from qat_plugin.evaluation.compute_metrics import compute_metrics_fn
from qat_plugin.fake_quant import QuantizerConfig
from qat_plugin.fake_quant.state import QUANTIZER_CONFIG
from qat_plugin.memory import freed_memory_kept, return_freed_memory
from qat_plugin.models import check_can_be_exported, load_fake_quant, load_processor, load_whisper
from qat_plugin.prompt import is_multilingual, language_and_task, up_to_limit
from qat_plugin.recipe import Recipe
from qat_plugin.training.callback import QATCallback
from qat_plugin.training.distillation import LossWeights
from qat_plugin.training.ptq import quantize_without_training
from qat_plugin.training.record import write_record
from qat_plugin.training.sensitivity import Sensitivity, measure_sensitivity
from qat_plugin.training.speech import dataset_of, encoder_context, every_clip, load_training_speech, spread_rows
from qat_plugin.training.start import KeepStart, take_start
from qat_plugin.training.trainer import QATTrainer


def quantizer_config(recipe: Recipe) -> QuantizerConfig:
    """The recipe's quantization as `prepare` takes it."""
    q = recipe.quantization
    return QuantizerConfig(
        q.target, q.group_size, tuple(q.skip_modules), q.learned_scales, tuple(q.int8_modules), q.hot_tokens
    )


def load_model(recipe: Recipe) -> tuple[WhisperForConditionalGeneration, WhisperProcessor]:
    """The float model and its processor, with language and task set in both, unless the model knows English only.

    Raises `ModelError` when the model lacks something that export or evaluation needs, which hours later would be too late.
    """
    model_args = recipe.model
    model = load_whisper(model_args.model_name_or_path, model_args.model_revision)
    processor = load_processor(model_args.model_name_or_path, model_args.model_revision)
    check_can_be_exported(model, processor)
    asked = language_and_task(model.generation_config, model_args.language, model_args.task)
    set_language(processor, model_args.language, model_args.task, multilingual=is_multilingual(model.generation_config))
    limit, asked_limit = model.config.max_target_positions, recipe.data.max_label_length
    if asked_limit is not None and asked_limit > limit:
        raise RecipeError(
            f"max_label_length is {asked_limit} and the model writes {limit} tokens at most (max_target_positions): "
            "lower it, or leave it out"
        )
    # Generation asks for them by keyword; a list of forced ids beside that is refused by transformers.
    model.generation_config.forced_decoder_ids = None
    model.config.forced_decoder_ids = None
    # The exported files write as far as evaluation lets every arm write.
    model.generation_config = up_to_limit(model.generation_config, limit)
    if asked:
        model.generation_config.language = model_args.language
        model.generation_config.task = model_args.task
    if model_args.freeze_encoder:
        model.freeze_encoder()
    return model, processor


def check_overlap(recipe: Recipe, test: Sequence[Corpus]) -> OverlapReport:
    """Refuse with `DataError` to train on audio that is tested on; shared texts are counted and reported."""
    data, revisions = recipe.data, RunRevisions(str(recipe.training.output_dir))
    # One after the other: corpora for training and for validation may share a name.
    heard = [
        corpus
        for names in ([*data.train_corpora, *data.train_data], data.validation_data)
        for corpus in load_training_corpora(names, data, allow_missing_text=True, revisions=revisions)
    ]
    return assert_no_overlap(heard, test)


def calibration_features(recipe: Recipe) -> list[NDArray[np.float32]]:
    """Whole-window log-mel `(1, mels, frames)` of the clips that the recipe calibrates on; what is said in them does not matter."""
    model, processor = load_model(recipe)
    names = [*recipe.data.train_corpora, *recipe.data.train_data]
    dataset = dataset_of(recipe, names, model, processor, without_text=True)
    rows = spread_rows(dataset, recipe.quantization.calibration_samples)
    return [np.asarray(row["input_features"], np.float32)[None] for row in rows]


def _teacher(recipe: Recipe) -> WhisperForConditionalGeneration | None:
    name = recipe.distillation.teacher_model_name_or_path
    return None if name is None else load_whisper(name, field="teacher_model_name_or_path")


def make_trainer(recipe: Recipe, folder: Path, *, quantized: bool = True) -> QATTrainer:
    """The recipe's trainer, writing checkpoints to `folder`; `quantized=False` trains the control, in float.

    Raises `RecipeError` when accelerate's configuration has a mixed precision that the recipe does not.
    """
    _check_precision(recipe)
    model, processor = load_model(recipe)
    teacher = _teacher(recipe)
    # A copy: the recipe's own output_dir is the folder of the whole run.
    args = copy.copy(recipe.training)
    args.output_dir = str(folder)
    # First, for what is wrong with it should not be found behind hours of a teacher's transcripts.
    validation = None
    if recipe.data.validation_data:
        validation = every_clip(recipe, recipe.data.validation_data, model, processor)
    with args.main_process_first(desc="training data"):
        speech = load_training_speech(recipe, model, processor, teacher)
        dataset = speech.heard(args)
        # It may need more labels, which no two processes are to make at once.
        calibration = speech.calibration_batches(recipe.quantization.calibration_samples)
    q, d = recipe.quantization, recipe.distillation
    qat = QATCallback(
        quantizer_config(recipe) if quantized else None,
        weight_observer=q.weight_observer,
        calibration_batches=calibration,
        initial_rounding=q.initial_rounding if quantized else "nearest",
        scale_learning_rate=q.scale_learning_rate,
        activations=q.fake_quantize_activations,
        fake_quant_start_step=q.fake_quant_start_step,
        freeze_scales_step=q.freeze_scales_step,
        loss_weights=LossWeights(
            d.ce_weight, d.kl_weight, d.encoder_weight, d.decoder_weight, d.distillation_temperature
        ),
        teacher=teacher,
        encoder_context=encoder_context(recipe),
    )
    return QATTrainer(
        model=model,
        args=args,
        qat=qat,
        train_dataset=dataset,
        eval_dataset=validation,
        data_collator=speech.collator,
        processing_class=processor,
        compute_metrics=compute_metrics_fn(processor.tokenizer, recipe.evaluation.normalizer)
        if args.predict_with_generate
        else None,
    )


def _check_precision(recipe: Recipe) -> None:
    """Refuse a mixed precision that accelerate brings and the recipe, which card and run are told by, does not know of."""
    args = recipe.training
    brought = os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    if brought != "no" and not (args.bf16 or args.fp16):
        raise RecipeError(
            f"bf16 and fp16 are false, and accelerate's configuration has mixed_precision {brought!r}, in which the Trainer would "
            "train all the same: set bf16 or fp16 to true in the recipe, or start with `accelerate launch --mixed_precision no`"
        )


class _ReturnMemory(TrainerCallback):
    """Bounds what `freed_memory_kept` keeps. After every step, it would be the slowness that the other one mends."""

    every_steps = 4

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step % self.every_steps == 0:
            return_freed_memory()


def run_training(recipe: Recipe, folder: Path, *, quantized: bool = True) -> None:
    """Train to the end, from the last checkpoint in `folder` if there is one, and write the folded checkpoint there."""
    trainer = make_trainer(recipe, folder, quantized=quantized)
    if quantized and recipe.quantization.initial_rounding == "gptq" and PTQ_START in recipe.evaluation.arms:
        trainer.add_callback(KeepStart(trainer.qat))
    with contextlib.ExitStack() as stack:
        if trainer.args.device.type == "cpu":
            trainer.add_callback(_ReturnMemory())
            stack.enter_context(freed_memory_kept())
        trainer.train(resume_from_checkpoint=last_checkpoint(folder))
    trainer.save_state()
    if trainer.is_world_process_zero():
        trainer.qat.finish(trainer.accelerator.unwrap_model(trainer.model), folder)
        trainer.processing_class.save_pretrained(folder)
        models = {
            "model_name_or_path": recipe.model.model_name_or_path,
            "teacher_model_name_or_path": recipe.distillation.teacher_model_name_or_path,
        }
        write_record(trainer, folder, models)
    # No process goes on to what reads the checkpoint before it is written.
    trainer.accelerator.wait_for_everyone()


def last_checkpoint(folder: Path) -> Path | None:
    """The latest checkpoint that is whole; one that a stopped run was still saving is left out, and written again."""
    # Quantizers are saved last, behind the Trainer's own state; the float control has none.
    whole = [path.parent for path in folder.glob(f"checkpoint-*/{TRAINER_STATE_NAME}")]
    if any((path / QUANTIZER_CONFIG).is_file() for path in whole):
        whole = [path for path in whole if (path / QUANTIZER_CONFIG).is_file()]
    return max(whole, key=lambda path: int(path.name.split("-")[1]), default=None)


def end_process_group() -> None:
    """Leave the processes' group in order, where there is one; without that several processes may abort at exit."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def save_float_arm(recipe: Recipe, folder: Path, context: EncoderContext | None = None) -> None:
    """The float model as the other arms are saved."""
    model, processor = load_model(recipe)
    set_encoder_context(model.config, context)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def measure_parts(recipe: Recipe, quantized: Path, max_clips: int = 32) -> list[Sensitivity]:
    """What quantizing each part alone does on training speech; `quantized` is the checkpoint of a ptq arm."""
    teacher, processor = load_model(recipe)
    speech = load_training_speech(recipe, teacher, processor, _teacher(recipe))
    batches = speech.calibration_batches(max_clips)
    return measure_sensitivity(load_fake_quant(quantized), teacher, batches or (), encoder_context(recipe))


def run_ptq(recipe: Recipe, arm: Arm, folder: Path, *, training_folder: Path, fine_tuned_folder: Path) -> None:
    """Write a ptq arm, calibrated on the speech that training calibrates on; the one that training started from is there."""
    assert arm.method is not None
    if arm.name == PTQ_START and take_start(training_folder, folder):
        return
    model, processor = load_model(recipe)
    batches = None
    if arm.method != "rtn":
        speech = load_training_speech(recipe, model, processor, _teacher(recipe))
        batches = speech.calibration_batches(recipe.quantization.calibration_samples)
        del speech  # and a teacher that may be larger than the model
    if arm.fine_tuned:
        model = load_whisper(fine_tuned_folder)
    quantize_without_training(
        model,
        quantizer_config(recipe),
        folder,
        method=arm.method,
        calibration_batches=batches,
        encoder_context=encoder_context(recipe),
    )
    processor.save_pretrained(folder)
