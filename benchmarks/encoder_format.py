"""What should the encoder of an int4 model be: 8-bit or 4-bit? Size and WER without training, decoder 4-bit in both.

    python benchmarks/encoder_format.py --int8 int8-output/onnx/ptq --int4 demo-full-output/onnx/ptq \
        --float demo-full-output/onnx/fp --manifest demo-data/speech/asterisk_fr/manifest.jsonl

The two halves of a Whisper are two files: the 8-bit encoder of one export is put before the 4-bit decoder of another.
Writes benchmarks/results/encoder-format.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

from qat_plugin.data.corpora import data_definition
from qat_plugin.data.loading import load_corpus
from qat_plugin.data.rows import RowFilter
from qat_plugin.evaluation.environment import describe_environment
from qat_plugin.evaluation.normalizer import get_normalizer
from qat_plugin.evaluation.run import evaluate_arm
from qat_plugin.evaluation.transcripts import read_transcripts
from qat_plugin.evaluation.wer import count_word_errors, sum_word_errors
from qat_plugin.steps import git_commit

ENCODER, MAX_SHARE = "encoder_model.onnx", 0.17


def onnx_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("int8", "int4", "float"):
        parser.add_argument(f"--{name}", type=Path, required=True, help=f"{name} ONNX folder of the same model")
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--clips", type=int, default=100)
    parser.add_argument("--language", default="fr")
    options = parser.parse_args()
    keep = RowFilter(min_words=4, max_duration=30)
    corpus = load_corpus(data_definition(options.manifest), max_samples=options.clips, keep=keep)
    normalize, figures = get_normalizer("basic"), []
    with tempfile.TemporaryDirectory() as scratch:
        mixed = Path(scratch) / "mixed"
        shutil.copytree(options.int4, mixed)
        shutil.copyfile(options.int8 / ENCODER, mixed / ENCODER)
        for name, folder in (("4-bit encoder", options.int4), ("8-bit encoder", mixed)):
            path = evaluate_arm(
                folder, "ptq", corpus, Path(scratch) / name, language=options.language, task="transcribe"
            )
            _, transcripts = read_transcripts(path)
            errors = [count_word_errors(normalize(t.reference), normalize(t.hypothesis)) for t in transcripts]
            share = onnx_bytes(folder) / onnx_bytes(options.float)
            seconds = sum(t.seconds for t in transcripts)
            wer = round(100 * sum_word_errors(errors).wer, 2)
            figures += [
                {"name": f"{name}: share of the float size", "value": round(share, 4), "unit": "share",
                 "bar": f"<= {MAX_SHARE}", "meets": share <= MAX_SHARE},
                {"name": f"{name}: WER without training", "value": wer, "unit": "%", "bar": None, "meets": None},
                {"name": f"{name}: wall time", "value": round(seconds, 1), "unit": "s", "bar": None, "meets": None},
            ]  # fmt: skip
    result = {
        "machine": describe_environment(), "commit": git_commit(), "command": " ".join(["python", *sys.argv]),
        "figures": figures,
    }  # fmt: skip
    path = Path(__file__).parent / "results" / "encoder-format.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf8")
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
