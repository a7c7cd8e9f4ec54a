"""QATCallback: quantization-aware training for any `Seq2SeqTrainer`.

The schedule is calibrate → fake quantization on at a step → scales frozen at a step. Each decision compares with
`global_step`, so a resumed run is the uninterrupted one.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate.state import AcceleratorState
from tqdm.auto import tqdm
from transformers import (
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    WhisperForConditionalGeneration,
)
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from qat_plugin.encoder_context import EncoderContext, EvaluationContext, in_context, set_encoder_context
from qat_plugin.errors import ModelError, QuantizationError
from qat_plugin.fake_quant import (
    QuantizerConfig,
    calibrate,
    fold,
    freeze_scales,
    load_quantizer_state,
    save_quantizer_state,
)
from qat_plugin.fake_quant.insertion import set_fake_quant_in_training, set_scale_learning_ratio, unfreeze_scales
from qat_plugin.fake_quant.observers import ScaleSearch, WeightObserver, search_mse
from qat_plugin.fake_quant.positions import sharpen_positions
from qat_plugin.fake_quant.processes import take_from_first
from qat_plugin.fake_quant.requirements import check_full_precision, check_no_adapters, check_trainable
from qat_plugin.fake_quant.state import read_scale_learning_ratio, read_start, weights_digest
from qat_plugin.training.distillation import LossWeights, TrainingLoss
from qat_plugin.training.supported import check_arguments, check_optimizer

InitialRounding = Literal["nearest", "gptq"]

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class QATCallback(TrainerCallback):
    """Fake quantization, its schedule and its loss inside an unmodified `Seq2SeqTrainer`.

    ::

        trainer = Seq2SeqTrainer(model=model, ..., callbacks=[QATCallback("int4")])

    It prepares the model when the trainer is made (before the optimizer), saves the quantizers into each checkpoint and
    restores them when training resumes (with another Trainer than `QATTrainer`, from a checkpoint in its own `output_dir`).
    Evaluation and generation compute what would ship: quantized, silence folded. After training, `finish(model, folder)`
    writes the checkpoint to export.

    Args:
        quantizer: a target ("int8", "int4"), a `QuantizerConfig`, or None for float: the same training without fake
            quantization, which shows what of a gain is fine-tuning.
        weight_observer: how first scales are found, "mse" or "minmax".
        calibration_batches: batches (as the collator makes them) whose activations weight the search of "mse".
        initial_rounding: what training starts from: "nearest" integers, or GPTQ's, which needs `calibration_batches`.
        scale_learning_rate: relative change of a scale per optimizer step at the schedule's peak.
        activations: simulate what the operator does to its input.
        fake_quant_start_step: optimizer step at which training with fake quantization starts; evaluation always has it.
        freeze_scales_step: optimizer step from which scales stand still; None: never.
        loss_weights: terms of the loss; with weights for a teacher, `teacher` or else a copy of the float model teaches.
        teacher: float model; None: a copy of the model as it is when the trainer is made.
        encoder_context: how the silence behind clips is folded, in training and by what is exported; None: not at all.

    Raises `ModelError` when the model is not a Whisper or the teacher not one for it, and `QuantizationError` when the model
    cannot be quantized or trained as asked.
    """

    def __init__(
        self,
        quantizer: str | QuantizerConfig | None = "int8",
        *,
        weight_observer: WeightObserver = "mse",
        calibration_batches: Iterable[dict[str, Any]] | None = None,
        initial_rounding: InitialRounding = "nearest",
        scale_learning_rate: float = 5e-4,
        activations: bool = True,
        fake_quant_start_step: int = 0,
        freeze_scales_step: int | None = None,
        loss_weights: LossWeights | None = None,
        teacher: WhisperForConditionalGeneration | None = None,
        encoder_context: EncoderContext | None = None,
    ) -> None:
        self.quantizer = QuantizerConfig(quantizer, 32) if isinstance(quantizer, str) else quantizer
        self.weight_observer: WeightObserver = weight_observer
        self.calibration_batches = calibration_batches
        self.initial_rounding = initial_rounding
        self.scale_learning_rate = scale_learning_rate
        self.activations = activations
        self.fake_quant_start_step = fake_quant_start_step
        self.freeze_scales_step = freeze_scales_step
        self.loss_weights = loss_weights or LossWeights()
        self.teacher = teacher
        self.encoder_context = encoder_context
        if initial_rounding == "gptq" and (calibration_batches is None or weight_observer != "mse"):
            raise QuantizationError(
                "initial_rounding is 'gptq', which rounds by what it sees on speech, with weight_observer 'mse': give "
                "`calibration_batches` (the recipe's calibration_samples)"
            )
        self.restored = False
        self._restored_ratio: float | None = None
        self._started_from: str | None = None
        self._loss: TrainingLoss | None = None

    def on_init_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Prepare the model: learned scales must exist before the optimizer is made."""
        accelerated = AcceleratorState()
        check_arguments(args, accelerated)
        if self.quantizer is not None:
            self._started_from = weights_digest(model)
        self.prepare(model, _AUTOCAST.get(accelerated.mixed_precision))

    def prepare(self, model: Any, autocast: torch.dtype | None = None) -> None:
        """Put fake quantization and the loss into `model`, in place; `autocast` is the precision that it is trained in."""
        # First: PEFT's own wrapper of a Whisper is no Whisper either, and merging mends both.
        check_no_adapters(model)
        if not isinstance(model, WhisperForConditionalGeneration):
            raise ModelError(
                f"QATCallback trains a WhisperForConditionalGeneration, the trainer has a {type(model).__name__}"
            )
        for earlier in _installed(model):
            earlier.remove()
        teacher = copy.deepcopy(model) if self._is_own_teacher else self.teacher
        if self.quantizer is not None:
            self.quantizer.prepare(model, activations=self.activations, weight_observer=self.weight_observer)
        else:
            # As `prepare` does, so that the control trains what QAT trains, and its quantized rival stores no table either.
            sharpen_positions(model.model.encoder.embed_positions.weight)
        set_encoder_context(model.config, self.encoder_context)
        if self.encoder_context is not None:
            EvaluationContext(model, self.encoder_context)
        self._loss = TrainingLoss(model, self.loss_weights, teacher, self.encoder_context, autocast)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Calibrate a new run; restore the quantizers of a resumed one."""
        if args.n_gpu > 1:
            raise QuantizationError(
                f"this process sees {args.n_gpu} GPUs, which the Trainer would join by nn.DataParallel: its threads share one "
                "teacher. Start with `accelerate launch`, a process for each GPU, or show one, as in CUDA_VISIBLE_DEVICES=0"
            )
        if self._loss is None:
            raise QuantizationError(
                "QATCallback was added when the trainer had been made, and has prepared nothing: give it to the trainer as "
                "Seq2SeqTrainer(..., callbacks=[qat])"
            )
        # What an earlier training that was stopped has left open.
        self.release()
        if self._loss not in _installed(model):
            raise QuantizationError(
                "the model that is about to be trained is not the one that this trainer's QATCallback has prepared: `model_init` makes "
                "another one for each train(), and a trainer that is made later takes a model over; make a trainer with `model=`"
            )
        check_trainable(model)
        check_optimizer(model, kwargs.get("optimizer"))
        end = model.generation_config.eos_token_id
        if isinstance(end, list) and len(end) == 1:
            # transformers 5.17's Trainer makes a list of it, with which Whisper's own timestamps fail.
            model.generation_config.eos_token_id = end[0]
        if self.encoder_context is not None and args.device.type == "cuda":
            # cuDNN's attention prepares for every new length, which takes longer than a step, and here each batch has its own.
            torch.backends.cuda.enable_cudnn_sdp(False)
        if self.quantizer is None:
            return
        check_full_precision(model)
        if args.learning_rate <= 0:
            raise QuantizationError(
                f"learning_rate is {args.learning_rate}: quantization-aware training needs one above 0"
            )
        if 0 < state.max_steps <= self.fake_quant_start_step:
            raise QuantizationError(
                f"fake_quant_start_step is {self.fake_quant_start_step} and training ends at step {state.max_steps}: nothing would "
                "be trained quantized; lower the first"
            )
        ratio = self.scale_learning_rate / args.learning_rate
        if state.global_step > 0:
            if not self.restored:
                self.restore(model, Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}")
            # The next train() may begin elsewhere.
            self.restored = False
            if self._restored_ratio is not None and not math.isclose(self._restored_ratio, ratio, rel_tol=1e-6):
                raise QuantizationError(
                    f"scale_learning_rate over learning_rate is {ratio:g}, and the checkpoint was trained with "
                    f"{self._restored_ratio:g}, without which its scales are others: change both by the same factor, or neither"
                )
        else:
            unfreeze_scales(model)
            # One for all: each process may have calibration batches of its own, as of a stream.
            if state.is_world_process_zero:
                self.calibrate(model, args.device)
            take_from_first(model)
        set_scale_learning_ratio(model, ratio)
        self._schedule(model, state.global_step)

    def on_epoch_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        train_dataloader: Any = None,
        **kwargs: Any,
    ) -> None:
        """Tell the dataset and what orders it their epoch.

        Accelerate does not, where it skips the batches that a resumed run has seen: the dataset never hears of it, and of
        several processes the sampler, which lies deeper than accelerate looks, would give the first epoch's order again.
        """
        epoch, sampler = int(state.epoch or 0), getattr(train_dataloader, "batch_sampler", None)
        while (inner := getattr(sampler, "batch_sampler", None)) is not None:
            sampler = inner
        for told in (getattr(train_dataloader, "dataset", None), getattr(sampler, "sampler", None)):
            if told is not None and hasattr(told, "set_epoch"):
                told.set_epoch(epoch)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Follow the schedule."""
        self._schedule(model, state.global_step)

    def on_substep_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """After each backward pass of a step but the last."""
        self.release()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """After the last backward pass of a step."""
        self.release()

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Put the quantizers beside the weights."""
        if state.is_world_process_zero:
            self.save(model, Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Where the Trainer went back to its best checkpoint, so do the quantizers."""
        best = state.best_model_checkpoint if args.load_best_model_at_end else None
        if best is not None and self.quantizer is not None:
            # The scales in force at that step, whether or not they have been frozen since.
            load_quantizer_state(model, Path(best), training=False)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Add the terms of the loss to the log, where `QATTrainer` has not: what reports to TensorBoard and the like is told
        before this callback is."""
        if logs is not None:
            terms = self.loss_terms(logs)
            logs.update(terms)
            state.log_history[-1].update(terms)

    def loss_terms(self, logs: dict[str, float]) -> dict[str, float]:
        """The mean of each term of the loss since it was asked for last, if these `logs` have the loss."""
        if self._loss is None or "loss" not in logs:
            return {}
        return {name: round(value, 6) for name, value in self._loss.pop_means().items()}

    def calibrate(
        self, model: WhisperForConditionalGeneration, device: torch.device, search: ScaleSearch = search_mse
    ) -> None:
        """Search the first scales again with the activations of `calibration_batches`; without any, by the weights alone."""
        if self.quantizer is None or self.weight_observer != "mse":
            return
        batches = self.calibration_batches
        if batches is None:
            # What `prepare` has done is not done twice.
            if search is not search_mse:
                calibrate(model, None, search)
            return

        def run() -> None:
            for batch in tqdm(batches, desc="calibrating", unit="batch"):
                inputs = {name: value.to(device) for name, value in batch.items()}
                with in_context(model, self.encoder_context, inputs["input_features"]) as features:
                    model(**{**inputs, "input_features": features})

        # In evaluation mode, so that SpecAugment and dropout change nothing.
        was_training = model.training
        model.eval()
        with _in_full_precision(model):
            calibrate(model, run, search, with_gptq=self.initial_rounding == "gptq")
        model.train(was_training)

    def restore(self, model: WhisperForConditionalGeneration, checkpoint: Path) -> None:
        """Load the quantizers of a checkpoint, whose weights `model` has. Raises `QuantizationError` when it has none or others,
        or belongs to a run that began with other weights than this one."""
        if self.quantizer is None:
            return
        self._check_start(model, checkpoint)
        load_quantizer_state(model, checkpoint, training=True)
        self._restored_ratio = read_scale_learning_ratio(checkpoint)
        self.restored = True

    def finish(self, model: WhisperForConditionalGeneration, folder: str | Path) -> None:
        """Fold the weights and write the checkpoint that `export` reads: vanilla files, quantizers beside them.

        Raises `QuantizationError` when the model is in half precision meanwhile, as `bf16_full_eval` leaves it.
        """
        self.release()
        if self.quantizer is not None:
            check_full_precision(model)
            set_fake_quant_in_training(model, True)
            fold(model)
            self.save(model, folder)
        model.save_pretrained(folder)

    def release(self) -> None:
        """Let the model be as it is between steps, where one was stopped on its way, too."""
        if self._loss is not None:
            self._loss.release()

    def save(self, model: WhisperForConditionalGeneration, folder: str | Path) -> None:
        """Write the quantizers to `folder`; of float there are none. Raises `QuantizationError` as `finish` does."""
        if self.quantizer is not None:
            check_full_precision(model)
            save_quantizer_state(model, self.quantizer, folder, started_from=self._started_from)

    def _check_start(self, model: WhisperForConditionalGeneration, checkpoint: Path) -> None:
        began, own = read_start(checkpoint), self._started_from
        if began is None or own is None or began == own:
            return
        if self._is_own_teacher or own != weights_digest(model):
            raise QuantizationError(
                f"{checkpoint} is of a run that began with other weights ({began[:12]}) than this trainer's model has "
                f"({own[:12]}): give the trainer the model that the run began with, and it loads the checkpoint's weights "
                "itself; or begin a new run in another output_dir"
            )
        # A model that was loaded from the checkpoint itself, where nothing else depends on what it was at first.
        self._started_from = began

    @property
    def _is_own_teacher(self) -> bool:
        return self.teacher is None and self.loss_weights.needs_teacher

    def _schedule(self, model: WhisperForConditionalGeneration, step: int) -> None:
        if self.quantizer is None:
            return
        # Evaluation before that step measures what would ship, too: the best checkpoint is chosen by it.
        set_fake_quant_in_training(model, step >= self.fake_quant_start_step)
        if self.freeze_scales_step is not None and step >= self.freeze_scales_step:
            freeze_scales(model)


@contextmanager
def _in_full_precision(model: Any) -> Iterator[None]:
    """Take accelerate's autocast off: what training starts from is also an arm, and the same whatever it is trained in."""
    wrapped, own = model.__dict__.get("forward"), model.__dict__.get("_original_forward")
    if own is None:
        yield
        return
    model.forward = own
    try:
        yield
    finally:
        model.forward = wrapped


def _installed(model: Any) -> set[TrainingLoss | EvaluationContext]:
    """What trainers have put into the model beside quantizers."""
    hooks = [hook for part in (model, model.model.encoder) for hook in part._forward_pre_hooks.values()]
    owners = {getattr(hook, "__self__", None) for hook in hooks}
    return {owner for owner in owners if isinstance(owner, (TrainingLoss, EvaluationContext))}
