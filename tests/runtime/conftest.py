"""The tiny Whisper as torch model and as exported folder, and audio to hear."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hub_server import hub  # noqa: F401
from noise import noise
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from qat_plugin.export import export_onnx
from qat_plugin.fake_quant.checkpoint import read_checkpoint
from qat_plugin.runtime import QuantizedWhisper


@pytest.fixture(scope="session")
def tiny_onnx_dir(tiny_whisper_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Float ONNX folder of the tiny Whisper."""
    folder = tmp_path_factory.mktemp("tiny-onnx")
    export_onnx(read_checkpoint(tiny_whisper_dir), folder)
    return folder


@pytest.fixture(scope="session")
def torch_model(tiny_whisper_dir: Path) -> WhisperForConditionalGeneration:
    """What the exported folder must do."""
    return WhisperForConditionalGeneration.from_pretrained(tiny_whisper_dir).eval()


@pytest.fixture
def model(tiny_onnx_dir: Path) -> QuantizedWhisper:
    """A model of its own for every test, so that one may tamper with it."""
    return QuantizedWhisper.from_pretrained(tiny_onnx_dir, num_threads=1)


@pytest.fixture(scope="session")
def processor(tiny_whisper_dir: Path) -> WhisperProcessor:
    """Feature extractor and tokenizer of the tiny Whisper."""
    return WhisperProcessor.from_pretrained(tiny_whisper_dir)


@pytest.fixture(scope="session")
def features(processor: WhisperProcessor) -> torch.Tensor:
    """Features of three clips, float32 [3, 80, 3000]."""
    clips = [noise(3 + i, seed=i) for i in range(3)]
    return processor.feature_extractor(clips, sampling_rate=16000, return_tensors="pt").input_features


@pytest.fixture
def record_encoder_runs(monkeypatch: pytest.MonkeyPatch) -> Callable[[QuantizedWhisper], list[tuple[int, int]]]:
    """Gives, for a model, a list that gets the batch size and the stride of every run of its encoder from now on."""

    def record(model: QuantizedWhisper) -> list[tuple[int, int]]:
        session, runs = model.model.encoder._session, []
        run = session.run
        monkeypatch.setattr(session, "run", lambda x, stride: runs.append((len(x), stride)) or run(x, stride))
        return runs

    return record
