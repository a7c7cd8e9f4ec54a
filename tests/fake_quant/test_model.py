"""prepare, fold, convert and state on a whole Whisper."""

import pytest
import torch

from qat_plugin.errors import ModelError, QuantizationError
from qat_plugin.fake_quant import (
    QuantizerConfig,
    calibrate,
    convert,
    fake_quant_layers,
    fold,
    get_target,
    prepare,
    read_checkpoint,
    save_quantizer_state,
    set_fake_quant,
)
from qat_plugin.models import load_whisper

EMBEDDING = "model.decoder.embed_tokens"


@pytest.fixture
def model(tiny_whisper_dir):
    return load_whisper(tiny_whisper_dir).eval()


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(1, 80, 3000, generator=generator)
    return {"input_features": features, "decoder_input_ids": torch.randint(0, 200, (1, 9), generator=generator)}


def logits(model, batch):
    with torch.no_grad():
        return model(**batch).logits


def test_prepare_keeps_names_objects_order_and_tying(model):
    before = {name: id(parameter) for name, parameter in model.named_parameters()}
    keys = list(model.state_dict())
    prepare(model, get_target("int4"))
    after = {n: id(p) for n, p in model.named_parameters() if not n.endswith("scale_offset")}
    assert list(after.items()) == list(before.items())
    assert list(model.state_dict()) == keys
    layers = dict(fake_quant_layers(model))
    assert model.proj_out.weight is model.model.decoder.embed_tokens.weight
    assert layers["proj_out"].weight_quantizer is layers["model.decoder.embed_tokens"].weight_quantizer


@pytest.mark.parametrize("target", ["int8", "int4"])
def test_every_matrix_is_quantized_by_the_scheme_of_its_kind(model, target):
    names = prepare(model, get_target(target))
    operators = {name: layer.layer_scheme.operator for name, layer in fake_quant_layers(model)}
    matrices = {
        n.removesuffix(".weight") for n, p in model.state_dict().items() if n.endswith("weight") and p.dim() > 1
    }
    assert set(names) == set(operators) == matrices
    stored = {name for name, operator in operators.items() if operator == "DequantizeLinear"}
    assert stored == {
        "model.encoder.conv1",
        "model.encoder.conv2",
        "model.encoder.embed_positions",
        "model.decoder.embed_positions",
    }
    assert {operators[name] for name in operators.keys() - stored} == {
        {"int8": "MatMulInteger", "int4": "MatMulNBits"}[target]
    }


def test_int4_quantizes_activations_where_tokens_come_one_by_one_only(model):
    prepare(model, get_target("int4"))
    layers = {name: layer for name, layer in fake_quant_layers(model) if layer.layer_scheme.operator == "MatMulNBits"}
    clips = {name for name, layer in layers.items() if layer.layer_scheme.activation is None}
    expected = {
        name
        for name in layers
        if name.startswith("model.encoder.") or name.endswith(("encoder_attn.k_proj", "encoder_attn.v_proj"))
    }
    assert clips == expected and len(clips) == 2 * 6 + 2 * 2
    assert all(
        (layer.input_quantizer is None) == (name in clips) for name, layer in layers.items() if name != EMBEDDING
    )


def test_int8_is_close_to_float_and_int4_further(model, batch):
    exact = logits(model, batch)
    errors = {}
    for target in ("int8", "int4"):
        prepare(model, get_target(target))
        errors[target] = (logits(model, batch) - exact).norm() / exact.norm()
        set_fake_quant(model, False)
        assert torch.equal(logits(model, batch), exact)
        set_fake_quant(model, True)
        for _, layer in list(fake_quant_layers(model)):  # take it out without folding: the float model again
            layer.__class__ = layer.float_class
            del layer.weight_quantizer, layer.input_quantizer
    assert 0 < errors["int8"] < errors["int4"] / 3 < 0.5


def test_convert_leaves_a_vanilla_model_with_the_folded_weights(model, batch):
    prepare(model, get_target("int4"), activations=False)
    expected = logits(model, batch)
    convert(model)
    assert not list(fake_quant_layers(model))
    assert {type(m).__module__.split(".")[0] for m in model.modules()} <= {"torch", "transformers"}
    assert torch.equal(logits(model, batch), expected)


def test_fold_twice_changes_nothing_and_keeps_the_integers(model, tmp_path):
    config = QuantizerConfig("int4", 64)
    config.prepare(model)
    fold(model)
    once = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fold(model)
    assert all(torch.equal(once[name], tensor) for name, tensor in model.state_dict().items())
    model.save_pretrained(tmp_path)
    save_quantizer_state(model, config, tmp_path)
    for name, weight in read_checkpoint(tmp_path).quantized.items():
        assert (weight.dequantize() == once[f"{name}.weight"].flatten(1).numpy()).all(), name


def test_weights_are_quantized_once_while_generating_and_again_after_a_change(model, batch):
    prepare(model, get_target("int8"))
    layer = dict(fake_quant_layers(model))["model.encoder.layers.0.fc1"]
    first = logits(model, batch)
    baked = layer.weight_quantizer._baked[1]
    logits(model, batch)
    assert layer.weight_quantizer._baked[1] is baked
    with torch.no_grad():
        layer.weight.mul_(-1)
    assert not torch.equal(logits(model, batch), first)


def test_calibration_uses_the_float_activations_and_changes_the_scales(model, batch):
    prepare(model, get_target("int4"))
    before = {name: layer.weight_quantizer.scale.clone() for name, layer in fake_quant_layers(model)}
    calibrate(model, lambda: model(**batch))
    changed = {n for n, layer in fake_quant_layers(model) if not torch.equal(layer.weight_quantizer.scale, before[n])}
    assert {"model.encoder.layers.1.fc2", "model.decoder.layers.0.encoder_attn.v_proj", "proj_out"} <= changed
    assert "model.encoder.conv1" not in changed


def test_skipped_modules_stay_float_and_tied_ones_go_together(model):
    names = prepare(model, get_target("int8"), skip_modules=["*.layers.0.*", "proj_out"])
    assert not any(".layers.0." in name or name in ("proj_out", "model.decoder.embed_tokens") for name in names)
    assert "model.encoder.layers.1.fc1" in names


def test_bad_requests_are_clear_errors(model, tmp_path):
    with pytest.raises(QuantizationError, match=r"skip_modules has '\*\.layer\.0', which matches no layer"):
        prepare(model, get_target("int8"), skip_modules=["*.layer.0"])
    with pytest.raises(QuantizationError, match="no layer is left"):
        prepare(model, get_target("int8"), skip_modules=["*"])
    with pytest.raises(QuantizationError, match=r"64 elements, which groups of 256 do not divide"):
        prepare(model, get_target("int4", 256))
    prepare(model, get_target("int8"))
    with pytest.raises(QuantizationError, match="fake-quantized already"):
        prepare(model, get_target("int8"))
    with pytest.raises(ModelError, match="has no config.json"):
        read_checkpoint(tmp_path)
    with pytest.raises(ModelError, match="neither a folder with a saved model nor a Hub model"):
        load_whisper(tmp_path / "missing")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ModelError, match="a 'bert' model: only 'whisper'"):
        load_whisper(tmp_path)
