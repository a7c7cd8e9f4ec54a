"""GPTQ alone, on a weight and moments that are made up."""

import torch

from qat_plugin.fake_quant.gptq import gptq
from qat_plugin.fake_quant.observers import observe_weight
from qat_plugin.fake_quant.schemes import get_target


def lost(weight, found, inputs):
    """Squared error of the outputs for each kind of rounding."""
    return ((found - weight) @ inputs.T).square().mean()


def test_the_error_of_the_most_active_input_is_made_good_wherever_it_stands():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(64, 128, generator=generator)
    inputs = torch.randn(4096, 16, generator=generator) @ torch.randn(16, 128, generator=generator)
    inputs += 0.3 * torch.randn(4096, 128, generator=generator)
    inputs[:, -1] *= 20.0
    scheme = get_target("int4", 32).token_linear.weight
    scale = observe_weight(weight, scheme, "mse")
    rounded = gptq(weight, inputs.T @ inputs / len(inputs), scale, scheme)
    # The same with the active input first, in order or not.
    order = torch.cat([torch.arange(96, 128).flip(0), torch.arange(96)])
    moved = observe_weight(weight[:, order], scheme, "mse")
    again = gptq(weight[:, order], inputs[:, order].T @ inputs[:, order] / len(inputs), moved, scheme)
    first, second = lost(weight, rounded, inputs), lost(weight[:, order], again, inputs[:, order])
    assert abs(first / second - 1) < 0.05
    nearest = observe_weight(weight, scheme, "mse")
    grouped = weight.unflatten(1, (-1, 32))
    points = nearest.zero_point.unsqueeze(-1).float()
    plain = (
        ((grouped / nearest.steps.unsqueeze(-1)).round() + points).clamp(0, 15) - points
    ) * nearest.steps.unsqueeze(-1)
    assert first < 0.35 * lost(weight, plain.flatten(1), inputs)


def test_what_is_rounded_rounds_to_itself():
    generator = torch.Generator().manual_seed(1)
    weight, inputs = torch.randn(8, 64, generator=generator), torch.randn(256, 64, generator=generator)
    scheme = get_target("int4", 32).token_linear.weight
    scale = observe_weight(weight, scheme, "mse")
    rounded = gptq(weight, inputs.T @ inputs / 256, scale, scheme)
    integers = rounded.unflatten(1, (-1, 32)) / scale.steps.unsqueeze(-1)
    assert torch.allclose(integers, integers.round(), atol=1e-4)
