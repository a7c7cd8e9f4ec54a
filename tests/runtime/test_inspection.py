"""Where bytes and milliseconds are: every byte of the folder is accounted for, every kernel belongs somewhere."""

import json

import pytest

from qat_plugin.cli import main
from qat_plugin.export.writer import export_onnx
from qat_plugin.fake_quant import QuantizerConfig, read_checkpoint
from qat_plugin.models import load_processor, load_whisper, part_of
from qat_plugin.runtime.files import find_model_files
from qat_plugin.runtime.inspection import count_bytes
from qat_plugin.training.ptq import quantize_without_training


@pytest.fixture(scope="module")
def folder(tiny_whisper_dir, tmp_path_factory):
    checkpoint, onnx = tmp_path_factory.mktemp("checkpoint"), tmp_path_factory.mktemp("onnx")
    quantize_without_training(load_whisper(tiny_whisper_dir), QuantizerConfig("int4", 32), checkpoint, method="rtn")
    load_processor(tiny_whisper_dir).save_pretrained(checkpoint)
    export_onnx(read_checkpoint(checkpoint), onnx, external_data_bytes=10_000)
    return onnx


def test_every_byte_of_the_folder_is_counted_once(folder):
    size = count_bytes(find_model_files(folder))
    assert size.total == sum(path.stat().st_size for path in folder.iterdir())
    assert size.others["tokenizer.json"] == (folder / "tokenizer.json").stat().st_size
    fc1 = size.parts["encoder.layers.0"]
    # 64 x 64 four times and 64 x 128 twice, two weights a byte; a byte for each group of 32, four for each channel.
    weights = 4 * 64 * 64 + 2 * 64 * 128
    assert fc1["integers"] == weights // 2
    assert fc1["scales"] == weights // 32 + 4 * (4 * 64 + 128 + 64)
    assert {"encoder.layers.1", "decoder.layers.0", "decoder.layers.1", "decoder.embed_tokens"} <= set(size.parts)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("model.encoder.conv1.weight_quantized", "encoder.conv1"),
        ("first:model.decoder.layers.11.encoder_attn.k_proj/MatMulInteger", "decoder.layers.11"),
        ("proj_out/MatMulNBits_kernel_time", "decoder.embed_tokens"),
        ("constant_int64", "other"),
    ],
)
def test_names_belong_to_parts(name, part):
    assert part_of(name) == part


def test_the_command_prints_tables_and_json(folder, capsys):
    assert main(["inspect", str(folder), "--seconds", "1", "--num_threads", "1"]) == 0
    text = capsys.readouterr().out
    assert "decoder.embed_tokens" in text and "encoder, 1 s of speech" in text
    assert main(["inspect", str(folder), "--seconds", "1", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["bytes"]["total"] == sum(path.stat().st_size for path in folder.iterdir())
    encoder, first, later = found["milliseconds"]
    assert encoder["operators"]["DynamicQuantizeMatMul"] > 0 and encoder["parts"]["encoder.layers.1"] > 0
    assert first["operators"]["MatMulNBits"] > 0 and "DynamicQuantizeMatMul" not in later["operators"]


def test_an_impossible_length_is_refused(folder, capsys):
    assert main(["inspect", str(folder), "--seconds", "31"]) == 1
    assert "--seconds is 31: it must be above 0 and at most 30" in capsys.readouterr().err
