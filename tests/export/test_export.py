"""The files that an export writes: exact integers, right arithmetic, operators that ONNX Runtime really fuses."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper
from transformers import WhisperForConditionalGeneration

from qat_plugin.errors import ExportError, ModelError, ParityError, QuantizationError, WorkspaceError
from qat_plugin.export import export_verified, exporter, gate
from qat_plugin.export import model as file_module
from qat_plugin.export.census import check_operators, check_weights, read_file
from qat_plugin.export.gate import compute_in
from qat_plugin.export.graph import Graph, Weights
from qat_plugin.export.layers import Layers
from qat_plugin.export.model import make_model
from qat_plugin.export.packing import (
    pack_groups,
    pack_halves,
    pack_matmul_nbits,
    unpack_groups,
    unpack_halves,
    unpack_matmul_nbits,
)
from qat_plugin.export.writer import GRAPHS, export_onnx
from qat_plugin.fake_quant import QuantizerConfig, read_checkpoint
from qat_plugin.fake_quant.checkpoint import QuantizedCheckpoint, QuantizedWeight
from qat_plugin.fake_quant.insertion import set_activation_fake_quant
from qat_plugin.fake_quant.schemes import get_target
from qat_plugin.models import load_fake_quant, load_processor, load_whisper
from qat_plugin.training.ptq import quantize_without_training

TARGETS = ["float", "int8", "int4", "mixed"]
HOT_TOKENS = 96
CONFIGS = {
    "int8": QuantizerConfig("int8", 32, skip_modules=("model.encoder.layers.1.fc2",)),
    "int4": QuantizerConfig("int4", 32, skip_modules=("model.encoder.layers.1.fc2",)),
    # int4 with what it may hold of 8 bits
    "mixed": QuantizerConfig(
        "int4",
        32,
        skip_modules=("model.encoder.layers.1.fc2",),
        int8_modules=("model.encoder.layers.0.self_attn.*", "model.decoder.layers.1.fc1"),
        hot_tokens=HOT_TOKENS,
    ),
}


@pytest.fixture(scope="session")
def checkpoints(tiny_whisper_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {"float": tiny_whisper_dir}
    for target, config in CONFIGS.items():
        folders[target] = tmp_path_factory.mktemp(target)
        quantize_without_training(load_whisper(tiny_whisper_dir), config, folders[target], method="rtn")
        load_processor(tiny_whisper_dir).save_pretrained(folders[target])
    return folders


@pytest.fixture(scope="session")
def exported(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {}
    for target, checkpoint in checkpoints.items():
        folders[target] = tmp_path_factory.mktemp(f"onnx-{target}")
        export_onnx(read_checkpoint(checkpoint), folders[target])
    return folders


def session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def test_packing_of_groups_keeps_every_integer() -> None:
    rng = np.random.default_rng(0)
    for groups in (3, 4):
        integers = rng.integers(0, 16, (7, 8 * groups), dtype=np.uint8)
        packed = pack_groups(integers, groups)
        assert packed.shape == (2, 8, 7) and np.array_equal(unpack_groups(packed, groups), integers)
        points, multipliers = rng.integers(0, 16, (2, 7, groups), dtype=np.uint8)
        assert np.array_equal(unpack_groups(pack_groups(points, groups), groups), points)
        assert np.array_equal(unpack_halves(pack_halves(multipliers.T), groups).T, multipliers)


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_onnx_runtime_unpacks_four_bits_to_the_integers_that_were_trained(groups: int) -> None:
    rng = np.random.default_rng(0)
    integers = rng.integers(0, 16, (5, 16 * groups), dtype=np.uint8)
    points, multipliers = rng.integers(0, 16, (2, 5, groups), dtype=np.uint8)
    # Not wider than 64, as the scheme has them.
    multipliers %= 64 // np.maximum(points, 15 - points) + 1
    scheme = get_target("int4", 16).clip_linear
    weight = QuantizedWeight(integers, np.ones((5, 1), np.float32), points, multipliers, None, scheme)
    graph = Graph(Weights())
    columns = Layers(QuantizedCheckpoint(Path(), {}, {}, {}, "int4"))._unpacked_columns(graph, "fc1", weight)
    output = onnx.helper.make_tensor_value_info(columns, onnx.TensorProto.INT8, None)
    proto = make_model("unpacked", graph, [], [output]).SerializeToString()
    (found,) = ort.InferenceSession(proto, providers=["CPUExecutionProvider"]).run(None, {})
    wide = (np.repeat(array.astype(int), 16, axis=1) for array in (points, multipliers))
    assert np.array_equal(found.T, (integers - next(wide)) * next(wide))


def test_eight_bits_are_moved_up_to_the_zero_point_that_the_operator_assumes() -> None:
    integers = np.array([[-127, 0, 127, 1] * 4], np.int8)
    packed, points = pack_matmul_nbits(integers, None, 16)
    assert points is None and packed.reshape(-1)[:4].tolist() == [1, 128, 255, 129]
    assert np.array_equal(unpack_matmul_nbits(packed, None)[0], integers)


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_packing_keeps_every_integer_also_with_an_odd_number_of_groups(groups: int) -> None:
    rng = np.random.default_rng(0)
    integers = rng.integers(0, 16, (5, 16 * groups), dtype=np.uint8)
    points = rng.integers(0, 16, (5, groups), dtype=np.uint8)
    packed, packed_points = pack_matmul_nbits(integers, points, 16)
    assert packed.shape == (5, groups, 8) and packed_points.shape == (5, (groups + 1) // 2)
    back, back_points = unpack_matmul_nbits(packed, packed_points)
    assert np.array_equal(back, integers)
    assert np.array_equal(back_points[:, :groups], points)


def test_the_reference_is_float64_though_one_layer_at_a_time_is(checkpoints: dict[str, Path]) -> None:
    whole, by_layer = (load_whisper(checkpoints["float"]).eval() for _ in range(2))
    features = torch.randn(1, 80, 3000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ids = torch.arange(5)[None]
    whole.double()
    layers = [*by_layer.get_encoder().layers, *by_layer.get_decoder().layers]
    before = [weight.data_ptr() for layer in layers for weight in layer.parameters()]
    compute_in(by_layer, torch.float64)
    with torch.no_grad():
        expected, found = (m(input_features=features, decoder_input_ids=ids).logits for m in (whole, by_layer))
    assert found.dtype == torch.float64 and torch.equal(found, expected)
    weights = [weight for layer in layers for weight in layer.parameters()]
    assert {weight.dtype for weight in weights} == {torch.float32} and [
        weight.data_ptr() for weight in weights
    ] == before


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dummy_length", [0, 1])
def test_weight_only_logits_are_torchs(
    checkpoints: dict[str, Path], tmp_path: Path, target: str, dummy_length: int
) -> None:
    folder = checkpoints[target]
    export_onnx(read_checkpoint(folder), tmp_path, activations=False)
    model = load_whisper(folder).eval() if target == "float" else load_fake_quant(folder, activations=False)
    rng, batch = np.random.default_rng(1), 3
    features = rng.standard_normal((batch, 80, 3000)).astype(np.float32)
    states = session(tmp_path / "encoder_model.onnx").run(None, {"input_features": features})[0]
    decoder = session(tmp_path / "decoder_model_merged.onnx")
    outputs = [value.name for value in decoder.get_outputs()]
    dummy = np.full((batch, 4, dummy_length, 16), 1e3, dtype=np.float32)
    cache = {value.name: dummy for value in decoder.get_inputs() if value.name.startswith("past_key_values")}
    past, cached = None, False
    with torch.no_grad():
        expected = model.model.encoder(torch.from_numpy(features)).last_hidden_state
        np.testing.assert_allclose(states, expected.numpy(), atol=1e-4)
        for length in (4, 1, 3, 1):
            ids = rng.integers(0, 1792, (batch, length))
            feed = {"input_ids": ids, "encoder_hidden_states": expected.numpy(), "use_cache_branch": np.array([cached])}
            found = dict(zip(outputs, decoder.run(None, feed | cache)))
            answer = model(
                encoder_outputs=(expected,),
                decoder_input_ids=torch.from_numpy(ids),
                past_key_values=past,
                use_cache=True,
            )
            np.testing.assert_allclose(found["logits"], answer.logits.numpy(), atol=1e-4)
            past = answer.past_key_values
            for name in outputs[1:]:
                if not (cached and ".encoder." in name):
                    cache[name.replace("present", "past_key_values")] = found[name]
            cached = True


@pytest.mark.parametrize("target", ["float", "int8"])
def test_a_position_beyond_the_table_is_refused(exported: dict[str, Path], target: str) -> None:
    decoder = session(exported[target] / "decoder_model_merged.onnx")
    feed = {value.name: np.zeros((1, 4, 448, 16), np.float32) for value in decoder.get_inputs() if "past" in value.name}
    feed |= {"input_ids": np.array([[5]]), "encoder_hidden_states": np.zeros((1, 1500, 64), np.float32)}
    with pytest.raises(Exception, match="out of"):
        decoder.run(None, feed | {"use_cache_branch": np.array([True])})


@pytest.mark.parametrize("activations", [True, False])
@pytest.mark.parametrize("target", ["float", "int8", "int4"])
@pytest.mark.parametrize(("name", "stride"), [("conv1", 1), ("conv2", 2)])
@pytest.mark.parametrize("frames", [9, 40])
def test_a_convolution_is_torchs(
    checkpoints: dict[str, Path], target: str, name: str, stride: int, frames: int, activations: bool
) -> None:
    folder, module = checkpoints[target], f"model.encoder.{name}"
    model = load_whisper(folder) if target == "float" else load_fake_quant(folder)
    set_activation_fake_quant(model, activations)
    layer = model.eval().get_submodule(module)
    # Mostly below 0, so that the zero point is far from the 0 that Pad has by itself.
    x = -3.0 + torch.randn(2, frames, layer.in_channels, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = layer(x.transpose(1, 2)).transpose(1, 2)
    graph, info = Graph(Weights()), onnx.helper.make_tensor_value_info
    y = Layers(read_checkpoint(folder), activations=activations).convolution(graph, module, "x", stride)
    proto = make_model("one", graph, [info("x", 1, [None, None, layer.in_channels])], [info(y, 1, None)])
    (found,) = ort.InferenceSession(proto.SerializeToString()).run(None, {"x": x.numpy()})
    assert found.shape == (2, -(-frames // stride), layer.out_channels)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("target", "expected"),
    # 2 encoder layers with 6 Linears, of which one fc2 is skipped; 2 decoder layers with 8 for tokens and 2 for clips; the
    # logits. An encoder's q, k, v and a cross-attention's k, v share an input; a convolution's is put together behind its rounding.
    [
        ("int8", {"MatMulIntegerToFloat": 12, "DynamicQuantizeMatMul": 5, "MatMulNBits": 17}),
        ("int4", {"MatMulIntegerToFloat": 12, "DynamicQuantizeMatMul": 5, "MatMulNBits": 17}),
        # the logits in four parts
        ("mixed", {"MatMulIntegerToFloat": 12, "DynamicQuantizeMatMul": 5, "MatMulNBits": 20}),
    ],
)
def test_onnx_runtime_fuses_and_does_not_fold_back_to_float(
    exported: dict[str, Path], tmp_path: Path, target: str, expected: dict[str, int]
) -> None:
    found: Counter[str] = Counter()
    for name in GRAPHS:
        options = ort.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / name)
        options.log_severity_level = 3
        ort.InferenceSession(str(exported[target] / name), options, providers=["CPUExecutionProvider"])
        content = read_file(tmp_path / name)
        found.update(node.op_type for node in content.nodes)
        floats = {
            key: array for key, array in content.initializers.items() if array.dtype == np.float32 and array.ndim > 1
        }
        # Positions are stored small and computed in float, a skipped layer is float throughout.
        computed_in_float = ("embed_positions", "layers.1.fc2")
        large = [
            key
            for key, array in floats.items()
            if array.size >= 64 * 64 and not any(part in key for part in computed_in_float)
        ]
        assert large == [], "weights were folded back to float at load"
    assert {kind: found[kind] for kind in expected} == expected
    assert found["MatMulInteger"] == 0
    # The encoder's layers have attention twice, with silence folded and whole.
    assert found["MultiHeadAttention"] == 2 * 2 + 2
    assert found["Sin"] == found["Cos"] == 0, "positions are computed for every clip"


@pytest.mark.parametrize("name", GRAPHS)
def test_numbers_are_scalars_where_operators_want_them(exported: dict[str, Path], name: str) -> None:
    content = read_file(exported["int4"] / name)
    bounds = [x for node in content.nodes if node.op_type == "Range" for x in node.input if x in content.initializers]
    assert bounds and all(content.initializers[x].shape == () for x in bounds)


@pytest.mark.parametrize("name", GRAPHS)
def test_every_node_has_a_name_of_its_own_that_a_profile_can_tell(exported: dict[str, Path], name: str) -> None:
    names = Counter(node.name for node in read_file(exported["int4"] / name).nodes)
    assert names.most_common(1)[0][1] == 1 and "" not in names


@pytest.mark.parametrize("target", TARGETS)
def test_large_weights_go_beside_the_file(
    checkpoints: dict[str, Path], exported: dict[str, Path], tmp_path: Path, target: str
) -> None:
    export_onnx(read_checkpoint(checkpoints[target]), tmp_path, external_data_bytes=10_000)
    features = np.random.default_rng(0).standard_normal((1, 80, 3000)).astype(np.float32)
    for name in GRAPHS:
        assert (tmp_path / f"{name}_data").stat().st_size > 10_000
    inside, beside = (session(folder / "encoder_model.onnx") for folder in (exported[target], tmp_path))
    assert np.array_equal(
        inside.run(None, {"input_features": features})[0], beside.run(None, {"input_features": features})[0]
    )


@pytest.mark.parametrize("target", ["float", "int8", "int4"])
def test_the_embedding_is_loaded_once(
    tiny_whisper_dir: Path, exported: dict[str, Path], tmp_path: Path, target: str
) -> None:
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(
        str(exported[target] / "decoder_model_merged.onnx"), options, providers=["CPUExecutionProvider"]
    )
    rows = read_checkpoint(tiny_whisper_dir).config["vocab_size"]
    stored = rows * 64 // (2 if target == "int4" else 1)
    tables = [a for a in read_file(tmp_path / "optimized.onnx").initializers.values() if a.size == stored]
    assert len(tables) == 1


def tamper(folder: Path, file: str, name: str) -> None:
    model = onnx.load(str(folder / file))
    tensor = next(t for t in model.graph.initializer if t.name == name)
    array = numpy_helper.to_array(tensor).copy()
    array.reshape(-1).view(np.uint8)[0] ^= 1
    tensor.CopyFrom(numpy_helper.from_array(array, name))
    onnx.save(model, str(folder / file))


LINEAR_PARTS = [
    "model.decoder.layers.1.fc1.weight_quantized", "model.decoder.layers.0.fc2.bias",
    "model.decoder.layers.0.encoder_attn.k_proj.weight_quantized",
    "model.decoder.layers.1.encoder_attn.v_proj.weight_scale",
]  # fmt: skip


@pytest.mark.parametrize(
    ("target", "name"),
    [
        *((target, name) for target in ("int8", "int4") for name in LINEAR_PARTS),
        ("int8", "model.decoder.embed_tokens.weight_scale"),
        ("int4", "model.decoder.embed_tokens.weight_quantized"),
        ("mixed", f"model.decoder.embed_tokens[:{HOT_TOKENS}].weight_quantized"),
        ("mixed", f"model.decoder.embed_tokens[{HOT_TOKENS}:256].weight_zero_point"),
        ("mixed", "model.decoder.layers.1.fc1.weight_scale"),
    ],
)
def test_one_changed_bit_is_found_and_named(
    checkpoints: dict[str, Path], exported: dict[str, Path], tmp_path: Path, target: str, name: str
) -> None:
    checkpoint = read_checkpoint(checkpoints[target])
    shutil.copytree(exported[target], tmp_path, dirs_exist_ok=True)
    check_weights([read_file(tmp_path / graph) for graph in GRAPHS], checkpoint)
    tamper(tmp_path, "decoder_model_merged.onnx", name)
    with pytest.raises(ParityError, match=re.escape(name.rsplit(".", 1)[0])):
        check_weights([read_file(tmp_path / graph) for graph in GRAPHS], checkpoint)


def test_changed_positions_are_found(checkpoints: dict[str, Path], exported: dict[str, Path], tmp_path: Path) -> None:
    checkpoint = read_checkpoint(checkpoints["int4"])
    shutil.copytree(exported["int4"], tmp_path, dirs_exist_ok=True)
    stored = [key for graph in GRAPHS for key in read_file(tmp_path / graph).initializers if "embed_positions" in key]
    positions = "model.encoder.embed_positions"
    assert f"{positions}.inverse_timescales" in stored and f"{positions}.weight" not in stored
    tamper(tmp_path, "encoder_model.onnx", f"{positions}.inverse_timescales")
    with pytest.raises(ParityError, match=positions):
        check_weights([read_file(tmp_path / graph) for graph in GRAPHS], checkpoint)


def test_frames_of_a_convolution_in_another_order_are_found(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    checkpoint = read_checkpoint(checkpoints["int8"])
    weight = checkpoint.quantized["model.encoder.conv2"]
    swapped = weight.integers.reshape(len(weight.integers), -1, 3)[..., ::-1].reshape(weight.integers.shape)
    changed = dataclasses.replace(weight, integers=swapped)
    export_onnx(
        dataclasses.replace(checkpoint, quantized={**checkpoint.quantized, "model.encoder.conv2": changed}), tmp_path
    )
    with pytest.raises(ParityError, match=r"model\.encoder\.conv2: \d+ of its \d+ integers are not the trained ones"):
        check_weights([read_file(tmp_path / graph) for graph in GRAPHS], checkpoint)


@pytest.mark.parametrize(
    ("target", "operator"), [("int8", "MatMulInteger"), ("int4", "MatMulNBits"), ("int4", "GatherBlockQuantized")]
)
def test_a_quantized_product_that_is_missing_is_found(
    checkpoints: dict[str, Path], exported: dict[str, Path], target: str, operator: str
) -> None:
    """As where a layer's integers are there and its product is computed by another operator."""
    checkpoint = read_checkpoint(checkpoints[target])
    files = [read_file(exported[target] / graph) for graph in GRAPHS]
    check_operators(files, checkpoint, activations=True)
    for file in files:
        if found := [node for node in file.nodes if node.op_type == operator]:
            found[0].op_type = "MatMul"
            break
    with pytest.raises(ParityError, match=rf"the files hold \d+ {operator}, .*\d+$"):
        check_operators(files, checkpoint, activations=True)


