"""Optimum's own class on an exported folder; runs where the extra `optimum` is installed."""

import pytest

pytest.importorskip("optimum.onnxruntime", reason="needs an environment with the extra 'optimum'")

import numpy as np
from transformers import AutoProcessor

from qat_plugin.encoder_context import EncoderContext
from qat_plugin.export import export_onnx
from qat_plugin.fake_quant import QuantizerConfig, read_checkpoint
from qat_plugin.models import load_processor, load_whisper
from qat_plugin.runtime import QuantizedWhisper
from qat_plugin.training.ptq import quantize_without_training


@pytest.mark.parametrize("target", ["int8", "int4"])
def test_optimum_says_what_our_runtime_says_with_silence_folded(tiny_whisper_dir, tmp_path, target):
    from optimum.onnxruntime import ORTModelForSpeechSeq2Seq

    checkpoint, folder = tmp_path / "checkpoint", tmp_path / "onnx"
    config = QuantizerConfig(target, 32, hot_tokens=50 if target == "int4" else 0)
    model = load_whisper(tiny_whisper_dir)
    quantize_without_training(model, config, checkpoint, method="rtn", encoder_context=EncoderContext())
    load_processor(tiny_whisper_dir).save_pretrained(checkpoint)
    export_onnx(read_checkpoint(checkpoint), folder)
    theirs, ours = ORTModelForSpeechSeq2Seq.from_pretrained(folder), QuantizedWhisper.from_pretrained(folder)
    audio = 0.1 * np.random.default_rng(0).standard_normal(40_000).astype(np.float32)
    features = AutoProcessor.from_pretrained(folder)(audio, sampling_rate=16000, return_tensors="pt").input_features
    asked = {"language": "fr", "task": "transcribe", "num_beams": 1, "do_sample": False, "max_new_tokens": 16}
    # Of a random model, times would be one long repetition.
    asked["suppress_tokens"] = list(range(model.config.vocab_size - 1501, model.config.vocab_size))
    assert theirs.generate(features, **asked).tolist() == ours.generate(features, **asked).tolist()
