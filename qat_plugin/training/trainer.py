"""QATTrainer: `Seq2SeqTrainer` with a `QATCallback`, and its quantizers wherever the Trainer saves or loads a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn
from transformers import Seq2SeqTrainer

from qat_plugin.fake_quant import save_quantizer_state
from qat_plugin.training.callback import QATCallback


class QATTrainer(Seq2SeqTrainer):
    """A `Seq2SeqTrainer` that trains with fake quantization.

    Takes what `Seq2SeqTrainer` takes, and `qat`: a `QATCallback` (default: the `int8` target). `save_model` and checkpoints
    hold vanilla weights with the quantizers beside them; `train(resume_from_checkpoint=...)` restores both.
    """

    def __init__(
        self, *args: Any, qat: QATCallback | None = None, callbacks: list[Any] | None = None, **kwargs: Any
    ) -> None:
        self.qat = qat or QATCallback()
        super().__init__(*args, callbacks=[*(callbacks or []), self.qat], **kwargs)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, state_dict)
        if self.qat.quantizer is not None:
            model = self.accelerator.unwrap_model(self.model)
            save_quantizer_state(model, self.qat.quantizer, output_dir or self.args.output_dir)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self.qat.restore(self.accelerator.unwrap_model(model or self.model), Path(resume_from_checkpoint))
