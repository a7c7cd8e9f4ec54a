"""prepare, fold, convert and state on a whole Whisper."""

import copy
import json
from types import SimpleNamespace

import numpy as np
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
    insertion,
    prepare,
    read_checkpoint,
    save_quantizer_state,
    set_fake_quant,
)
from qat_plugin.fake_quant.functional import dequantize
from qat_plugin.fake_quant.layers import FakeQuantLinear
from qat_plugin.fake_quant.observers import WeightScale, search_mse
from qat_plugin.fake_quant.positions import inverse_timescales, sinusoids
from qat_plugin.fake_quant.state import QUANTIZER_CONFIG, read_quantizer_config
from qat_plugin.models import load_fake_quant, load_whisper

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
    matrices.remove("model.encoder.embed_positions")  # Whisper's sinusoids are computed, not stored
    assert set(names) == set(operators) == matrices
    stored = {name for name, operator in operators.items() if operator == "Cast"}
    assert stored == {"model.decoder.embed_positions"}
    clips = {name for name, operator in operators.items() if operator == "MatMulInteger"}
    assert clips == {
        name
        for name in matrices - stored
        if name.startswith("model.encoder.") or name.endswith(("encoder_attn.k_proj", "encoder_attn.v_proj"))
    }
    assert len(clips) == 2 + 2 * 6 + 2 * 2
    assert {operators[name] for name in matrices - stored - clips} == {"MatMulNBits"}
    products = {name: layer for name, layer in fake_quant_layers(model) if name not in stored and name != EMBEDDING}
    granularity = {name: layer.input_quantizer.scheme.granularity for name, layer in products.items()}
    assert granularity == {name: "tensor" if name in clips else "row_group" for name in products}


def test_int8_modules_and_hot_tokens_get_eight_bits_and_lose_less(model, batch, tmp_path):
    exact, errors = logits(model, batch), {}
    named, hot = "model.encoder.layers.0.self_attn.*", 100
    for config in (QuantizerConfig("int4", 32), QuantizerConfig("int4", 32, int8_modules=(named,), hot_tokens=hot)):
        other = copy.deepcopy(model)
        config.prepare(other)
        errors[config.hot_tokens] = (logits(other, batch) - exact).norm()
    assert errors[hot] < errors[0]
    bits = {
        f"{name}{suffix}": scheme.weight.num_bits
        for name, layer in fake_quant_layers(other)
        for suffix, _, _, scheme in layer.parts()
        if scheme.operator != "Cast"
    }
    eight = {name for name, count in bits.items() if count == 8}
    attention = {f"model.encoder.layers.0.self_attn.{kind}" for kind in ("q_proj", "k_proj", "v_proj", "out_proj")}
    special, times = model.config.eos_token_id, model.config.vocab_size - 1501
    hot_parts = {f"{table}[{rows}]" for table in (EMBEDDING, "proj_out") for rows in (f":{hot}", f"{special}:{times}")}
    convolutions = {"model.encoder.conv1", "model.encoder.conv2"}  # have 8 bits in every target
    assert eight == attention | hot_parts | convolutions
    assert bits[f"{EMBEDDING}[{hot}:{special}]"] == bits[f"{EMBEDDING}[{times}:]"] == 4
    # The table's parts are one module to everybody else, and come back from disk.
    fold(other)
    save_quantizer_state(other, config, tmp_path)
    other.save_pretrained(tmp_path)
    again = load_fake_quant(tmp_path)
    assert torch.equal(logits(again, batch), logits(other, batch))
    checkpoint = read_checkpoint(tmp_path)
    rows = [weight.integers.shape[0] for _, weight in checkpoint.parts(EMBEDDING)]
    assert rows == [hot, special - hot, times - special, 1501]


