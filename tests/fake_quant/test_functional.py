"""Every function against the ONNX operator that it stands for, run by ONNX Runtime."""

import doctest

import numpy as np
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from qat_plugin.fake_quant import functional
from qat_plugin.fake_quant.schemes import WeightScheme, get_target

INT4 = get_target("int4", 32).token_linear.weight
INT8 = get_target("int8").clip_linear.weight


def run(nodes, constants, feeds, output="y", kind=TensorProto.FLOAT, opset=21):
    """Result of a graph made of `nodes`; weights are constants, as only those are packed by ONNX Runtime."""
    inputs = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(x.dtype), None) for n, x in feeds.items()
    ]
    outputs = [helper.make_tensor_value_info(output, kind, None)]
    weights = [numpy_helper.from_array(np.ascontiguousarray(x), n) for n, x in constants.items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, weights)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feeds)[0]


def scale_and_point(weight, scheme, seed=1):
    generator = torch.Generator().manual_seed(seed)
    shape = scheme.scale_shape(*weight.shape)
    scale = torch.rand(shape, generator=generator) * 0.1 + 0.05
    point = None if scheme.symmetric else torch.randint(0, 16, shape, generator=generator, dtype=torch.uint8)
    return scale, point


def test_doctests():
    assert doctest.testmod(functional).failed == 0


def test_rounding_is_half_to_even_before_the_zero_point():
    scheme = WeightScheme(4, 0, 15, symmetric=False, group_size=4)
    weight = torch.tensor([[0.5, 1.5, 2.5, -0.5]])
    integers = functional.quantize(weight, torch.ones(1, 1), torch.full((1, 1), 7, dtype=torch.uint8), scheme)
    assert integers.tolist() == [[7, 9, 9, 7]]


def test_int8_weights_equal_onnx_quantize_linear():
    torch.manual_seed(0)
    weight = torch.randn(24, 64)
    scale, _ = scale_and_point(weight, INT8)
    node = helper.make_node("QuantizeLinear", ["w", "s", "z"], ["q"], axis=0)
    constants = {"s": scale[:, 0].numpy(), "z": np.zeros(24, np.int8)}
    expected = run([node], constants, {"w": weight.numpy()}, "q", TensorProto.INT8)
    assert np.array_equal(functional.quantize(weight, scale, None, INT8).numpy(), expected.clip(-64, 64))


@pytest.mark.parametrize("scheme", [INT4, INT8], ids=["int4", "int8"])
def test_fake_quantize_is_quantize_then_dequantize_and_idempotent(scheme):
    torch.manual_seed(0)
    weight = torch.randn(300, 64)
    scale, point = scale_and_point(weight, scheme)
    integers = functional.quantize(weight, scale, point, scheme)
    assert integers.min() >= scheme.qmin and integers.max() <= scheme.qmax
    fake = functional.fake_quantize_weight(weight, scale, point, scheme)
    assert torch.equal(fake, functional.dequantize(integers, scale, point))
    assert torch.equal(functional.quantize(fake, scale, point, scheme), integers)


@pytest.mark.parametrize("scheme", [INT4, INT8], ids=["int4", "int8"])
def test_gradients_are_those_of_lsq(scheme):
    """Against autograd through the formula written out with a straight-through rounding."""
    torch.manual_seed(0)
    weight, upstream = torch.randn(40, 64) * (3 if scheme is INT8 else 1), torch.randn(40, 64)
    scale, point = scale_and_point(weight, scheme)
    results = []
    for written_out in (False, True):
        w, s = weight.clone().requires_grad_(), scale.clone().requires_grad_()
        if written_out:
            z = 0.0 if point is None else point.float().unsqueeze(-1)
            grouped = functional.round_ste(w.reshape(40, s.shape[1], -1) / s.unsqueeze(-1))
            out = (torch.clamp(grouped + z, scheme.qmin, scheme.qmax) - z) * s.unsqueeze(-1)
            out = out.reshape(40, 64)
        else:
            out = functional.fake_quantize_weight(w, s, point, scheme)
        (out * upstream).sum().backward()
        results.append((out.detach(), w.grad, s.grad))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    assert (results[0][1] == 0).any(), "nothing was clamped: the test would not see a missing mask"


@pytest.mark.parametrize("offset", [0.0, 3.0, -3.0])
def test_activations_per_tensor_equal_dynamic_quantize_linear(offset):
    torch.manual_seed(0)
    x = torch.randn(2, 7, 64) + offset
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    expected = run(nodes, {}, {"x": x.numpy()})
    assert np.array_equal(functional.fake_quantize_tensor(x).numpy(), expected)


