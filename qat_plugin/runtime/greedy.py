"""The greedy decoder loop on the ONNX Runtime session, without what transformers' general loop spends between two tokens.

It gives the token ids of transformers' `GenerationMixin._sample`, which prepares everything as ever (prompt, length limit,
logits processors), and serves those calls that `is_plain_greedy` tells.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor
from transformers.generation import EosTokenCriteria, MaxLengthCriteria, StoppingCriteria

from qat_plugin.runtime.logits import InPlaceProcessor
from qat_plugin.runtime.sessions import DecoderCache, DecoderSession


def is_plain_greedy(
    generation_config: GenerationConfig, stopping_criteria: Iterable[StoppingCriteria], model_kwargs: dict[str, Any]
) -> bool:
    """Whether `search_greedily` covers a call: the most probable token each time, token ids and nothing else back.

    Any batch, prompt and logits processor is covered. Not covered are sampling, scores beside the tokens, prompts with
    hidden tokens, decoding without a cache, and ends other than the end token and the length limit.
    """
    mask = model_kwargs.get("decoder_attention_mask")
    return (
        not generation_config.do_sample
        and not generation_config.return_dict_in_generate
        and generation_config.use_cache is not False
        and (mask is None or bool(mask.all()))
        and [type(criterion) for criterion in stopping_criteria] == [MaxLengthCriteria, EosTokenCriteria]
    )


def search_greedily(
    decoder: DecoderSession,
    prompt: torch.Tensor,
    hidden_states: torch.Tensor,
    processors: Sequence[LogitsProcessor],
    *,
    max_length: int,
    eos_token_ids: Sequence[int],
    pad_token_id: int,
) -> torch.Tensor:
    """Prompts and what follows, int64 [rows, tokens]; rows that end before others are padded.

    Args:
        prompt: int64 [rows, tokens].
        hidden_states: float32 [rows, positions, d_model].
        processors: applied in this order to every logits.
        max_length: tokens of a row at most, its prompt included.
        eos_token_ids: what ends a row.
        pad_token_id: stands behind the end.
    """
    # The logits of a step are nobody else's, so what can be done in place is.
    changes = [p.apply_ if isinstance(p, InPlaceProcessor) else p for p in processors]
    rows, length = prompt.shape
    sequences = torch.full((rows, max_length), pad_token_id)
    sequences[:, :length] = prompt
    ids = sequences.numpy()
    unfinished, ends = list(range(rows)), set(eos_token_ids)
    cache = DecoderCache()
    logits = decoder.start(prompt, hidden_states, cache)
    while True:
        scores = logits[:, -1]
        for change in changes:
            changed = change(sequences[:, :length], scores)
            scores = scores if changed is None else changed
        tokens = scores.numpy().argmax(axis=-1).tolist()
        for row in unfinished:
            ids[row, length] = tokens[row]
        unfinished = [row for row in unfinished if tokens[row] not in ends]
        length += 1
        if length >= max_length or not unfinished:
            return sequences[:, :length].clone()
        logits = decoder.step(sequences[:, length - 1 : length], cache)
