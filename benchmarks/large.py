"""Does a Whisper of 756 M parameters fit into 10 GB of memory while it is quantized, exported and verified?

    python benchmarks/large.py

Makes a model of the shape of whisper-large-v3-distil-fr-v0.2 with random weights (bytes and milliseconds do not depend on what
they are) and the tokenizer that `make demo` fetches, quantizes it by plain rounding, exports it through the parity gate, and
measures what the files cost to open and to run; the same for the float model, which every run exports for comparison. Every step
is a process of its own, so that peaks are theirs. Needs 11 GB on the disk. Writes benchmarks/results/large.json.
"""

from __future__ import annotations

import argparse
import multiprocessing
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from figures import figure, folder_bytes, run, write_results

from qat_plugin.data.audio import read_audio
from qat_plugin.demo.fetch import fetch_all
from qat_plugin.demo.run import DATA_DIR
from qat_plugin.evaluation.cost import measure_cost
from qat_plugin.evaluation.environment import memory_bytes

FOLDER = Path("bench-large")
SHAPE = {
    **{"d_model": 1280, "encoder_layers": 32, "encoder_attention_heads": 20, "encoder_ffn_dim": 5120},
    **{"decoder_layers": 2, "decoder_attention_heads": 20, "decoder_ffn_dim": 5120, "num_mel_bins": 128},
}
# A random model never ends; these tell as much as 448.
TOKENS = 40
MAX_BYTES = 10e9
# Of the float32 weights, by arm.
MAX_SHARE = {"fp": 1.01, "int8": 0.26, "int4": 0.15}


def make_model(folder: Path) -> dict[str, Any]:
    """The float model."""
    from transformers import GenerationConfig, WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

    from qat_plugin.models import load_processor

    base = DATA_DIR / "whisper-base"
    config = WhisperConfig.from_pretrained(base, **SHAPE)
    model = WhisperForConditionalGeneration(config)
    model.generation_config = GenerationConfig.from_pretrained(base, max_length=TOKENS)
    model.save_pretrained(folder)
    processor = load_processor(base)
    processor.feature_extractor = WhisperFeatureExtractor(feature_size=SHAPE["num_mel_bins"])
    processor.save_pretrained(folder)
    return {"parameters": model.num_parameters()}


def quantize(source: Path, folder: Path, target: str) -> dict[str, Any]:
    """Plain rounding."""
    from qat_plugin.fake_quant import QuantizerConfig
    from qat_plugin.models import load_processor, load_whisper
    from qat_plugin.training.ptq import quantize_without_training

    quantize_without_training(load_whisper(source), QuantizerConfig(target, 32), folder, method="rtn")
    load_processor(source).save_pretrained(folder)
    return {}


def export(source: Path, folder: Path, clip: Path, quantized: bool) -> dict[str, Any]:
    """Written and verified on two clips."""
    from qat_plugin.export import export_verified

    audio = read_audio(str(clip))
    clips = [(audio, "fr"), (audio[::2], "fr")]
    report = export_verified(source, folder, clips=clips, task="transcribe", quantized=quantized)
    return report.to_dict()


def _peak(step: Callable[..., dict[str, Any]], *inputs: Any) -> dict[str, Any]:
    start = time.perf_counter()
    found = step(*inputs)
    return {**found, "seconds": round(time.perf_counter() - start, 1), "peak_memory_bytes": memory_bytes("VmHWM")}


def alone(step: Callable[..., dict[str, Any]], *inputs: Any) -> dict[str, Any]:
    """What `step` returns, in a process of its own, with its time and the most memory that it ever held."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_peak, step, *inputs).result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", nargs="+", choices=tuple(MAX_SHARE), default=list(MAX_SHARE))
    options = parser.parse_args()
    fetch_all(DATA_DIR, full=False)
    clip = next(iter(sorted((DATA_DIR / "speech" / "asterisk_fr_long").glob("*.wav"))))
    audio = read_audio(str(clip))[: 30 * 16000]
    steps: dict[str, Any] = {"make": alone(make_model, FOLDER / "float")}
    print(f"{steps['make']['parameters'] / 1e6:.0f} M parameters")
    figures = []
    for arm in options.arms:
        quantized, onnx = arm != "fp", FOLDER / f"onnx-{arm}"
        checkpoint = FOLDER / (arm if quantized else "float")
        if quantized:
            steps[f"quantize {arm}"] = alone(quantize, FOLDER / "float", checkpoint, arm)
        steps[f"export {arm}"] = alone(export, checkpoint, onnx, clip, quantized)
        cost = measure_cost(onnx, audio, language="fr", task="transcribe")
        steps[f"use {arm}"] = {**cost, "bytes": folder_bytes(onnx)}
        taken = [steps[name] for name in (f"quantize {arm}", f"export {arm}") if name in steps]
        name = f"{arm}: peak memory of {'quantizing, ' if quantized else ''}export and parity gate"
        peak = max(step["peak_memory_bytes"] for step in taken)
        figures.append(figure(name, peak / 1e9, "GB", MAX_BYTES / 1e9))
        share = folder_bytes(onnx) / (4 * steps["make"]["parameters"])
        figures.append(figure(f"{arm}: size over float32 weights", share, "", MAX_SHARE[arm]))
        if quantized:
            shutil.rmtree(checkpoint)
    write_results("large", figures, shape=SHAPE, steps=steps)
    shutil.rmtree(FOLDER)


if __name__ == "__main__":
    run(main)
