"""What quantization costs before training: each part alone, the verdict, and the command on a tiny Whisper."""

import json
import re

import pytest
import torch
from tiny import save_tiny_whisper, split_tones

from qat_plugin.cli import main
from qat_plugin.diagnosis import suggest, verdict
from qat_plugin.encoder_context import EncoderContext
from qat_plugin.errors import QuantizationError
from qat_plugin.evaluation.bootstrap import MIN_UNITS
from qat_plugin.fake_quant import QuantizerConfig, set_fake_quant
from qat_plugin.models import load_fake_quant, load_whisper
from qat_plugin.training.ptq import quantize_without_training
from qat_plugin.training.sensitivity import measure_sensitivity

EIGHT_BITS = ["model.encoder.layers.0.self_attn.*", "model.encoder.layers.1.*"]


@pytest.fixture(scope="module")
def checkpoint(tiny_whisper_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("int4")
    quantize_without_training(load_whisper(tiny_whisper_dir), QuantizerConfig("int4", 32), folder, method="rtn")
    return folder


def batches(count=2):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(count, 80, 3000, generator=generator)
    features[..., 100:] = features.min()
    return [{"input_features": features, "labels": torch.randint(0, 200, (count, 6), generator=generator)}]


def test_each_part_is_quantized_alone_and_the_model_is_left_as_it_was(tiny_whisper_dir, checkpoint):
    model, teacher = load_fake_quant(checkpoint), load_whisper(tiny_whisper_dir)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = {s.part: s for s in measure_sensitivity(model, teacher, batches(), EncoderContext())}
    assert next(iter(found)) == "all"
    assert {f"{side}.layers.{i}" for side in ("encoder", "decoder") for i in (0, 1)} < set(found)
    assert all(0 < part.kl < found["all"].kl for name, part in found.items() if "layers" in name)
    layer = found["encoder.layers.0"]
    assert (layer.weights, layer.bits) == (4 * 64 * 64 + 2 * 64 * 128, 4)
    assert layer.extra_megabytes == pytest.approx(layer.weights / 2e6) and found["encoder.conv1"].extra_megabytes == 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    # With all weights float, only what rounding the activations costs is left; with one layer's, more than that.
    assert 0.8 * found["all"].kl < found["all"].won < found["all"].kl
    assert 0 < layer.won < 0.9 * found["all"].won
    assert sum(part.weights for name, part in found.items() if name != "all") == found["all"].weights


def test_weights_that_have_eight_bits_cost_nothing_more(tiny_whisper_dir, tmp_path):
    config = QuantizerConfig("int4", 32, int8_modules=("model.encoder.layers.0.self_attn.*",), hot_tokens=96)
    quantize_without_training(load_whisper(tiny_whisper_dir), config, tmp_path, method="rtn")
    model, teacher = load_fake_quant(tmp_path), load_whisper(tiny_whisper_dir)
    found = {s.part: s for s in measure_sensitivity(model, teacher, batches(), None)}
    attention, rest = 4 * 64 * 64, 2 * 64 * 128
    assert found["encoder.layers.0"].weights == attention + rest
    assert found["encoder.layers.0"].extra_megabytes == pytest.approx(rest / 2e6)
    assert found["encoder.layers.1"].extra_megabytes == pytest.approx((attention + rest) / 2e6)
    table = found["decoder.embed_tokens"]
    assert table.bits == 4 and table.extra_megabytes < (table.weights - 96 * 64) / 2e6


def test_a_float_model_in_disguise_loses_nothing(tiny_whisper_dir, checkpoint):
    model, teacher = load_fake_quant(checkpoint), load_whisper(checkpoint)
    set_fake_quant(model, True)
    # The teacher has the quantized weights too: what is left is the rounding of activations.
    with_weights = measure_sensitivity(model, teacher, batches(), None)[0].kl
    assert with_weights < 0.2 * measure_sensitivity(model, load_whisper(tiny_whisper_dir), batches(), None)[0].kl


def test_no_clips_is_a_clear_error(tiny_whisper_dir, checkpoint):
    with pytest.raises(QuantizationError, match="calibration_samples"):
        measure_sensitivity(load_fake_quant(checkpoint), load_whisper(tiny_whisper_dir), [], None)


@pytest.mark.parametrize(
    ("difference", "interval", "words"),
    [
        (0.03, [0.01, 0.05], r"something to win back: without training the target costs \+3\.00 points"),
        (0.001, [-0.002, 0.004], "Nothing to win back"),
        (0.01, [-0.01, 0.03], r"cannot tell: .*-1\.00 to \+3\.00"),
    ],
)
def test_the_verdict_follows_the_interval(difference, interval, words):
    # Folded silence had won what quantization lost: beside the arm that folds nothing, nothing seems lost.
    versus = {"fp": {"difference": 0.0, "interval": [-0.001, 0.001]}}
    versus["fp-auto"] = {"difference": difference, "interval": interval}
    assert re.search(words, verdict({"versus": versus}, "fp-auto"))


def test_of_few_clips_there_is_no_verdict():
    said = verdict({"versus": {"fp": {"difference": 0.03, "interval": None}}}, "fp")
    assert (
        said.startswith("This speech cannot tell: without training the target costs +3.00 points")
        and f"{MIN_UNITS} clips" in said
    )


def test_bytes_go_where_they_buy_most():
    parts = [
        {"part": "encoder.layers.0", "won": 0.03, "extra_megabytes": 1.0},
        {"part": "decoder.layers.5", "won": 0.05, "extra_megabytes": 1.2},
        {"part": "decoder.layers.1", "won": 0.001, "extra_megabytes": 1.2},
        {"part": "decoder.embed_tokens", "won": 0.5, "extra_megabytes": 12.0},  # hot_tokens' business
        {"part": "encoder.conv1", "won": 0.5, "extra_megabytes": 0.0},
        # Its inputs are what costs: finer weights would win nothing.
        {"part": "encoder.layers.1", "kl": 0.9, "won": -0.001, "extra_megabytes": 1.0},
    ]
    assert suggest(parts, total_mb=100) == ["model.decoder.layers.5.*", "model.encoder.layers.0.*"]
    assert suggest(parts, total_mb=30) == ["model.decoder.layers.5.*"]


def test_the_command_writes_a_verdict_a_table_and_a_plot(tones_manifest, tiny_short_whisper, tmp_path, capsys):
    train, test = split_tones(tones_manifest, tmp_path)
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps({
        "model_name_or_path": str(tiny_short_whisper), "train_data": [str(train)],
        "test_data": [str(test)], "target": "int4", "int8_modules": EIGHT_BITS, "calibration_samples": 2, "parity_samples": 1,
        "bootstrap_resamples": 200, "output_dir": str(tmp_path / "out"), "max_steps": 1, "use_cpu": True, "encoder_context": "auto",
    }))  # fmt: skip
    results = tmp_path / "out" / "evaluation" / "results.json"
    assert main(["export", str(recipe), "--arms", "fp", "ptq-mse"]) == 0
    assert main(["evaluate", str(recipe), "--arms", "fp", "ptq-mse"]) == 0
    assert main(["diagnose", str(recipe)]) == 0
    # What had been measured before is in the results still.
    assert list(json.loads(results.read_text("utf8"))["arms"]) == ["fp", "fp-auto", "ptq-rtn", "ptq-mse", "ptq-gptq"]
    printed = capsys.readouterr().out
    assert "int4 before training" in printed and re.search(r"points of WER beside fp-auto", printed)
    found = json.loads((tmp_path / "out" / "diagnosis" / "diagnosis.json").read_text("utf8"))
    assert found["kl_all"] > 0 and {part["part"] for part in found["parts"]} >= {"encoder.layers.0", "decoder.layers.1"}
    # What is pasted replaces the recipe's own list, and must hold it.
    pasted = json.loads("{" + re.search(r'"int8_modules": \[.*\]', printed)[0] + "}")["int8_modules"]
    assert found["suggestion"] and pasted == EIGHT_BITS + [
        glob for glob in found["suggestion"] if glob not in EIGHT_BITS
    ]
    assert (tmp_path / "out" / "diagnosis" / "sensitivity.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture(scope="module")
def tiny_short_whisper(tmp_path_factory):
    return save_tiny_whisper(tmp_path_factory.mktemp("tiny"), max_target_positions=12)
