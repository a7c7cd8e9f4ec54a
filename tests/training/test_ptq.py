"""The target's format without training: the methods in the table."""

import importlib
import re

import pytest
import torch
from safetensors.torch import load_file

from qat_plugin.errors import QuantizationError
from qat_plugin.fake_quant import QuantizerConfig, get_target, read_checkpoint
from qat_plugin.fake_quant.functional import fake_quantize_weight
from qat_plugin.fake_quant.observers import observe_weight, search_mse
from qat_plugin.models import load_whisper
from qat_plugin.training.ptq import quantize_without_training, search_hqq, search_kquant


@pytest.mark.parametrize("search", [search_kquant, search_hqq])
@pytest.mark.parametrize("kind", ["token_linear", "clip_linear"])
def test_onnx_runtimes_own_beat_plain_rounding_in_our_format(search, kind):
    scheme = getattr(get_target("int4", 64), kind).weight
    weight = torch.randn(48, 128, generator=torch.Generator().manual_seed(0)) ** 3
    errors = []
    for found in (search(weight, scheme), observe_weight(weight, scheme, "minmax")):
        assert found.zero_point.dtype == torch.uint8 and found.zero_point.shape == (48, 128 // scheme.group_size)
        errors.append((fake_quantize_weight(weight, found.steps, found.zero_point, scheme) - weight).norm())
    # HQQ moves zero points alone, and whole numbers leave it little room.
    assert errors[0] < errors[1] if search is search_kquant else errors[0] <= errors[1]


def test_what_has_no_zero_points_is_searched_as_ever():
    scheme = get_target("int8", 64).clip_linear.weight
    weight = torch.randn(8, 64)
    assert torch.equal(search_hqq(weight, scheme).scale, observe_weight(weight, scheme, "mse").scale)


@pytest.mark.parametrize("method", ["kquant", "hqq"])
def test_a_missing_package_is_named(method, monkeypatch):
    def missing(name, *_):
        raise ModuleNotFoundError(f"No module named 'onnx_ir' for {name}", name="onnx_ir")

    monkeypatch.setattr(importlib, "import_module", missing)
    search = {"kquant": search_kquant, "hqq": search_hqq}[method]
    with pytest.raises(
        QuantizationError, match=re.escape("need the package 'onnx_ir': pip install 'qat_plugin[rivals]'")
    ):
        search(torch.randn(4, 64), get_target("int4", 64).token_linear.weight)


def test_gptq_needs_speech(tiny_whisper_dir, tmp_path):
    with pytest.raises(QuantizationError, match="calibration_samples"):
        quantize_without_training(load_whisper(tiny_whisper_dir), QuantizerConfig("int4", 32), tmp_path, method="gptq")


def test_methods_that_weights_alone_decide_need_no_speech(tiny_whisper_dir, tmp_path):
    """Without clips each has scales or zero points of its own, and they are those of its search."""
    searches, found = {"mse": search_mse, "kquant": search_kquant, "hqq": search_hqq}, {}
    for method in searches:
        folder = tmp_path / method
        quantize_without_training(load_whisper(tiny_whisper_dir), QuantizerConfig("int4", 32), folder, method=method)
        found[method] = load_file(folder / "quantizer.safetensors")
    quantize_without_training(load_whisper(tiny_whisper_dir), QuantizerConfig("int4", 32), tmp_path, method="rtn")
    found["rtn"] = load_file(tmp_path / "quantizer.safetensors")
    name = "model.decoder.layers.0.fc1"
    weight = load_whisper(tiny_whisper_dir).get_submodule(name).weight.detach()
    for method, search in searches.items():
        expected = search(weight, get_target("int4", 32).token_linear.weight)
        assert torch.equal(found[method][f"{name}.zero_point"], expected.zero_point)
        torch.testing.assert_close(found[method][f"{name}.scale"], expected.scale, rtol=1e-3, atol=0)
        for other in {*found} - {method}:
            assert any(not torch.equal(tensor, found[other][key]) for key, tensor in found[method].items())


@pytest.mark.parametrize("method", ["rtn", "kquant", "hqq", "mse"])
def test_every_method_writes_a_checkpoint_to_export(tiny_whisper_dir, tmp_path, method):
    quantize_without_training(load_whisper(tiny_whisper_dir), QuantizerConfig("int4", 32), tmp_path, method=method)
    assert read_checkpoint(tmp_path).quantized
