"""A recipe's run as `qat-plugin train` and `export` make it: every baseline from what it says, and gone on with where it stopped."""

import itertools
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import save_tiny_whisper, split_tones

from qat_plugin.cli import main
from qat_plugin.fake_quant.checkpoint import read_checkpoint
from qat_plugin.runtime import QuantizedWhisper
from qat_plugin.training.run import _ReturnMemory

ARMS = ["fp", "fp-auto", "fp-ft", "ptq-rtn", "ptq-kquant", "ptq-hqq", "ptq-mse", "ptq-gptq", "ptq-ft", "qat"]


def write_recipe(folder: Path, manifest: Path, **values: object) -> Path:
    train, test = split_tones(manifest, folder)
    model = folder / "model"
    if not model.exists():
        save_tiny_whisper(model, max_target_positions=12)
    recipe = {
        "model_name_or_path": str(model), "language": "french", "train_data": [str(train)],
        "test_data": [str(test)], "target": "int4", "calibration_samples": 2, "parity_samples": 1,
        "encoder_context": "auto", "arms": ["fp", "qat"], "output_dir": str(folder / "out"), "max_steps": 4,
        "learning_rate": 1e-2, "per_device_train_batch_size": 1, "save_steps": 1, "report_to": "none", "use_cpu": True,
        **values,
    }  # fmt: skip
    path = folder / f"{Path(str(recipe['output_dir'])).name}.json"
    path.write_text(json.dumps(recipe), encoding="utf8")
    return path


@pytest.fixture(scope="module")
def made(tones_manifest, tmp_path_factory) -> Path:
    """Output folder of all baselines, trained, exported and verified."""
    folder = tmp_path_factory.mktemp("arms")
    recipe = write_recipe(folder, tones_manifest, arms=ARMS)
    for step in ("train", "export"):
        assert main([step, str(recipe)]) == 0
    return folder / "out"


@pytest.mark.slow
def test_only_the_arm_fp_computes_the_whole_window(made):
    features = torch.full((1, 80, 3000), -1.0)
    features[..., :100] = torch.rand(80, 100)
    positions = {
        arm: QuantizedWhisper.from_pretrained(made / "onnx" / arm).get_encoder()(features)[0].shape[1] for arm in ARMS
    }
    assert positions.pop("fp") == 1500
    assert len({*positions.values()}) == 1 and positions["qat"] < 400, positions


@pytest.mark.slow
def test_float_arms_are_the_models_they_are_called_after(made):
    tensors = {arm: load_file(made / arm / "model.safetensors") for arm in ("fp", "fp-auto", "fp-ft")}
    original = load_file(made.parent / "model" / "model.safetensors")
    for arm in ("fp", "fp-auto"):
        assert all(torch.equal(tensor, original[name]) for name, tensor in tensors[arm].items())
    assert not any(torch.equal(tensors["fp-ft"][name], tensor) for name, tensor in original.items() if "fc1" in name)
    assert not list(made.glob("fp-ft/quantizer*"))


@pytest.mark.slow
def test_ptq_ft_quantizes_the_control_and_the_others_the_original(made):
    floats = {name: load_file(made / name / "model.safetensors") for name in ("fp", "fp-ft")}
    module = "model.decoder.layers.0.fc1"
    for arm in [arm for arm in ARMS if arm.startswith("ptq-")]:
        found = load_file(made / arm / "model.safetensors")[f"{module}.weight"]
        distance = {name: float((found - weights[f"{module}.weight"]).norm()) for name, weights in floats.items()}
        source = min(distance, key=distance.get)
        assert source == ("fp-ft" if arm == "ptq-ft" else "fp"), (arm, distance)


@pytest.mark.slow
def test_every_quantized_arm_is_a_model_of_its_own(made):
    """A rival that came to be another's copy would be a comparison with nothing."""
    quantized = [arm for arm in ARMS if arm.startswith("ptq-") or arm == "qat"]
    integers = {arm: read_checkpoint(made / arm if arm != "qat" else made / "train").quantized for arm in quantized}
    for one, two in itertools.combinations(quantized, 2):
        pairs = [(integers[one][name].integers, weight.integers) for name, weight in integers[two].items()]
        assert any((first != second).any() for first, second in pairs), (one, two)


def test_training_that_was_interrupted_goes_on_and_ends_as_if_it_had_not_been(tones_manifest, tmp_path, monkeypatch):
    whole, stopped = (write_recipe(tmp_path, tones_manifest, output_dir=str(tmp_path / name)) for name in ("a", "b"))
    assert main(["train", str(whole)]) == 0
    steps: list[int] = []

    def at_step(self, args, state, control, **kwargs):
        steps.append(state.global_step)
        if steps == [1, 2, 3]:
            raise KeyboardInterrupt

    monkeypatch.setattr(_ReturnMemory, "on_step_end", at_step)
    with pytest.raises(KeyboardInterrupt):
        main(["train", str(stopped)])
    # The third step was not saved any more: it is the first that is done again.
    assert main(["train", str(stopped)]) == 0 and steps == [1, 2, 3, 3, 4]
    for name in ("model.safetensors", "quantizer.safetensors"):
        one, two = (load_file(tmp_path / folder / "train" / name) for folder in ("a", "b"))
        assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)
