"""The Python and shell lines of a card, run as rendered, in fresh processes that know nothing but the Hub."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile as sf
import torch
from client_model import REPO, make_model, write_clip
from hub_server import Hub
from transformers import AutoProcessor

from qat_plugin import QuantizedWhisper, read_audio
from qat_plugin.publishing import push


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """ONNX folder and card folder."""
    return make_model(tmp_path_factory.mktemp("blocks"), "int4")


@pytest.fixture
def published(made: tuple[Path, Path], hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """ONNX folder of the model that lies on the Hub as `REPO`, with clip.wav and clip.mp3 in the folder of the test."""
    hub.patch(monkeypatch)
    folder, card_folder = made
    push(folder, card_folder, REPO)
    clip = write_clip(tmp_path / "clip.wav")
    audio, rate = sf.read(clip)
    sf.write(tmp_path / "clip.mp3", audio, rate)
    return folder


def said_by_our_runtime(folder: Path, clip: Path) -> str:
    processor = AutoProcessor.from_pretrained(folder)
    features = processor(read_audio(clip), sampling_rate=16000, return_tensors="pt").input_features
    with torch.inference_mode():
        tokens = QuantizedWhisper.from_pretrained(folder).generate(features, language="fr", task="transcribe")
    return processor.batch_decode(tokens, skip_special_tokens=True)[0].strip()


def run(hub: Hub, folder: Path, command: list[str]) -> str:
    """What a command prints whose PATH has the environment's own programs, and so no ffmpeg."""
    variables = {"PATH": str(Path(sys.executable).parent), "PYTHONPATH": os.pathsep.join(sys.path)}
    if "LD_LIBRARY_PATH" in os.environ:
        variables["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
    ended = subprocess.run(
        command, cwd=folder, env={**hub.environment(), **variables}, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    return ended.stdout.strip()


def blocks(hub: Hub) -> list[str]:
    return re.findall(r"```python\n(.*?)```", hub.files(REPO)["README.md"].decode(), re.DOTALL)


def test_the_lines_of_our_runtime(hub: Hub, published: Path, tmp_path: Path) -> None:
    (block,) = [block for block in blocks(hub) if "qat_plugin" in block]
    expected = said_by_our_runtime(published, tmp_path / "clip.wav")
    assert len(expected) > 5
    assert run(hub, tmp_path, [sys.executable, "-c", block]) == expected
    assert any(request.endswith("/encoder_model.onnx") for request in hub.requests)
    assert hub.unknown == []


def test_the_lines_of_optimum(hub: Hub, published: Path, tmp_path: Path) -> None:
    pytest.importorskip("optimum.onnxruntime", reason="needs an environment with the extra 'optimum'")
    (block,) = [block for block in blocks(hub) if "optimum" in block]
    assert run(hub, tmp_path, [sys.executable, "-c", block]) == said_by_our_runtime(published, tmp_path / "clip.wav")


def test_the_line_for_the_shell(hub: Hub, published: Path, tmp_path: Path) -> None:
    (line,) = re.findall(r"From the shell: `(.*?)`", hub.files(REPO)["README.md"].decode())
    program, *words = line.split()
    assert program == "qat-plugin"
    command = [sys.executable, "-m", "qat_plugin.cli", *words]
    assert run(hub, tmp_path, command) == said_by_our_runtime(published, tmp_path / "clip.mp3")
