"""`compute_metrics` for a `Seq2SeqTrainer`: the WER that evaluation reports, while training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import evaluate
import numpy as np
from numpy.typing import NDArray
from transformers import EvalPrediction, PreTrainedTokenizerBase

from qat_plugin.errors import EvaluationError
from qat_plugin.evaluation.metric import metric_path
from qat_plugin.evaluation.normalizer import get_normalizer

IGNORED_LABEL = -100


def compute_metrics_fn(
    tokenizer: PreTrainedTokenizerBase, normalizer: str = "basic"
) -> Callable[[EvalPrediction], dict[str, float]]:
    """A function that turns generated token ids and labels into WER, CER and counts.

    Args:
        tokenizer: Whisper's, which decodes both.
        normalizer: as in `get_normalizer`.

    Returns:
        A function of an `EvalPrediction` whose predictions and label_ids are int arrays (utterances, tokens), in which
        -100 marks padding. It raises `EvaluationError` when the predictions are not token ids.
    """
    get_normalizer(normalizer)  # A misspelt name must fail now, not after the first epoch.
    # In memory: processes of one training would otherwise contend for one cache file.
    metric = evaluate.load(metric_path(), keep_in_memory=True)

    def decode(ids: Any) -> list[str]:
        tokens: NDArray[np.int64] = np.asarray(ids)
        # The trainer pads with -100 what it gathers, predictions included, and no tokenizer knows that id.
        tokens = np.where(tokens == IGNORED_LABEL, tokenizer.pad_token_id, tokens)
        texts: list[str] = tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return texts

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        predictions = prediction.predictions
        if isinstance(predictions, tuple) or np.asarray(predictions).dtype.kind != "i":
            raise EvaluationError(
                "predictions are logits, not token ids: set predict_with_generate to true in the training arguments"
            )
        scores: dict[str, float] = metric.compute(
            predictions=decode(predictions), references=decode(prediction.label_ids), normalizer=normalizer
        )
        return scores

    return compute_metrics
