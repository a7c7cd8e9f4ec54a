"""ONNX Runtime's own 8 bits, in the layout of all other arms."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from qat_plugin.errors import QuantizationError
from qat_plugin.export import export_rival
from qat_plugin.export.census import read_file
from qat_plugin.models import load_whisper
from qat_plugin.runtime import QuantizedWhisper

FEATURES = [np.random.default_rng(seed).standard_normal((1, 80, 3000)).astype(np.float32) for seed in range(2)]
FILES = ("encoder_model.onnx", "decoder_model_merged.onnx")


@pytest.fixture(scope="module", params=["dynamic", "static"])
def rivals(request, tiny_whisper_dir, tmp_path_factory) -> tuple[str, dict[bool, Path]]:
    folders = {reduce: tmp_path_factory.mktemp("rival") / "onnx" for reduce in (False, True)}
    for reduce, folder in folders.items():
        export_rival(tiny_whisper_dir, folder, method=request.param, reduce_range=reduce, features=FEATURES)
    return request.param, folders


def integers(path: Path) -> list[np.ndarray]:
    tensors = onnx.load(str(path)).graph.initializer
    return [numpy_helper.to_array(tensor) for tensor in tensors if tensor.data_type == onnx.TensorProto.INT8]


def test_every_product_with_weights_is_quantized(rivals):
    method, folders = rivals
    encoder, decoder = (read_file(folders[False] / name) for name in FILES)
    kinds = [node.op_type for node in encoder.nodes]
    if method == "dynamic":
        assert kinds.count("MatMulInteger") == 12 and kinds.count("MatMul") == 0
    else:
        # Each product stands between its dequantized input and weight and its quantized output.
        assert kinds.count("MatMul") == 12 and kinds.count("QuantizeLinear") >= 12
        assert "DynamicQuantizeLinear" not in kinds
    assert not [a for a in encoder.initializers.values() if a.ndim == 2 and a.dtype == np.float32 and a.size > 200_000]
    # Two layers of ten products, and the logits; those of the cross-attention's keys and values inside `If`.
    assert [node.op_type for node in decoder.nodes].count("MatMulInteger") == 21
    described = json.loads((folders[False] / "quantization.json").read_text())
    assert described["target"] == "int8" and set(described["operators"]) == set(FILES)
    assert not (folders[False] / "parity.json").exists()


def test_seven_bits_are_seven_bits(rivals):
    _, folders = rivals
    widest = {
        reduce: max(
            int(np.abs(array.astype(int)).max())
            for name in FILES
            for array in integers(folder / name)
            if array.ndim == 2
        )
        for reduce, folder in folders.items()
    }
    assert widest[True] <= 64 < widest[False] <= 128


def test_it_runs_and_hears_what_the_float_model_hears(rivals, tiny_whisper_dir):
    _, folders = rivals
    features, tokens = torch.from_numpy(FEATURES[0]), torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        expected = load_whisper(tiny_whisper_dir)(input_features=features, decoder_input_ids=tokens).logits
    found = QuantizedWhisper.from_pretrained(folders[False])(input_features=features, decoder_input_ids=tokens).logits
    error = float((found - expected).norm() / expected.norm())
    assert 0 < error < 0.2


def test_static_needs_speech(tiny_whisper_dir, tmp_path):
    with pytest.raises(QuantizationError, match="static quantization needs speech: set `calibration_samples`"):
        export_rival(tiny_whisper_dir, tmp_path / "onnx", method="static", reduce_range=False)
    assert not (tmp_path / "onnx").exists()
