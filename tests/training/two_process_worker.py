"""Trains two steps and saves: `torchrun --nproc-per-node N two_process_worker.py MODEL_DIR OUT_DIR BATCH_SIZE [calibrated]`.

With `calibrated`, each process calibrates on clips of its own, and what each has in the end is saved to OUT_DIR/RANK.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from test_training import arguments, collate, examples

from qat_plugin.models import load_whisper
from qat_plugin.training import LossWeights, QATCallback, QATTrainer

if __name__ == "__main__":
    model_dir, out_dir, batch_size, *mode = sys.argv[1:]
    args = arguments(
        out_dir, max_steps=2, save_steps=2, per_device_train_batch_size=int(batch_size), optim="sgd",
        learning_rate=1e-5 if mode else 1e-2, max_grad_norm=0.0,
    )  # fmt: skip
    model = load_whisper(model_dir)
    qat = QATCallback("int4", loss_weights=LossWeights(ce=1.0, kl=1.0), scale_learning_rate=1e-2)
    if mode:
        with torch.no_grad():
            # A channel behind GELU that outgrows the rest, so that the layer behind it is equalized.
            model.model.encoder.layers[0].fc1.weight[0] *= 100
        clips = [collate(examples(2, 20 + args.process_index))]
        qat = QATCallback("int8", calibration_batches=clips, initial_rounding="gptq")
    trainer = QATTrainer(model=model, args=args, train_dataset=examples(8), data_collator=collate, qat=qat)
    trainer.train()
    if mode:
        own = Path(out_dir) / str(args.process_index)
        qat.save(model, own)
        # Not `save_pretrained`, which writes in the first process only.
        save_file({name: tensor.clone() for name, tensor in model.state_dict().items()}, own / "model.safetensors")
    trainer.accelerator.end_training()
