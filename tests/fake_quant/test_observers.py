"""First scales: ranges, errors, the weighting by calibration, and bad weights."""

import pytest
import torch

from qat_plugin.errors import QuantizationError
from qat_plugin.fake_quant.functional import fake_quantize_weight
from qat_plugin.fake_quant.observers import InputObserver, observe_inputs, observe_weight
from qat_plugin.fake_quant.schemes import get_target

SCHEMES = {"int4": get_target("int4", 64).token_linear.weight, "int8": get_target("int8").token_linear.weight}


def squared_error(weight, scheme, found, importance=1.0):
    return ((fake_quantize_weight(weight, *found, scheme) - weight).square() * importance).sum().item()


@pytest.mark.parametrize("name", SCHEMES)
def test_minmax_clips_nothing(name):
    torch.manual_seed(0)
    weight, scheme = torch.randn(16, 128), SCHEMES[name]
    scale, point = observe_weight(weight, scheme, "minmax")
    assert scale.shape == scheme.scale_shape(16, 128) and (scale > 0).all()
    error = (fake_quantize_weight(weight, scale, point, scheme) - weight).abs()
    # Rounding costs half a step; the zero point's own rounding may push one end out by another half.
    assert (
        error <= scale.repeat_interleave(128 // scale.shape[1], 1) * (0.5 if scheme.symmetric else 1.0) + 1e-6
    ).all()


@pytest.mark.parametrize("name", SCHEMES)
def test_mse_has_less_error_than_minmax_in_every_row(name):
    torch.manual_seed(0)
    weight, scheme = torch.randn(32, 256), SCHEMES[name]
    errors = {
        method: (fake_quantize_weight(weight, *observe_weight(weight, scheme, method), scheme) - weight).square().sum(1)
        for method in ("minmax", "mse")
    }
    assert (errors["mse"] <= errors["minmax"] + 1e-6).all()
    # At 7 bits there is little to win on Gaussian weights; at 4 bits a lot.
    assert errors["mse"].sum() < {"int4": 0.95, "int8": 0.999}[name] * errors["minmax"].sum()


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


def test_a_constant_or_zero_weight_survives():
    scheme = SCHEMES["int4"]
    for value in (0.0, 0.3, -0.3):
        weight = torch.full((2, 64), value)
        found = observe_weight(weight, scheme, "mse")
        assert torch.isfinite(found[0]).all() and (found[0] > 0).all()
        assert (fake_quantize_weight(weight, *found, scheme) - weight).abs().max() < 0.02


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
