"""First scales: ranges, errors, the weighting by calibration, and bad weights."""

import pytest
import torch

from qat_plugin.errors import QuantizationError
from qat_plugin.fake_quant.functional import fake_quantize_weight, quantize
from qat_plugin.fake_quant.observers import InputObserver, observe_inputs, observe_weight
from qat_plugin.fake_quant.schemes import get_target

INT4, INT8 = get_target("int4", 64), get_target("int8")
SCHEMES = {
    "int4": INT4.token_linear.weight,
    "int8": INT8.clip_linear.weight,
    "two levels": get_target("int4", 32).clip_linear.weight,
}


def fake_quantize(weight, scheme, found):
    return fake_quantize_weight(weight, found.steps, found.zero_point, scheme)


def squared_error(weight, scheme, found, importance=1.0):
    return ((fake_quantize(weight, scheme, found) - weight).square() * importance).sum().item()


@pytest.mark.parametrize("name", SCHEMES)
def test_minmax_clips_nothing(name):
    torch.manual_seed(0)
    weight, scheme = torch.randn(16, 128), SCHEMES[name]
    found = observe_weight(weight, scheme, "minmax")
    scale = found.steps
    assert scale.shape == scheme.scale_shape(16, 128) and (scale > 0).all()
    error = (fake_quantize(weight, scheme, found) - weight).abs()
    # Rounding costs half a step; the zero point's own rounding may push one end out by another half.
    assert (
        error <= scale.repeat_interleave(128 // scale.shape[1], 1) * (0.5 if scheme.symmetric else 1.0) + 1e-6
    ).all()


@pytest.mark.parametrize("name", SCHEMES)
def test_mse_has_less_error_than_minmax_in_every_row(name):
    torch.manual_seed(0)
    weight, scheme = torch.randn(32, 256), SCHEMES[name]
    errors = {
        method: (fake_quantize(weight, scheme, observe_weight(weight, scheme, method)) - weight).square().sum(1)
        for method in ("minmax", "mse")
    }
    # The zero points of two levels are found for each group alone, so single rows may lose.
    assert (errors["mse"] <= errors["minmax"] + (0.05 if name == "two levels" else 1e-6)).all()
    # At 7 bits there is little to win on Gaussian weights; at 4 bits a lot.
    share = {"int4": 0.95, "int8": 0.999, "two levels": 0.9}[name]
    assert errors["mse"].sum() < share * errors["minmax"].sum()


@pytest.mark.parametrize("method", ["minmax", "mse"])
@pytest.mark.parametrize("skew", [0.0, 3.0, -3.0])
def test_products_of_two_levels_stay_within_their_limit(method, skew):
    """So that no pair of products overflows 16 bits: points at either end of the range, and groups of one sign."""
    torch.manual_seed(0)
    scheme = SCHEMES["two levels"]
    weight = torch.randn(64, 256) * torch.rand(64, 8).repeat_interleave(32, 1) + skew
    found = observe_weight(weight, scheme, method)
    assert found.scale.shape == (64, 1) and found.multiplier.shape == found.zero_point.shape == (64, 8)
    farthest = torch.maximum(found.zero_point, scheme.qmax - found.zero_point).int() * found.multiplier.int()
    assert int(farthest.max()) <= scheme.max_product == 64
    integers = quantize(weight, found.steps, found.zero_point, scheme).int().reshape(64, 8, 32)
    products = (integers - found.zero_point.unsqueeze(-1)) * found.multiplier.unsqueeze(-1)
    assert int(products.abs().max()) <= 64
    exact = (products * found.scale.unsqueeze(-1)).reshape(64, 256)
    torch.testing.assert_close(exact, fake_quantize(weight, scheme, found))


def test_two_levels_with_half_the_group_beat_a_float_scale_a_group():
    torch.manual_seed(0)
    weight = torch.randn(64, 512) * (0.5 + torch.rand(64, 8)).repeat_interleave(64, 1)
    errors = [
        squared_error(weight, SCHEMES[n], observe_weight(weight, SCHEMES[n], "mse")) for n in ("two levels", "int4")
    ]
    assert errors[0] < 0.95 * errors[1]


def test_calibration_lowers_the_error_where_the_inputs_are_large():
    torch.manual_seed(0)
    weight, scheme = torch.randn(32, 128), SCHEMES["int4"]
    importance = torch.where(torch.arange(128) % 8 == 0, 100.0, 0.01)
    plain = observe_weight(weight, scheme, "mse")
    weighted = observe_weight(weight, scheme, "mse", importance)
    assert squared_error(weight, scheme, weighted, importance) < 0.8 * squared_error(weight, scheme, plain, importance)


def test_input_observer_is_the_mean_square_over_everything_seen():
    layer = torch.nn.Linear(3, 2)
    batches = [torch.randn(2, 5, 3), torch.randn(1, 4, 3)]
    with observe_inputs({"layer": layer}) as observers:
        for batch in batches:
            layer(batch)
    layer(torch.full((1, 3), 1e3))  # after the block nothing is watched
    expected = torch.cat([batch.reshape(-1, 3) for batch in batches]).square().mean(0)
    torch.testing.assert_close(observers["layer"].mean_square, expected)
    low, high = observers["layer"].range
    rows = torch.cat([batch.reshape(-1, 3) for batch in batches])
    assert torch.equal(low, rows.amin(0)) and torch.equal(high, rows.amax(0))


@pytest.mark.parametrize("name", ["int4", "two levels"])
def test_a_constant_or_zero_weight_survives(name):
    scheme = SCHEMES[name]
    for value in (0.0, 0.3, -0.3):
        weight = torch.full((2, 64), value)
        found = observe_weight(weight, scheme, "mse")
        assert torch.isfinite(found.scale).all() and (found.scale > 0).all()
        assert (fake_quantize(weight, scheme, found) - weight).abs().max() < 0.02
    # A group of zeros beside others does not decide their channel's scale.
    weight = torch.cat([torch.zeros(2, 64), 0.01 * torch.randn(2, 64)], 1)
    assert (fake_quantize(weight, scheme, observe_weight(weight, scheme, "mse")) - weight).abs().max() < 0.003


def test_bad_weights_and_calibration_are_clear_errors():
    with pytest.raises(QuantizationError, match="NaN or infinite"):
        observe_weight(torch.tensor([[float("nan")] * 64]), SCHEMES["int4"], "mse")
    with pytest.raises(QuantizationError, match="96 elements, which groups of 64 do not divide"):
        observe_weight(torch.randn(2, 96), SCHEMES["int4"], "mse")
    with pytest.raises(QuantizationError, match="calibration saw no input"):
        _ = InputObserver().mean_square
    with pytest.raises(QuantizationError, match="group_size is 48"):
        get_target("int4", 48)
    with pytest.raises(QuantizationError, match="target is 'int3': choose one of int8, int4"):
        get_target("int3")


def test_second_moments_are_summed_in_float32_under_autocast():
    observer, rows = InputObserver(moments=True), torch.randn(4000, 8, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        observer.update(rows)
    assert observer.second_moments.dtype == torch.float32
    torch.testing.assert_close(observer.second_moments, rows.T @ rows / 4000)
