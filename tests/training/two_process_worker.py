"""Trains two steps and saves: `torchrun --nproc-per-node N two_process_worker.py MODEL_DIR OUT_DIR BATCH_SIZE`."""

import sys

from test_training import arguments, collate, examples

from qat_plugin.models import load_whisper
from qat_plugin.training import LossWeights, QATCallback, QATTrainer

if __name__ == "__main__":
    model_dir, out_dir, batch_size = sys.argv[1:]
    args = arguments(
        out_dir, max_steps=2, save_steps=2, per_device_train_batch_size=int(batch_size), optim="sgd", learning_rate=1e-2,
        max_grad_norm=0.0,
    )  # fmt: skip
    trainer = QATTrainer(
        model=load_whisper(model_dir), args=args, train_dataset=examples(8), data_collator=collate,
        qat=QATCallback("int4", loss_weights=LossWeights(ce=1.0, kl=1.0), scale_learning_rate=1e-2),
    )  # fmt: skip
    trainer.train()
    trainer.accelerator.end_training()
