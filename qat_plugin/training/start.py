"""What training starts from is also an arm, the target by GPTQ: kept when training has made it, for that takes minutes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from qat_plugin.models import load_fake_quant
from qat_plugin.training.callback import QATCallback

# In training's own folder, which belongs to one run, until `take_start` moves it.
_NAME = "start"


class KeepStart(TrainerCallback):
    """Writes the model as `qat` has calibrated it, folded, before the first step. It has to come behind `qat`."""

    def __init__(self, qat: QATCallback) -> None:
        self._qat = qat

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        processing_class: Any = None,
        **kwargs: Any,
    ) -> None:
        """Save a new run's start; a resumed one has it."""
        if state.global_step > 0 or not state.is_world_process_zero:
            return
        folder = Path(str(args.output_dir)) / _NAME
        partial = folder.with_name(f".{_NAME}.partial")
        self._qat.save(model, partial)
        model.save_pretrained(partial)
        # What is loaded is folded: training goes on with weights that still lie between what they were and what they round to.
        load_fake_quant(partial).save_pretrained(partial)
        processing_class.save_pretrained(partial)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)


def take_start(training_folder: Path, folder: Path) -> bool:
    """Move what `KeepStart` wrote to `folder`; False where there is nothing."""
    if not (training_folder / _NAME).is_dir():
        return False
    shutil.rmtree(folder, ignore_errors=True)
    (training_folder / _NAME).rename(folder)
    return True


def drop_start(training_folder: Path) -> None:
    """Delete what `KeepStart` wrote, where there is something."""
    shutil.rmtree(training_folder / _NAME, ignore_errors=True)
