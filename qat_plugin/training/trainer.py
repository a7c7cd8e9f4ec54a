"""QATTrainer: `Seq2SeqTrainer` with a `QATCallback`, and its quantizers wherever the Trainer saves or loads a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from accelerate.data_loader import prepare_data_loader
from torch import nn
from torch.utils.data import DataLoader, Sampler
from transformers import Seq2SeqTrainer
from transformers.trainer_pt_utils import LengthGroupedSampler

from qat_plugin.data.streaming import TrainingStream
from qat_plugin.prompt import generating_to_limit, is_multilingual
from qat_plugin.training.callback import QATCallback


class _BatchesOfOneLength(LengthGroupedSampler):
    """The Trainer's own sampler, its order a matter of seed and epoch alone, so that a resumed run goes on in it."""

    def __init__(self, batch_size: int, lengths: list[int], seed: int) -> None:
        super().__init__(batch_size, lengths=lengths, generator=torch.Generator().manual_seed(seed))
        self.seed = seed

    def set_epoch(self, epoch: int) -> None:
        self.generator.manual_seed(self.seed + epoch)


class QATTrainer(Seq2SeqTrainer):
    """A `Seq2SeqTrainer` that trains with fake quantization.

    Takes what `Seq2SeqTrainer` takes, and `qat`: a `QATCallback` (default: the `int8` target). `save_model` and checkpoints
    hold vanilla weights with the quantizers beside them; `train(resume_from_checkpoint=...)` restores both.

    With an `encoder_context`, a batch costs what its longest clip does: where the training dataset has `durations` (seconds
    of each sample), clips of about the same length are batched together.

    With `predict_with_generate`, evaluation transcribes each clip in the language and task that its labels begin with, and to
    the model's length limit unless `generation_max_length` sets another.
    """

    def __init__(
        self, *args: Any, qat: QATCallback | None = None, callbacks: list[Any] | None = None, **kwargs: Any
    ) -> None:
        self.qat = qat or QATCallback()
        super().__init__(*args, callbacks=[*(callbacks or []), self.qat], **kwargs)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The Trainer's own; of a stream, which gives each process its own rows, one that is not divided once more."""
        if not isinstance(self.train_dataset, TrainingStream):
            return super().get_train_dataloader()  # type: ignore[no-any-return]
        args = self.args
        loader = DataLoader(
            self.train_dataset,
            batch_size=self._train_batch_size,
            collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            prefetch_factor=args.dataloader_prefetch_factor,
        )
        prepared: DataLoader[Any] = prepare_data_loader(
            loader, args.device, num_processes=1, process_index=0, put_on_device=True, dispatch_batches=False
        )
        return prepared

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int] | None:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        durations = getattr(dataset, "durations", None)
        if self.qat.encoder_context is None or durations is None:
            return super()._get_train_sampler(train_dataset)  # type: ignore[no-any-return]
        step = self.args.train_batch_size * self.args.gradient_accumulation_steps
        lengths = [round(1000 * seconds) for seconds in durations]
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return _BatchesOfOneLength(step, lengths, seed)

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
        **gen_kwargs: Any,
    ) -> tuple[float | None, torch.Tensor | None, torch.Tensor | None]:
        """As `Seq2SeqTrainer`'s, which would transcribe all clips in the one language of the generation config."""
        whisper = self.accelerator.unwrap_model(self.model)
        told = _prompt_of(inputs["labels"], whisper) if "labels" in inputs else {}
        asked = {**told, **(gen_kwargs or getattr(self, "_gen_kwargs", {}))}
        with generating_to_limit(whisper):
            step: tuple[float | None, torch.Tensor | None, torch.Tensor | None] = super().prediction_step(
                model, inputs, prediction_loss_only, ignore_keys, **asked
            )
        return step

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """As the Trainer's, with the terms of the loss."""
        # In place, as the Trainer adds the epoch to what `evaluate` and `train` return.
        logs.update(self.qat.loss_terms(logs))
        super().log(logs, *args, **kwargs)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        self.qat.release()
        super()._save(output_dir, state_dict)
        self.qat.save(self.accelerator.unwrap_model(self.model), output_dir or self.args.output_dir)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self.qat.restore(self.accelerator.unwrap_model(model or self.model), Path(resume_from_checkpoint))


def _prompt_of(labels: torch.Tensor, whisper: Any) -> dict[str, Any]:
    """The `language` of each row and the `task` of all, as arguments of `generate`; none where labels do not begin with them."""
    settings = vars(whisper.generation_config)
    if not is_multilingual(whisper.generation_config) or "lang_to_id" not in settings:
        return {}
    codes = {token: name.strip("<|>") for name, token in settings["lang_to_id"].items()}
    tasks = {token: name for name, token in settings.get("task_to_id", {}).items()}
    # The model puts the start token in front; some collators leave it in the labels, too.
    begins = [row[row[0] == whisper.config.decoder_start_token_id :][:2] for row in labels[:, :3].tolist()]
    languages = [codes.get(row[0]) if row else None for row in begins]
    if None in languages:
        return {}
    spoken = {tasks.get(token) for row in begins for token in row[1:]}
    task = spoken.pop() if len(spoken) == 1 else None
    return {"language": languages, **({} if task is None else {"task": task})}