@pytest.mark.parametrize(
    ("hot", "special", "vocabulary", "expected"),
    [
        (100, 256, 2000, [100, 156, 243, 1501]),
        (300, 256, 2000, [499, 1501]),  # the special tokens' rows begin among the first
        (600, 256, 2000, [600, 1400]),
        (100, 256, 1700, [100, 1600]),  # no room for special tokens before the times
        (100, None, 2000, [100, 1900]),
    ],
)
def test_rows_of_eight_bits_wherever_special_tokens_are(hot, special, vocabulary, expected):
    class Table(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.config = SimpleNamespace(eos_token_id=special)
            self.model = torch.nn.Embedding(vocabulary, 64)
            self.proj_out = torch.nn.Linear(64, vocabulary, bias=False)
            self.proj_out.weight = self.model.weight

    table = Table()
    prepare(table, get_target("int4"), hot_tokens=hot)
    parts = list(table.proj_out.parts())
    assert [len(table.model.weight[rows]) for _, rows, _, _ in parts] == expected
    bits = [scheme.weight.num_bits for *_, scheme in parts]
    assert bits == [8, 4, 8, 4][: len(expected)]
    ids = torch.arange(vocabulary).reshape(2, -1)
    whole = table.proj_out.weight_quantizer(table.model.weight)
    assert torch.equal(table.model(ids), whole[ids])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hot_tokens": 10**6}, "hot_tokens is 1000000, and the table has"),
        ({"int8_modules": ("model.encoder.layer.*",)}, "int8_modules has 'model.encoder.layer"),
    ],
)
def test_what_cannot_get_eight_bits(model, options, message):
    with pytest.raises(QuantizationError, match=message):
        QuantizerConfig("int4", 32, **options).prepare(model)


def test_positions_that_are_sinusoids_become_exact_and_stand_still(model):
    table = model.model.encoder.embed_positions.weight
    exact = sinusoids(*table.shape)
    with torch.no_grad():
        table.copy_(exact.half().float())
    table.requires_grad_(True)
    names = prepare(model, get_target("int4"))
    assert torch.equal(table, exact) and not table.requires_grad
    assert "model.encoder.embed_positions" not in names


def test_positions_are_the_formula_rounded_once():
    """Whatever the machine: one that trains and one that exports have to agree."""
    steps = np.exp(-np.log(10000.0) / 255 * np.arange(256)).astype(np.float32)
    assert np.array_equal(inverse_timescales(512).numpy(), steps)
    angles = (np.arange(1500, dtype=np.float32)[:, None] * steps).astype(np.float64)
    formula = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    assert np.abs(sinusoids(1500, 512).numpy() - formula).max() <= 2.0**-24


def test_other_positions_are_stored(model):
    with torch.no_grad():
        model.model.encoder.embed_positions.weight[7, 3] += 0.01
    assert "model.encoder.embed_positions" in prepare(model, get_target("int4"))


def test_int8_is_close_to_float_and_int4_further(model, batch):
    exact = logits(model, batch)
    errors = {}
    for target in ("int8", "int4"):
        prepare(model, get_target(target))
        model.train()  # there is no dropout; activations are quantized by clip and by token, as they will arrive
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
        found = WeightScale(
            *(None if x is None else torch.from_numpy(x) for x in (weight.scale, weight.zero_point, weight.multiplier))
        )
        values = dequantize(torch.from_numpy(weight.integers), found.steps, found.zero_point)
        assert torch.equal(values, once[f"{name}.weight"].flatten(1)), name


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


def test_groups_are_halved_until_they_divide_the_input_axis(model):
    prepare(model, get_target("int4", 256))
    sizes = {name: layer.layer_scheme.weight.group_size for name, layer in fake_quant_layers(model)}
    assert sizes["model.decoder.layers.0.fc1"] == 64 and sizes["model.decoder.layers.0.fc2"] == 128
    assert sizes["model.encoder.layers.0.fc2"] == 128 and sizes["model.encoder.conv1"] is None


def uneven(model, loudness=50.0):
    """Make two channels behind a GELU much more active than the rest, as Whisper's own are."""
    with torch.no_grad():
        model.model.encoder.layers[1].fc1.weight[[3, 77]] *= loudness
        model.model.encoder.layers[1].fc2.weight[:, [3, 77]] /= loudness