WEIGHTS_ONCE = """
import sys
from pathlib import Path
from qat_plugin.evaluation.environment import memory_bytes
from qat_plugin.export.census import read_file
before = memory_bytes("VmRSS")
content = read_file(Path(sys.argv[1]))
assert [node.op_type for node in content.nodes] == ["Identity"]
print((memory_bytes("VmRSS") - before) / content.weight_bytes)
"""


@pytest.mark.parametrize("beside", [False, True])
def test_weights_that_are_read_are_in_memory_once(tmp_path: Path, beside: bool) -> None:
    path = tmp_path / "large.onnx"
    weight = numpy_helper.from_array(np.ones((4000, 10_000), np.float32), "weight")
    output = onnx.helper.make_tensor_value_info("output", onnx.TensorProto.FLOAT, None)
    node = onnx.helper.make_node("Identity", ["weight"], ["output"])
    graph = onnx.helper.make_graph([node], "large", [], [output], [weight])
    file_module.save_model(onnx.helper.make_model(graph), path, external_data_bytes=1 if beside else 10**9)
    script = [sys.executable, "-c", WEIGHTS_ONCE, str(path)]
    times = float(subprocess.run(script, capture_output=True, text=True, check=True).stdout)
    assert 0.9 < times < 1.3


def test_the_tokenizer_is_compact_and_the_same(checkpoints: dict[str, Path], exported: dict[str, Path]) -> None:
    before, after = (folders["int4"] / "tokenizer.json" for folders in (checkpoints, exported))
    assert after.stat().st_size < 0.7 * before.stat().st_size
    assert json.loads(after.read_text("utf8")) == json.loads(before.read_text("utf8"))
    text = "L'été, à Noël 12 %"
    ids = [load_processor(folder.parent).tokenizer(text).input_ids for folder in (before, after)]
    assert ids[0] == ids[1]


