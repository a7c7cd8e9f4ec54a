"""What a recipe's training hears: its corpora, with the teacher's transcripts where it asks for them."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments, WhisperForConditionalGeneration, WhisperProcessor

from qat_plugin.data.collator import SpeechSeq2SeqCollator
from qat_plugin.data.features import training_dataset
from qat_plugin.data.loading import load_training_corpora
from qat_plugin.data.revisions import RunRevisions
from qat_plugin.encoder_context import EncoderContext
from qat_plugin.prompt import is_multilingual
from qat_plugin.recipe import Recipe, training_speech
from qat_plugin.training.distillation import check_teacher
from qat_plugin.training.pseudo_labels import TeacherLabels


def encoder_context(recipe: Recipe) -> EncoderContext | None:
    """How the recipe wants silence folded; None: not at all."""
    return EncoderContext() if recipe.model.encoder_context == "auto" else None


def dataset_of(
    recipe: Recipe,
    names: list[str],
    model: Any,
    processor: WhisperProcessor,
    *,
    without_text: bool,
    speed_perturbation: float = 0.0,
) -> Any:
    """The corpora `names` as the recipe reads them; see `training_dataset`."""
    limit = recipe.data.max_label_length or model.config.max_target_positions
    return training_dataset(
        load_training_corpora(
            names, recipe.data, allow_missing_text=without_text, revisions=RunRevisions(str(recipe.training.output_dir))
        ),
        processor,
        recipe.data,
        language=recipe.model.language,
        task=recipe.model.task,
        max_label_length=limit,
        allow_missing_text=without_text,
        return_attention_mask=model.config.apply_spec_augment,
        speed_perturbation=speed_perturbation,
        process=(recipe.training.process_index, recipe.training.world_size),
        multilingual=is_multilingual(model.generation_config),
    )


def every_clip(recipe: Recipe, names: list[str], model: Any, processor: WhisperProcessor) -> Any:
    """Each clip by itself, and all of them; loaded, so that several processes measure each clip once."""
    whole = dataclasses.replace(recipe.data, max_train_samples=None, join_to_seconds=0.0, streaming=False)
    return dataset_of(dataclasses.replace(recipe, data=whole), names, model, processor, without_text=False)


def labelled_batches(
    recipe: Recipe, names: list[str], model: WhisperForConditionalGeneration, processor: WhisperProcessor
) -> list[dict[str, Any]]:
    """Every clip of the corpora `names` with its transcript, as the collator makes a batch of one."""
    collator = SpeechSeq2SeqCollator(processor, model.config.decoder_start_token_id)
    dataset = every_clip(recipe, names, model, processor)
    return [collator([dataset[i]]) for i in range(len(dataset))]


def spread_rows(dataset: Any, wanted: int, labels: TeacherLabels | None = None) -> list[dict[str, Any]]:
    """So many samples, spread over the whole dataset; the first ones of a stream. With `labels`, no others are made."""
    if not hasattr(dataset, "durations"):
        return list(itertools.islice(dataset, wanted))
    count = min(wanted, len(dataset))
    spread = [i * len(dataset) // count for i in range(count)]
    if labels is None:
        return [dataset[i] for i in spread]
    return [{**dataset[i], "labels": label} for i, label in labels.near(spread).items()]


@dataclasses.dataclass(frozen=True)
class TrainingSpeech:
    """The training speech, what makes batches of it and, where the teacher's transcripts are its labels, these."""

    dataset: Any
    collator: SpeechSeq2SeqCollator
    labels: TeacherLabels | None

    def heard(self, args: TrainingArguments) -> Any:
        """What is trained on, of which the teacher transcribes no more than so many steps hear."""
        return self.dataset if self.labels is None else self.labels.of(_heard(args, len(self.dataset)))

    def calibration_batches(self, wanted: int) -> list[dict[str, Any]] | None:
        """What is calibrated on; None where nothing is."""
        # One clip a batch: what is padded would be counted.
        return [self.collator([row]) for row in spread_rows(self.dataset, wanted, self.labels)] or None


def load_training_speech(
    recipe: Recipe,
    model: WhisperForConditionalGeneration,
    processor: WhisperProcessor,
    teacher: WhisperForConditionalGeneration | None,
) -> TrainingSpeech:
    """What the recipe trains on and is calibrated on.

    `teacher`: the recipe's, where it names one; otherwise `model`, before it is trained, is it.
    """
    names = [*recipe.data.train_corpora, *recipe.data.train_data]
    dataset = dataset_of(
        recipe, names, model, processor, without_text=recipe.distillation.pseudo_labels,
        speed_perturbation=recipe.data.speed_perturbation,
    )  # fmt: skip
    labels = None
    if recipe.distillation.pseudo_labels:
        labels = _teacher_labels(recipe, model, processor, teacher or model, dataset)
    return TrainingSpeech(dataset, SpeechSeq2SeqCollator(processor, model.config.decoder_start_token_id), labels)


def _teacher_labels(
    recipe: Recipe,
    model: WhisperForConditionalGeneration,
    processor: WhisperProcessor,
    teacher: WhisperForConditionalGeneration,
    dataset: Any,
) -> TeacherLabels:
    check_teacher(teacher, model, states=False)
    # The teacher hears clips as they were recorded.
    heard = training_speech(dataclasses.replace(recipe.data, speed_perturbation=0.0, validation_data=[]))
    context = encoder_context(recipe)
    return TeacherLabels(
        teacher,
        dataset,
        processor,
        # Beside the steps, for training, its control and the arms without training share it.
        Path(str(recipe.training.output_dir)) / "pseudo_labels.jsonl",
        inputs={
            "teacher": recipe.distillation.teacher_model_name_or_path or recipe.model.model_name_or_path,
            "language": recipe.model.language,
            "task": recipe.model.task,
            "samples": len(dataset),
            "encoder_context": recipe.model.encoder_context,
            **heard,
        },
        task=recipe.model.task,
        max_label_length=recipe.data.max_label_length or model.config.max_target_positions,
        context=None if context is None else context.finer(),
        device=recipe.training.device,
    )


def _heard(args: TrainingArguments, clips: int) -> Sequence[int]:
    """Which of so many clips are trained on: all, or, drawn by the seed, as many as `max_steps` steps hear once.

    Others need no labels, which a teacher makes about as fast as training hears them.
    """
    wanted = args.max_steps * args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    if args.max_steps <= 0 or wanted >= clips:
        return range(clips)
    generator = torch.Generator().manual_seed(args.seed if args.data_seed is None else args.data_seed)
    return sorted(torch.randperm(clips, generator=generator)[:wanted].tolist())