def test_uneven_channels_are_equalized_and_the_model_gains_by_it(model, batch):
    uneven(model)
    exact, errors = logits(model, batch), []
    for equalized in (False, True):
        prepare(model, get_target("int8"))
        calibrate(model, lambda: model(**batch))
        quantizer = dict(fake_quant_layers(model))["model.encoder.layers.1.fc2"].weight_quantizer
        divisors = quantizer.equalization
        assert set(divisors.nonzero()[divisors.squeeze() > 8].flatten().tolist()) == {3, 77}
        assert torch.equal(divisors, torch.exp2(divisors.log2().round()))
        if not equalized:
            quantizer.equalization = None
            weight = dict(fake_quant_layers(model))["model.encoder.layers.1.fc2"].weight
            quantizer.set_scale(search_mse(weight.detach(), quantizer.scheme))
        errors.append((logits(model, batch) - exact).norm() / exact.norm())
        for _, layer in list(fake_quant_layers(model)):
            layer.__class__ = layer.float_class
            del layer.weight_quantizer, layer.input_quantizer
    assert errors[1] < 0.7 * errors[0]


def test_equalization_and_multipliers_are_kept_beside_the_checkpoint(model, batch, tmp_path):
    uneven(model)
    config = QuantizerConfig("int4", 64)
    config.prepare(model)
    calibrate(model, lambda: model(**batch))
    fold(model)
    expected = logits(model, batch)
    model.save_pretrained(tmp_path)
    save_quantizer_state(model, config, tmp_path)
    again = load_fake_quant(tmp_path)
    assert torch.equal(logits(again, batch), expected)
    weight = read_checkpoint(tmp_path).quantized["model.encoder.layers.1.fc2"]
    assert weight.equalization.max() > 8 and weight.multiplier.max() > 1
    assert abs(weight.products()).max() <= 64
    found = weight.products() * weight.scale / weight.equalization
    assert torch.allclose(torch.from_numpy(found), again.model.encoder.layers[1].fc2.weight, rtol=1e-6)


def test_what_was_trained_for_another_arithmetic_is_refused(model, tmp_path):
    config = QuantizerConfig("int8", 32)
    config.prepare(model)
    fold(model)
    model.save_pretrained(tmp_path)
    save_quantizer_state(model, config, tmp_path)
    file = tmp_path / QUANTIZER_CONFIG
    content = json.loads(file.read_text())
    content["format_version"] -= 1
    file.write_text(json.dumps(content))
    for read in (load_fake_quant, read_checkpoint, read_quantizer_config):
        with pytest.raises(
            QuantizationError, match=r"quantizer\.json: format_version is 1, .* train again in a new output_dir"
        ):
            read(tmp_path)


@pytest.mark.parametrize("in_training", [True, False])
def test_in_training_a_convolution_quantizes_each_clip_by_itself(model, in_training):
    prepare(model, get_target("int8"))
    layer = model.model.encoder.conv1.train(in_training)
    clips = torch.randn(2, layer.in_channels, 20, generator=torch.Generator().manual_seed(0))
    clips[1] *= 100
    with torch.no_grad():
        together, alone = layer(clips), torch.cat([layer(clip[None]) for clip in clips])
    # The loud clip would coarsen the quiet one.
    assert torch.allclose(together[0], alone[0], atol=1e-4) == in_training


def test_gptq_loses_less_of_the_output_than_rounding_and_stays_near_what_it_rounds_to(model, batch):
    name, outputs = "model.encoder.layers.0.fc1", {}
    inputs: list[torch.Tensor] = []
    layer = model.get_submodule(name)
    handle = layer.register_forward_pre_hook(lambda _, args: inputs.append(args[0].detach()))
    logits(model, batch)
    handle.remove()
    exact = torch.nn.functional.linear(inputs[0], layer.weight)
    before = layer.weight.detach().clone()
    for with_gptq in (False, True):
        prepare(model, get_target("int4"))
        table = model.proj_out.weight.clone()
        calibrate(model, lambda: model(**batch), with_gptq=with_gptq)
        # The table, too, which is one with the output layer.
        assert torch.equal(model.proj_out.weight, table) != with_gptq
        weight = layer.weight_quantizer(layer.weight).detach()
        if with_gptq:
            # Where it will be trained from: nearer to what it was, and safely within the step of its integer.
            steps = layer.weight_quantizer.steps.repeat_interleave(32, dim=1)
            assert ((weight - layer.weight.detach()).abs() <= 0.46 * steps).float().mean() > 0.95
            assert (layer.weight - before).abs().mean() < 0.8 * (weight - before).abs().mean()
        outputs[with_gptq] = (torch.nn.functional.linear(inputs[0], weight) - exact).square().sum()
        for _, each in list(fake_quant_layers(model)):
            each.__class__ = each.float_class
            del each.weight_quantizer, each.input_quantizer
    assert outputs[True] < 0.8 * outputs[False]