def test_transformers_4_and_5_read_the_tokenizer(checkpoints: dict[str, Path], exported: dict[str, Path]) -> None:
    settings = json.loads((exported["int4"] / "tokenizer_config.json").read_text("utf8"))
    assert not isinstance(settings.get("extra_special_tokens"), list)  # 4 takes a dictionary there, and stops at this
    before, after = (load_processor(folders["int4"]).tokenizer for folders in (checkpoints, exported))
    assert set(before.all_special_ids) == set(after.all_special_ids)


def test_a_second_export_is_the_same_bytes(
    checkpoints: dict[str, Path], exported: dict[str, Path], tmp_path: Path
) -> None:
    export_onnx(read_checkpoint(checkpoints["int4"]), tmp_path)
    for name in GRAPHS:
        assert (tmp_path / name).read_bytes() == (exported["int4"] / name).read_bytes()


def test_a_disk_without_room(checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = file_module.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(file_module.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(WorkspaceError, match=r"encoder_model\.onnx"):
        export_onnx(read_checkpoint(checkpoints["int4"]), tmp_path)
    assert not list(tmp_path.glob("*.onnx*"))


def test_a_disk_that_fills_while_writing(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(file_module.onnx, "save", full)
    with pytest.raises(WorkspaceError, match="encoder_model"):
        export_onnx(read_checkpoint(checkpoints["int4"]), tmp_path)


def test_a_missing_companion_is_named(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for file in checkpoints["float"].iterdir():
        if file.name not in ("processor_config.json", "preprocessor_config.json"):
            (bare / file.name).symlink_to(file)
    with pytest.raises(ExportError, match="processor"):
        export_onnx(read_checkpoint(bare), tmp_path / "out")


def test_a_missing_tensor_is_named(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    checkpoint = read_checkpoint(checkpoints["float"])
    del checkpoint.tensors["model.decoder.layers.0.fc1.weight"]
    with pytest.raises(ExportError, match="fc1"):
        export_onnx(checkpoint, tmp_path)


class TestExportVerified:
    clips = [
        (np.random.default_rng(i).standard_normal(16000).astype(np.float32) * 0.1, language)
        for i, language in enumerate(("french", "es"))
    ]

    def test_writes_a_complete_folder(self, checkpoints: dict[str, Path], tmp_path: Path) -> None:
        report = export_verified(
            checkpoints["float"], tmp_path / "onnx", clips=self.clips, task="transcribe", quantized=False
        )
        assert report.greedy_identical == 2 and report.max_weight_only_logit_difference < 1e-4
        names = {path.name for path in (tmp_path / "onnx").iterdir()}
        assert {
            *GRAPHS,
            "quantization.json",
            "parity.json",
            "config.json",
            "tokenizer.json",
            "preprocessor_config.json",
        } <= names
        assert [path.name for path in tmp_path.iterdir()] == ["onnx"]

    def test_files_that_fail_are_not_written_and_an_earlier_export_stays(
        self,
        checkpoints: dict[str, Path],
        exported: dict[str, Path],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def with_one_bit_flipped(checkpoint: QuantizedCheckpoint, folder: Path) -> None:
            export_onnx(checkpoint, folder)
            tamper(folder, "decoder_model_merged.onnx", "model.decoder.layers.1.fc1.weight_quantized")

        earlier = shutil.copytree(exported["int8"], tmp_path / "earlier")
        (earlier / "quantization.json").write_text("{}")
        before = {path.name: path.read_bytes() for path in earlier.iterdir()}
        monkeypatch.setattr(exporter, "export_onnx", with_one_bit_flipped)
        for folder in (earlier, tmp_path / "new"):
            with pytest.raises(ParityError, match=r"layers\.1\.fc1: 1 of its \d+ integers are not the trained ones"):
                export_verified(checkpoints["int8"], folder, clips=self.clips, task="transcribe")
        assert {path.name: path.read_bytes() for path in earlier.iterdir()} == before
        assert [path.name for path in tmp_path.iterdir()] == ["earlier"]

    def test_arithmetic_that_is_not_the_trained_models_is_found(
        self, checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Weights and operators as they should be, and another result: here by a norm that torch is told otherwise of."""

        def another(checkpoint: QuantizedCheckpoint) -> WhisperForConditionalGeneration:
            model = load_whisper(checkpoint.folder).eval()
            model.model.decoder.layer_norm.eps = 1e-2
            return model

        monkeypatch.setattr(gate, "_vanilla_model", another)
        with pytest.raises(
            ParityError, match=r"weight-only logits on clip 0 differ from torch's by .*encoder's states"
        ):
            export_verified(checkpoints["int8"], tmp_path / "onnx", clips=self.clips, task="transcribe")
        assert not list(tmp_path.iterdir())

    def test_leaves_a_folder_of_something_else_alone(self, checkpoints: dict[str, Path], tmp_path: Path) -> None:
        (tmp_path / "diary.txt").write_text("mine")
        with pytest.raises(WorkspaceError, match="something else"):
            export_verified(checkpoints["float"], tmp_path, clips=self.clips, task="transcribe", quantized=False)
        assert (tmp_path / "diary.txt").read_text() == "mine"

    def test_refuses_to_compare_nothing(self, checkpoints: dict[str, Path], tmp_path: Path) -> None:
        with pytest.raises(ParityError, match="no clip"):
            export_verified(checkpoints["float"], tmp_path / "x", clips=[], task="transcribe", quantized=False)

    def test_a_checkpoint_that_lost_its_quantizers_is_not_exported_in_float(
        self, checkpoints: dict[str, Path], tmp_path: Path
    ) -> None:
        lost = shutil.copytree(checkpoints["int4"], tmp_path / "lost")
        (lost / "quantizer.json").unlink()
        with pytest.raises(QuantizationError, match=r"lost has no quantizer\.json.*quantized=False"):
            export_verified(lost, tmp_path / "onnx", clips=self.clips, task="transcribe")
        assert [path.name for path in tmp_path.iterdir()] == ["lost"]
        half = shutil.copytree(checkpoints["int4"], tmp_path / "half")
        (half / "quantizer.safetensors").unlink()
        with pytest.raises(ModelError, match=r"quantizer\.safetensors is missing"):
            export_verified(half, tmp_path / "onnx", clips=self.clips, task="transcribe")

    def test_a_quantized_checkpoint_is_not_the_float_one(self, checkpoints: dict[str, Path], tmp_path: Path) -> None:
        with pytest.raises(QuantizationError, match="not the float one that was asked for"):
            export_verified(
                checkpoints["int4"], tmp_path / "onnx", clips=self.clips, task="transcribe", quantized=False
            )


def test_bytes_that_nothing_accounts_for_are_found(
    checkpoints: dict[str, Path], exported: dict[str, Path], tmp_path: Path
) -> None:
    """As many as the encoder's positions would take, which are computed and not stored."""
    checkpoint = read_checkpoint(checkpoints["int4"])
    shutil.copytree(exported["int4"], tmp_path, dirs_exist_ok=True)
    path = tmp_path / "encoder_model.onnx"
    model = onnx.load(path)
    model.graph.initializer.append(numpy_helper.from_array(np.ones(75_000, np.float32), "stowaway"))
    onnx.save(model, path)
    with pytest.raises(ParityError, match=r"the files hold 3\d{5} bytes of weights that are neither"):
        check_weights([read_file(tmp_path / graph) for graph in GRAPHS], checkpoint)


@pytest.mark.parametrize("target", ["int4", "int8"])
def test_an_embedding_that_is_not_the_output_layer_too(tiny_whisper_dir: Path, tmp_path: Path, target: str) -> None:
    model = load_whisper(tiny_whisper_dir)
    model.proj_out.weight = torch.nn.Parameter(model.proj_out.weight.detach().flip(0))
    model.config.tie_word_embeddings = False
    quantize_without_training(model, QuantizerConfig(target, 32), tmp_path / "checkpoint", method="rtn")
    processor = load_processor(tiny_whisper_dir)
    processor.save_pretrained(tmp_path / "checkpoint")
    audio = np.sin(np.arange(16000) / 20).astype(np.float32)
    report = export_verified(tmp_path / "checkpoint", tmp_path / "onnx", clips=[(audio, "fr")], task="transcribe")
    assert report.passed
