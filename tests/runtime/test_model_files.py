"""Where `QuantizedWhisper.from_pretrained` looks, and what it says when something is not there."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from hub_server import Hub

from qat_plugin.errors import ModelError
from qat_plugin.runtime import QuantizedWhisper

NEEDED = ["config.json", "generation_config.json", "encoder_model.onnx", "decoder_model_merged.onnx"]


@pytest.fixture
def folder(tiny_onnx_dir: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(tiny_onnx_dir, tmp_path / "model"))


@pytest.mark.parametrize("name", NEEDED)
def test_missing_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ModelError, match=f"model: {name} is missing; give the folder that `qat-plugin export` wrote"):
        QuantizedWhisper.from_pretrained(folder)


def test_not_a_whisper(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "wav2vec2"}))
    with pytest.raises(ModelError, match=r"config.json: model_type is 'wav2vec2', only 'whisper'"):
        QuantizedWhisper.from_pretrained(folder)


def test_config_that_is_not_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config.json: not JSON"):
        QuantizedWhisper.from_pretrained(folder)


@pytest.mark.parametrize(
    "content", [b"", b"version https://git-lfs.github.com/spec/v1\n"], ids=["empty", "lfs pointer"]
)
def test_broken_graph(folder: Path, content: bytes) -> None:
    (folder / "encoder_model.onnx").write_bytes(content)
    with pytest.raises(
        ModelError, match=r"encoder_model.onnx: ONNX Runtime .* cannot load it .*export the model again"
    ):
        QuantizedWhisper.from_pretrained(folder)


@pytest.mark.parametrize("settings_in_subfolder", [True, False])
def test_subfolder(folder: Path, tmp_path: Path, settings_in_subfolder: bool) -> None:
    (tmp_path / "repo" / "onnx").mkdir(parents=True)
    for path in folder.iterdir():
        below = settings_in_subfolder or path.suffix == ".onnx"
        shutil.move(path, tmp_path / "repo" / ("onnx" if below else "") / path.name)
    model = QuantizedWhisper.from_pretrained(tmp_path / "repo", subfolder="onnx")
    assert model.files.encoder == tmp_path / "repo" / "onnx" / "encoder_model.onnx"
    assert model.generation_config.is_multilingual


def test_neither_folder_nor_hub_model() -> None:
    with pytest.raises(ModelError, match="'nobody/nothing' is neither a folder nor a Hub model that can be reached"):
        QuantizedWhisper.from_pretrained("nobody/nothing")


def test_hub_model(folder: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "model.safetensors").write_bytes(b"weights that the runtime does not need")
    sha = hub.add_repo("tester/whisper-tiny-onnx", folder).sha
    hub.patch(monkeypatch)
    model = QuantizedWhisper.from_pretrained("tester/whisper-tiny-onnx", revision=sha)
    assert model.generate(torch.zeros(1, 80, 3000), language="fr", task="transcribe", max_new_tokens=3).shape[0] == 1
    assert not (model.files.settings / "model.safetensors").exists()
    with pytest.raises(
        ModelError, match=r"'tester/whisper-tiny-onnx' is neither .* check the path, or the name, revision"
    ):
        QuantizedWhisper.from_pretrained("tester/whisper-tiny-onnx", revision="no-such-branch")