def test_gptq_rounds_by_the_scales_in_force(model, batch, monkeypatch):
    """Those of int8's decoder are rounded to half precision."""
    steps, gptq = [], insertion.gptq
    monkeypatch.setattr(insertion, "gptq", lambda *args: steps.append(args[2].steps) or gptq(*args))
    prepare(model, get_target("int8"))
    calibrate(model, lambda: model(**batch), with_gptq=True)
    layers = [layer for _, layer in fake_quant_layers(model) if isinstance(layer, FakeQuantLinear)]
    quantizers = [quantizer for layer in layers for _, _, quantizer, _ in layer.parts()]
    assert any(quantizer.scheme.half_scale for quantizer in quantizers)
    assert all(torch.equal(found, quantizer.steps) for found, quantizer in zip(steps, quantizers, strict=True))


def test_skipped_modules_stay_float_and_tied_ones_go_together(model):
    names = prepare(model, get_target("int8"), skip_modules=["*.layers.0.*", "proj_out"])
    assert not any(".layers.0." in name or name in ("proj_out", "model.decoder.embed_tokens") for name in names)
    assert "model.encoder.layers.1.fc1" in names


def test_bad_requests_are_clear_errors(model, tmp_path):
    with pytest.raises(QuantizationError, match=r"skip_modules has '\*\.layer\.0', which matches no layer"):
        prepare(model, get_target("int8"), skip_modules=["*.layer.0"])
    with pytest.raises(QuantizationError, match="no layer is left"):
        prepare(model, get_target("int8"), skip_modules=["*"])
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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_one_weight_in_half_precision_is_refused_by_name(model, dtype):
    layer = model.model.decoder.layers[1].fc1
    layer.to(dtype)
    with pytest.raises(QuantizationError, match=rf"model\.decoder\.layers\.1\.fc1\.weight is {dtype}"):
        prepare(model, get_target("int4"))
    assert not list(fake_quant_layers(model))
    layer.float()
    prepare(model, get_target("int4"))


def test_scales_that_are_stored_in_half_precision_are_trained_in_it(model):
    prepare(model, get_target("int4"))
    halves = 0
    for _, layer in fake_quant_layers(model):
        for _, _, quantizer, scheme in layer.parts():
            with torch.no_grad():
                quantizer.scale_offset.fill_(0.0123)
            exact = torch.equal(quantizer.scale, quantizer.scale.half().float())
            assert exact == scheme.weight.half_scale == (scheme.operator == "MatMulNBits")
            halves += exact
            quantizer.scale.sum().backward()
            assert quantizer.scale_offset.grad.abs().min() > 0
            quantizer.scale_offset.grad = None
    assert halves > 0


def test_what_is_frozen_keeps_its_scales(model):
    model.freeze_encoder()
    prepare(model, get_target("int4", 32))
    trained = {name.split(".")[1] for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {"decoder"}


def test_scales_are_in_the_graph_while_nothing_is_quantized(model, batch):
    """DistributedDataParallel waits for the gradient of every parameter."""
    before = logits(model, batch)
    prepare(model, get_target("int4", 32))
    set_fake_quant(model, False)
    output = model(**batch)
    assert torch.equal(output.logits, before)
    output.logits.sum().backward()
    missing = [
        name for name, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None
    ]
    assert not missing
