"""Quantization-aware training for Whisper: from one recipe to a verified ONNX, a measured table and a model card.

The names below are loaded when they are first used: importing the package loads neither torch nor transformers and
touches no network.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qat_plugin.data.audio import read_audio
    from qat_plugin.errors import QATError
    from qat_plugin.evaluation.results import collect_results
    from qat_plugin.evaluation.run import evaluate_arm
    from qat_plugin.export import export_verified
    from qat_plugin.fake_quant import convert, fold, prepare
    from qat_plugin.publishing import push, render_card
    from qat_plugin.recipe_loading import load_recipe
    from qat_plugin.runtime import QuantizedWhisper
    from qat_plugin.training import QATCallback, QATTrainer

__version__ = "0.1.0"

_MODULES = {
    "QATCallback": "qat_plugin.training",
    "QATError": "qat_plugin.errors",
    "QATTrainer": "qat_plugin.training",
    "QuantizedWhisper": "qat_plugin.runtime",
    "collect_results": "qat_plugin.evaluation.results",
    "convert": "qat_plugin.fake_quant",
    "evaluate_arm": "qat_plugin.evaluation.run",
    "export_verified": "qat_plugin.export",
    "fold": "qat_plugin.fake_quant",
    "load_recipe": "qat_plugin.recipe_loading",
    "prepare": "qat_plugin.fake_quant",
    "push": "qat_plugin.publishing",
    "read_audio": "qat_plugin.data.audio",
    "render_card": "qat_plugin.publishing",
}

__all__ = [
    "QATCallback",
    "QATError",
    "QATTrainer",
    "QuantizedWhisper",
    "collect_results",
    "convert",
    "evaluate_arm",
    "export_verified",
    "fold",
    "load_recipe",
    "prepare",
    "push",
    "read_audio",
    "render_card",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'qat_plugin' has no attribute '{name}'")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
