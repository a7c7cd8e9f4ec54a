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

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, state_dict)
        self.qat.save(self.accelerator.unwrap_model(self.model), output_dir or self.args.output_dir)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self.qat.restore(self.accelerator.unwrap_model(model or self.model), Path(resume_from_checkpoint))
