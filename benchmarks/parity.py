"""Is the shipped file what was trained? Greedy tokens and WER of the ONNX against the fake-quantized torch model.

    python benchmarks/parity.py --target int4 --checkpoint demo-full-output/train --onnx demo-full-output/onnx/qat \
        --manifest demo-data/speech/asterisk_fr/manifest.jsonl

With activations in 8 bits, the last bit of a float sum decides now and then how an input is rounded, and a token with it:
how often, the same torch model tells in float64 against itself in float32. That share is what any runtime can reach.

Writes benchmarks/results/parity-TARGET.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from figures import figure, folder_bytes, run, write_results
from safetensors import safe_open
from tqdm.auto import tqdm
from transformers import WhisperForConditionalGeneration

from qat_plugin.data.corpora import data_definition
from qat_plugin.data.loading import load_corpus
from qat_plugin.data.rows import RowFilter
from qat_plugin.encoder_context import encoder_context_of, in_context
from qat_plugin.evaluation.normalizer import get_normalizer
from qat_plugin.evaluation.wer import count_word_errors, sum_word_errors
from qat_plugin.export.census import check_weights, read_file
from qat_plugin.export.writer import GRAPHS
from qat_plugin.fake_quant import fake_quant_layers, read_checkpoint
from qat_plugin.models import load_fake_quant, load_processor
from qat_plugin.runtime import QuantizedWhisper

MIN_IDENTICAL = {"int4": 0.99, "int8": 0.97}
MAX_SIZE = {"int4": 0.17, "int8": 0.30}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", choices=MIN_IDENTICAL, required=True)
    parser.add_argument("--checkpoint", type=Path, required=True, help="trained checkpoint, quantizers beside it")
    parser.add_argument("--onnx", type=Path, required=True, help="its export")
    parser.add_argument("--float_onnx", type=Path, help="float export of the same model, for the share of the size")
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--clips", type=int, default=100)
    parser.add_argument("--language", default="fr")
    options = parser.parse_args()

    corpus = load_corpus(
        data_definition(options.manifest), max_samples=options.clips, keep=RowFilter(min_words=4, max_duration=30)
    )
    trained, shipped = load_fake_quant(options.checkpoint), QuantizedWhisper.from_pretrained(options.onnx)
    models = {"torch": trained, "float64": load_fake_quant(options.checkpoint).double(), "onnx": shipped}
    context = encoder_context_of(trained.config)
    processor, normalize = load_processor(options.onnx), get_normalizer("basic")
    errors: dict[str, list] = {name: [] for name in models}
    identical = {"float64": 0, "onnx": 0}
    for row in tqdm(corpus, total=options.clips):
        features = processor.feature_extractor(
            corpus.read(row), sampling_rate=16000, return_tensors="pt"
        ).input_features
        tokens = {}
        for name, model in models.items():
            # torch's generation has no guard against loops.
            guard = {"loop_guard": False} if name == "onnx" else {}
            # The ONNX graph folds by itself.
            with torch.no_grad(), in_context(model, None if name == "onnx" else context, features) as heard:
                tokens[name] = model.generate(
                    heard.double() if name == "float64" else heard,
                    language=options.language,
                    task="transcribe",
                    num_beams=1,
                    do_sample=False,
                    **guard,
                )
            text = processor.decode(tokens[name][0], skip_special_tokens=True)
            errors[name].append(count_word_errors(normalize(row["text"]), normalize(text)))
        for name in identical:
            identical[name] += tokens["torch"].tolist() == tokens[name].tolist()
    wer = {name: sum_word_errors(counts).wer for name, counts in errors.items()}
    # Raises at the first layer whose integers, scales or zero points are others.
    compared = check_weights([read_file(options.onnx / name) for name in GRAPHS], read_checkpoint(options.checkpoint))
    weights = {id(layer.weight): layer.weight for _, layer in fake_quant_layers(trained)}  # a tied one is stored once
    parity = json.loads((options.onnx / "parity.json").read_text(encoding="utf8"))
    _, info = WhisperForConditionalGeneration.from_pretrained(options.checkpoint, output_loading_info=True)
    with safe_open(options.checkpoint / "model.safetensors", framework="pt") as file:
        stored = sum(file.get_slice(name).get_shape() != [] for name in file.keys())  # noqa: SIM118 - a safe_open is no dict
    figures = [
        figure(
            "missing and unexpected keys of a vanilla from_pretrained",
            sum(len(info[k]) for k in ("missing_keys", "unexpected_keys")),
            "keys",
            0,
        ),
        figure("tensors in the vanilla checkpoint", stored, "tensors", 1, at_least=True),
        figure(
            "share of the model's quantized weights whose integers in the files are the trained ones",
            compared / sum(weight.numel() for weight in weights.values()),
            "share",
            1.0,
            at_least=True,
            integers=compared,
        ),
        figure(
            "weight-only logits, largest difference from float64 torch",
            parity["max_weight_only_logit_difference"],
            "logit",
            1e-4,
        ),
        figure(
            f"clips of {len(corpus)} with identical greedy tokens",
            identical["onnx"] / len(corpus),
            "share",
            MIN_IDENTICAL[options.target],
            at_least=True,
        ),
        figure(
            "the same of torch in float64 and float32, less that of ONNX and float32",
            (identical["float64"] - identical["onnx"]) / len(corpus),
            "share",
            0.02,
        ),
        figure("difference of WER, ONNX against torch", abs(100 * (wer["onnx"] - wer["torch"])), "points", 0.1),
    ]
    if options.float_onnx:
        share = folder_bytes(options.onnx) / folder_bytes(options.float_onnx)
        figures.append(figure("size of all files, share of the float ONNX", share, "share", MAX_SIZE[options.target]))
    shares = {name: count / len(corpus) for name, count in identical.items()}
    write_results(f"parity-{options.target}", figures, identical_tokens=shares, wer=wer)


if __name__ == "__main__":
    run(main)