def test_activations_of_zeros_stay_zeros():
    assert functional.fake_quantize_tensor(torch.zeros(1, 4)).tolist() == [[0.0] * 4]
    assert functional.fake_quantize_row_group(torch.zeros(1, 32), 32).tolist() == [[0.0] * 32]


def test_kept_axes_quantize_each_clip_or_token_alone():
    torch.manual_seed(0)
    x = torch.randn(3, 5, 64) * torch.tensor([0.1, 1.0, 10.0]).reshape(3, 1, 1)
    clips = functional.fake_quantize_tensor(x, 1)
    assert all(torch.equal(clips[i], functional.fake_quantize_tensor(x[i])) for i in range(3))
    tokens = functional.fake_quantize_tensor(x, 2)
    assert torch.equal(tokens[2, 4], functional.fake_quantize_tensor(x[2, 4]))
    assert not torch.equal(clips, functional.fake_quantize_tensor(x))


def test_activation_gradient_is_straight_through():
    x = torch.randn(2, 3, 64, requires_grad=True)
    upstream = torch.randn(2, 3, 64)
    (functional.fake_quantize_row_group(functional.fake_quantize_tensor(x, 1), 32) * upstream).sum().backward()
    assert torch.equal(x.grad, upstream)


@pytest.mark.parametrize("level,tolerance", [(0, 2e-6), (4, 2e-6)])
@pytest.mark.parametrize("rows", [1, 6])
def test_int4_linear_equals_matmul_nbits(level, tolerance, rows):
    torch.manual_seed(0)
    weight, x = torch.randn(48, 96), torch.randn(rows, 96)
    scale, point = scale_and_point(weight, INT4)
    integers = functional.quantize(weight, scale, point, INT4).numpy().reshape(48, 3, 32)
    packed = (integers[..., 0::2] | (integers[..., 1::2] << 4)).astype(np.uint8)
    points = np.concatenate([point.numpy(), np.zeros((48, 1), np.uint8)], 1)
    points = (points[:, 0::2] | (points[:, 1::2] << 4)).astype(np.uint8)
    node = helper.make_node(
        "MatMulNBits",
        ["x", "b", "s", "z"],
        ["y"],
        domain="com.microsoft",
        K=96,
        N=48,
        bits=4,
        block_size=32,
        accuracy_level=level,
    )
    expected = run([node], {"b": packed, "s": scale.numpy().reshape(-1), "z": points.reshape(-1)}, {"x": x.numpy()})
    activations = functional.fake_quantize_row_group(x, 32) if level == 4 else x
    ours = activations @ functional.fake_quantize_weight(weight, scale, point, INT4).T
    assert np.abs(ours.numpy() - expected).max() <= tolerance * np.abs(expected).max()


def test_int8_linear_equals_matmul_integer():
    torch.manual_seed(0)
    weight, x = torch.randn(48, 96), torch.randn(1, 9, 96)
    scale, _ = scale_and_point(weight, INT8)
    integers = functional.quantize(weight, scale, None, INT8).numpy().T.copy()
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("MatMulInteger", ["q", "b", "z"], ["i"]),
        helper.make_node("Cast", ["i"], ["f"], to=1),
        helper.make_node("Mul", ["s", "t"], ["u"]),
        helper.make_node("Mul", ["f", "u"], ["y"]),
    ]
    expected = run(nodes, {"b": integers, "t": scale[:, 0].numpy()}, {"x": x.numpy()})
    ours = functional.fake_quantize_tensor(x) @ functional.fake_quantize_weight(weight, scale, None, INT8).T
    assert np.abs(ours.numpy() - expected).max() <= 1e-6 * np.abs(expected).max()


def test_no_pair_of_int8_products_overflows_int16():
    """What makes the int8 target exact on x86 without VNNI (`vpmaddubsw` adds two u8 x s8 products in int16)."""
    assert 2 * 255 * max(abs(INT8.qmin), abs(INT8.qmax)) <= 32767


@pytest.mark.parametrize("sign", [1, -1])
def test_this_cpu_multiplies_the_widest_integers_exactly(sign):
    """Inputs and weights at the ends of their ranges, where a sum that is too narrow would saturate."""
    x, width = np.full((3, 64), 255, np.uint8), max(abs(INT8.qmin), abs(INT8.qmax))
    weight = np.full((64, 32), sign * width, np.int8)
    node = helper.make_node("MatMulInteger", ["x", "w"], ["y"])
    product = run([node], {"w": weight}, {"x": x}, kind=TensorProto.INT32)
    assert np.array_equal(product, x.astype(np.int64) @ weight.astype(np.int64))
