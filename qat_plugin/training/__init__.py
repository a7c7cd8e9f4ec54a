"""Training with fake quantization: callback (schedule) → trainer (thin), distillation (loss), run (a recipe's training)."""

from qat_plugin.training.callback import QATCallback
from qat_plugin.training.distillation import LossWeights
from qat_plugin.training.trainer import QATTrainer

__all__ = ["LossWeights", "QATCallback", "QATTrainer"]
