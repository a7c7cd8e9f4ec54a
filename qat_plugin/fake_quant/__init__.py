"""Fake quantization: schemes (what) → functional, observers (how) → layers (where) → insertion (prepare, fold, convert)."""

from qat_plugin.fake_quant.checkpoint import QuantizedCheckpoint, QuantizedWeight, read_checkpoint
from qat_plugin.fake_quant.insertion import (
    calibrate,
    convert,
    fake_quant_layers,
    fold,
    freeze_scales,
    prepare,
    set_activation_fake_quant,
    set_fake_quant,
)
from qat_plugin.fake_quant.schemes import Target, get_target
from qat_plugin.fake_quant.state import (
    QuantizerConfig,
    load_quantizer_state,
    read_quantizer_config,
    save_quantizer_state,
)

__all__ = [
    "QuantizedCheckpoint",
    "QuantizedWeight",
    "QuantizerConfig",
    "Target",
    "calibrate",
    "convert",
    "fake_quant_layers",
    "fold",
    "freeze_scales",
    "get_target",
    "load_quantizer_state",
    "prepare",
    "read_checkpoint",
    "read_quantizer_config",
    "save_quantizer_state",
    "set_activation_fake_quant",
    "set_fake_quant",
]
