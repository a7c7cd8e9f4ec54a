"""Folding silence: exact where silence is alike, the same in torch and in the ONNX graph, nothing where there is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from transformers import WhisperFeatureExtractor

from qat_plugin.encoder_context import (
    EncoderContext,
    encoder_context_of,
    folded_silence,
    in_context,
    set_encoder_context,
)
from qat_plugin.export import export_onnx
from qat_plugin.fake_quant import QuantizerConfig, read_checkpoint
from qat_plugin.models import load_processor, load_whisper
from qat_plugin.runtime import QuantizedWhisper
from qat_plugin.training.ptq import quantize_without_training

CONTEXT = EncoderContext()
# Silence of no position, of less than a stride, of many; audio as long as the window.
LENGTHS = [0.0, 0.2, 1.0, 4.3, 12.0, 27.5, 27.9, 28.1, 28.2, 28.6, 29.5, 30.0]


def features(*seconds: float) -> torch.Tensor:
    rng = np.random.default_rng(0)
    clips = [0.1 * rng.standard_normal(round(16000 * length)).astype(np.float32) for length in seconds]
    return WhisperFeatureExtractor()(clips, sampling_rate=16000, return_tensors="pt").input_features


@pytest.fixture(scope="module")
def int8_dirs(tiny_whisper_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Checkpoint and ONNX folder of a model that says it was trained with its silence folded."""
    checkpoint, exported = tmp_path_factory.mktemp("int8"), tmp_path_factory.mktemp("int8-onnx")
    model = load_whisper(tiny_whisper_dir)
    quantize_without_training(model, QuantizerConfig("int8", 32), checkpoint, method="rtn", encoder_context=CONTEXT)
    load_processor(tiny_whisper_dir).save_pretrained(checkpoint)
    export_onnx(read_checkpoint(checkpoint), exported, activations=False)
    return checkpoint, exported


def test_the_clip_its_margin_and_the_tail_are_whole_and_the_rest_is_counted() -> None:
    folded = CONTEXT.fold(features(4.0))
    assert folded is not None
    clip = folded.start - CONTEXT.margin
    assert 200 <= clip <= 202  # the extractor's window reaches past the last sample
    assert folded.positions[: folded.start].tolist() == list(range(folded.start))
    assert folded.positions[-CONTEXT.tail :].tolist() == list(range(1500 - CONTEXT.tail, 1500))
    assert len(folded.positions) < 340
    counted = folded.bias.exp().sum()
    assert float(counted) == pytest.approx(1500, rel=1e-4)


def test_a_batch_keeps_what_its_longest_clip_needs() -> None:
    alone, together = CONTEXT.fold(features(9.0)), CONTEXT.fold(features(1.0, 9.0, 3.0))
    assert alone is not None and together is not None
    assert abs(alone.start - together.start) <= 1


@pytest.mark.parametrize("context", [CONTEXT, CONTEXT.finer(), EncoderContext(10, 5, 7)])
def test_no_two_clips_are_left_with_the_same_number_of_positions_unless_they_are_the_same(
    context: EncoderContext,
) -> None:
    starts: dict[int, int] = {}
    for position in range(1499):
        heard = torch.zeros(1, 1, 3000)
        heard[..., : 2 * position + 2] = 1.0
        folded = context.fold(heard)
        if folded is not None:
            assert starts.setdefault(len(folded.positions), folded.start) == folded.start
            assert 0 <= folded.start - context.margin - position - 1 <= 1
            whole = len(folded.positions) - context.tail
            assert folded.bias.count_nonzero() == whole - folded.start > 0


@pytest.mark.parametrize("seconds", [28.6, 30.0])
def test_audio_that_fills_the_window_is_computed_as_ever(seconds: float) -> None:
    assert CONTEXT.fold(features(seconds)) is None


def test_silence_that_is_alike_everywhere_is_folded_without_any_error(tiny_whisper_dir: Path) -> None:
    model, heard = load_whisper(tiny_whisper_dir).double().eval(), features(3.0).double()
    folded = CONTEXT.fold(heard)
    assert folded is not None
    with torch.no_grad():
        # Without positions of their own, and but for the window's last one, all silent positions are the same.
        model.model.encoder.embed_positions.weight[folded.start - CONTEXT.margin :] = 0
        ids = torch.tensor([[1, 2, 3]])
        whole = model(input_features=heard, decoder_input_ids=ids)
        with in_context(model, CONTEXT, heard) as shorter:
            assert shorter.shape[-1] == 2 * len(folded.positions)
            short = model(input_features=shorter, decoder_input_ids=ids)
    torch.testing.assert_close(short.logits, whole.logits, rtol=0, atol=2e-6)
    states = whole.encoder_last_hidden_state[:, folded.positions]
    torch.testing.assert_close(short.encoder_last_hidden_state, states, rtol=0, atol=2e-6)


