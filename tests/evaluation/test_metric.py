"""The `evaluate` module and the trainer's function over it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny import tiny_tokenizer
from transformers import EvalPrediction

from qat_plugin.errors import EvaluationError
from qat_plugin.evaluation.compute_metrics import compute_metrics_fn

PREDICTIONS = ["Le chat dort.", "c'est l'été", "euh"]
REFERENCES = ["le chien, dort bien", "C'est l'été !", ""]
# After 'basic': 1 substitution, 1 deletion, 1 insertion in 4 + 4 + 0 words.
EXPECTED = {"substitutions": 1, "deletions": 1, "insertions": 1, "hits": 6, "reference_words": 8, "wer": 3 / 8}


def test_loads_from_the_package_without_a_network(tmp_path: Path) -> None:
    """In a process of its own, whose every connection attempt is an error and whose caches are empty."""
    script = f"""
import socket
def refuse(*args, **kwargs):
    raise AssertionError("a connection was attempted")
socket.socket.connect = refuse
socket.create_connection = refuse
import evaluate
from qat_plugin.evaluation.metric import metric_path
metric = evaluate.load(metric_path())
scores = metric.compute(predictions={PREDICTIONS!r}, references={REFERENCES!r}, normalizer="basic")
print(scores["wer"], metric.compute(predictions=["A"], references=["a"], normalizer="none")["wer"])
print(metric.compute(predictions=["A"], references=["a"])["wer"])
"""
    own = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, env={**os.environ, **own}, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["0.375", "1.0", "0.0"]


def ids(texts: list[str]) -> np.ndarray:
    """Token ids as the trainer gathers them: padded with -100."""
    rows = [tiny_tokenizer()(text).input_ids for text in texts]
    width = max(map(len, rows))
    return np.array([row + [-100] * (width - len(row)) for row in rows])


def test_compute_metrics_counts_text_only() -> None:
    compute = compute_metrics_fn(tiny_tokenizer())
    prefix = "<|startoftranscript|><|fr|><|transcribe|><|notimestamps|>"
    predictions = ids([prefix + text + "<|endoftext|>" for text in PREDICTIONS])
    labels = ids([text + "<|endoftext|>" for text in REFERENCES])
    kept = predictions.copy(), labels.copy()
    assert (labels == -100).any() and (predictions == -100).any()
    scores = compute(EvalPrediction(predictions=predictions, label_ids=labels))
    assert {name: scores[name] for name in EXPECTED} == EXPECTED
    assert scores["reference_characters"] == len("le chien dort bien") + len("c est l été")
    # The trainer goes on using its arrays.
    assert np.array_equal(predictions, kept[0]) and np.array_equal(labels, kept[1])


def test_compute_metrics_normalizer() -> None:
    compute = compute_metrics_fn(tiny_tokenizer(), "none")
    scores = compute(EvalPrediction(predictions=ids(["Le chat"]), label_ids=ids(["le chat"])))
    assert scores["wer"] == 0.5
    with pytest.raises(EvaluationError, match="normalizer is 'basik'"):
        compute_metrics_fn(tiny_tokenizer(), "basik")


@pytest.mark.parametrize("logits", [np.zeros((1, 2, 5), "float32"), (np.zeros((1, 2, 5), "float32"), np.zeros(1))])
def test_logits_are_refused(logits) -> None:
    with pytest.raises(EvaluationError, match="set predict_with_generate to true"):
        compute_metrics_fn(tiny_tokenizer())(EvalPrediction(predictions=logits, label_ids=ids(["oui"])))
