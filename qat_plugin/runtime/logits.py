"""What is done to the logits before a token is chosen: transformers' suppression without its waste, and the loop guard.

All are transformers' `LogitsProcessor`s, so that beams, timestamps and long audio get them; where the logits may be
overwritten (`qat_plugin.runtime.greedy`), `apply_` does the same in place.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from transformers import GenerationConfig, LogitsProcessor
from transformers.generation import SuppressTokensAtBeginLogitsProcessor, SuppressTokensLogitsProcessor

from qat_plugin.repetition import MIN_UNITS, ends_in_loop


class InPlaceProcessor(LogitsProcessor, ABC):
    """A logits processor that can do without a copy of the logits."""

    @abstractmethod
    def apply_(self, input_ids: torch.Tensor, scores: torch.Tensor) -> None:
        """Change `scores`, float32 [rows, vocabulary], of what follows `input_ids`, int64 [rows, tokens]."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """A changed copy of `scores`."""
        scores = scores.clone()
        self.apply_(input_ids, scores)
        return scores


class SuppressTokens(InPlaceProcessor, SuppressTokensLogitsProcessor):
    """Transformers' processor without its search through the whole vocabulary at every token, with the same result."""

    def __init__(self, tokens: torch.Tensor, vocab_size: int) -> None:
        self.suppress_tokens = _within(tokens, vocab_size)

    def apply_(self, input_ids: torch.Tensor, scores: torch.Tensor) -> None:
        """Forbid the tokens."""
        scores.index_fill_(1, self.suppress_tokens, -torch.inf)


class SuppressTokensAtBegin(InPlaceProcessor, SuppressTokensAtBeginLogitsProcessor):
    """As `SuppressTokens`, for the first generated token."""

    def __init__(self, tokens: torch.Tensor, begin_index: int, vocab_size: int) -> None:
        self.begin_suppress_tokens = _within(tokens, vocab_size)
        self.begin_index = begin_index

    def apply_(self, input_ids: torch.Tensor, scores: torch.Tensor) -> None:
        """Forbid the tokens if the first one is to be generated."""
        if input_ids.shape[-1] == self.begin_index:
            scores.index_fill_(1, self.begin_suppress_tokens, -torch.inf)


class LoopGuard(InPlaceProcessor):
    """Ends a row whose text has fallen into a loop (`qat_plugin.repetition`), by forcing the end token.

    Without it a Whisper that loops goes on to the length limit, and one clip adds hundreds of words. What was repeated
    up to there stays in the text. Whether a row was cut can be told from its tokens: `has_cut`.
    """

    def __init__(self, eos_token_id: int, begin_index: int) -> None:
        """`begin_index`: how many tokens of a row are prompt, of which nothing is judged."""
        self.eos_token_id = eos_token_id
        self.begin_index = begin_index

    def set_begin_index(self, begin_index: int) -> None:
        """Transformers tells it anew for every window of long audio."""
        self.begin_index = begin_index

    def apply_(self, input_ids: torch.Tensor, scores: torch.Tensor) -> None:
        """Leave rows that loop nothing but the end token."""
        if input_ids.shape[1] - self.begin_index < MIN_UNITS:
            return
        for row, tokens in zip(scores, input_ids[:, self.begin_index :].tolist(), strict=True):
            if self.has_cut(tokens, self.eos_token_id):
                row.fill_(-torch.inf)
                row[self.eos_token_id] = 0.0

    @staticmethod
    def has_cut(tokens: Sequence[int], eos_token_id: int) -> bool:
        """Whether these tokens, generated for one window under a guard, were cut by it.

        Only text counts: Whisper's special tokens and times have the ids from the end token's on.
        """
        return ends_in_loop([token for token in tokens if token < eos_token_id])


def end_of_text(generation_config: GenerationConfig) -> int:
    """The token that ends a transcript. Some versions of transformers' Trainer save a list of such tokens; of several, the first id."""
    return int(np.min(generation_config.eos_token_id))


def without_waste(processor: LogitsProcessor, vocab_size: int) -> LogitsProcessor:
    """Transformers' suppression replaced by ours, any other processor as it is."""
    if type(processor) is SuppressTokensLogitsProcessor:
        return SuppressTokens(processor.suppress_tokens, vocab_size)
    if type(processor) is SuppressTokensAtBeginLogitsProcessor:
        return SuppressTokensAtBegin(processor.begin_suppress_tokens, processor.begin_index, vocab_size)
    return processor


def _within(tokens: torch.Tensor, vocab_size: int) -> torch.Tensor:
    """The ids that exist: some configs list others (-1, or none at all, which makes a float tensor)."""
    return tokens[(tokens >= 0) & (tokens < vocab_size)].long()
