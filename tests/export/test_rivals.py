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
from qat_plugin.export.ort_quantizer import export_with_onnxruntime
from qat_plugin.fake_quant import read_checkpoint
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


def test_large_weights_go_beside_the_file_and_those_of_the_float_model_go(rivals, tiny_whisper_dir, tmp_path):
    method, folders = rivals
    export_with_onnxruntime(
        read_checkpoint(tiny_whisper_dir), tmp_path / "onnx", method=method, reduce_range=False,
        features=FEATURES, external_data_bytes=10_000,
    )  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["onnx"]
    companions = {path.name for path in folders[False].iterdir()} - {"quantization.json"}
    assert {path.name for path in (tmp_path / "onnx").iterdir()} == companions | {f"{name}_data" for name in FILES}
    for name in FILES:
        tensors = onnx.load(str(tmp_path / "onnx" / name), load_external_data=False).graph.initializer
        beside = {entry.value for tensor in tensors for entry in tensor.external_data if entry.key == "location"}
        assert beside == {f"{name}_data"}
        # Of the float weights, nothing is left: one byte each, but for convolutions, positions and scales.
        assert (tmp_path / "onnx" / f"{name}_data").stat().st_size < 1.05 * (folders[False] / name).stat().st_size
    features, tokens = torch.from_numpy(FEATURES[0]), torch.tensor([[1, 2, 3]])
    inside, beside = (
        QuantizedWhisper.from_pretrained(folder)(input_features=features, decoder_input_ids=tokens).logits
        for folder in (folders[False], tmp_path / "onnx")
    )
    assert torch.equal(inside, beside)


def test_static_needs_speech(tiny_whisper_dir, tmp_path):
    with pytest.raises(QuantizationError, match="static quantization needs speech: set `calibration_samples`"):
        export_rival(tiny_whisper_dir, tmp_path / "onnx", method="static", reduce_range=False)
    assert not (tmp_path / "onnx").exists()