def test_the_model_is_left_as_it_was(tiny_whisper_dir: Path) -> None:
    model, heard = load_whisper(tiny_whisper_dir).eval(), features(2.0)
    ids = torch.tensor([[1, 2]])
    with torch.no_grad():
        before = model(input_features=heard, decoder_input_ids=ids).logits
        folded = CONTEXT.fold(heard)
        assert folded is not None
        with pytest.raises(RuntimeError, match="stop"), folded_silence(model, folded):
            raise RuntimeError("stop")
        torch.testing.assert_close(model(input_features=heard, decoder_input_ids=ids).logits, before, rtol=0, atol=0)


@pytest.mark.parametrize("seconds", LENGTHS)
def test_the_onnx_graph_folds_as_torch_does(int8_dirs: tuple[Path, Path], seconds: float) -> None:
    checkpoint, exported = int8_dirs
    model, shipped = load_whisper(checkpoint).eval(), QuantizedWhisper.from_pretrained(exported, num_threads=1)
    assert shipped.encoder_context == encoder_context_of(model.config) == CONTEXT
    heard, ids = features(seconds), torch.tensor([[1, 2, 3]])
    with torch.no_grad(), in_context(model, CONTEXT, heard) as shorter:
        expected = model(input_features=shorter, decoder_input_ids=ids)
    states = shipped.get_encoder()(heard)
    assert states[0].shape[1] == shorter.shape[-1] // 2
    torch.testing.assert_close(states[0], expected.encoder_last_hidden_state, rtol=0, atol=1e-4)
    torch.testing.assert_close(
        shipped(input_features=heard, decoder_input_ids=ids).logits, expected.logits, rtol=0, atol=1e-4
    )


def test_tokens_are_torchs_in_a_batch_with_beams(int8_dirs: tuple[Path, Path]) -> None:
    checkpoint, exported = int8_dirs
    model, shipped = load_whisper(checkpoint).eval(), QuantizedWhisper.from_pretrained(exported, num_threads=1)
    heard = features(1.0, 5.0)
    asked = {"language": "fr", "task": "transcribe", "num_beams": 2, "do_sample": False, "max_new_tokens": 12}
    # Not being asked for times, a random model says them all the same, and then hears the clip in several pieces.
    asked["suppress_tokens"] = list(range(model.config.vocab_size - 1501, model.config.vocab_size))
    with torch.no_grad(), in_context(model, CONTEXT, heard) as shorter:
        expected = model.generate(shorter, **asked)
    assert shipped.generate(heard, **asked).tolist() == expected.tolist()


def test_the_whole_window_can_be_asked_for(int8_dirs: tuple[Path, Path]) -> None:
    heard = features(2.0)
    whole = QuantizedWhisper.from_pretrained(int8_dirs[1], num_threads=1, encoder_context="full").get_encoder()(heard)
    assert whole[0].shape[1] == 1500
    with torch.no_grad():
        expected = load_whisper(int8_dirs[0]).eval().model.encoder(heard)[0]
    torch.testing.assert_close(whole[0], expected, rtol=0, atol=1e-4)


def test_clients_that_know_nothing_of_it_get_the_short_context(int8_dirs: tuple[Path, Path]) -> None:
    session = ort.InferenceSession(str(int8_dirs[1] / "encoder_model.onnx"), providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_inputs()] == ["input_features"]
    states = session.run(["last_hidden_state"], {"input_features": features(2.0).numpy()})[0]
    assert states.shape[1] < 250


def test_a_float_export_computes_the_whole_window_unless_asked(tiny_whisper_dir: Path, tmp_path: Path) -> None:
    export_onnx(read_checkpoint(tiny_whisper_dir), tmp_path)
    heard = features(2.0)
    assert QuantizedWhisper.from_pretrained(tmp_path).get_encoder()(heard)[0].shape[1] == 1500
    assert QuantizedWhisper.from_pretrained(tmp_path, encoder_context="auto").get_encoder()(heard)[0].shape[1] < 250


def test_a_config_forgets_a_context_that_no_longer_holds(tiny_whisper_dir: Path) -> None:
    config = load_whisper(tiny_whisper_dir).config
    set_encoder_context(config, CONTEXT)
    assert encoder_context_of(type(config).from_dict(config.to_dict())) == CONTEXT
    set_encoder_context(config, None)
    assert "encoder_context" not in config.to_dict()
