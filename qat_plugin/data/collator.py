"""Batches for a Whisper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import WhisperProcessor

from qat_plugin.errors import DataError

IGNORED = -100
"""Label that the cross entropy leaves out."""


@dataclass
class SpeechSeq2SeqCollator:
    """Stacks features and pads labels.

    The model shifts labels right and puts `decoder_start_token_id` in front, so labels that begin with it already would
    begin with it twice: one leading copy is removed when every row has it. Padding is -100 by position, never by token
    value, because Whisper's padding token is also its end of text.

    Attributes:
        processor: of the model that is trained; its feature extractor gives the number of mel bins to expect.
        decoder_start_token_id: `model.config.decoder_start_token_id`.
    """

    processor: WhisperProcessor
    decoder_start_token_id: int

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Collate samples.

        Args:
            features: "input_features" of shape (mels, frames); optional "labels" (token ids) and "attention_mask"
                (frames,), each in all samples or in none.

        Returns:
            "input_features" float32 (batch, mels, frames); "labels" int64 (batch, longest); "attention_mask" int64
            (batch, frames), which the model's own SpecAugment needs.

        Raises:
            DataError: samples disagree about what they hold, or the number of mel bins is not the processor's.
        """
        mels = int(self.processor.feature_extractor.feature_size)
        inputs = np.stack([np.asarray(sample["input_features"], dtype=np.float32) for sample in features])
        if inputs.shape[1] != mels:
            raise DataError(f"input_features have {inputs.shape[1]} mel bins, the processor makes {mels}.")
        batch = {"input_features": torch.from_numpy(inputs)}
        if self._all_have("attention_mask", features):
            masks = np.stack([np.asarray(sample["attention_mask"], dtype=np.int64) for sample in features])
            batch["attention_mask"] = torch.from_numpy(masks)
        if self._all_have("labels", features):
            batch["labels"] = self._pad([list(sample["labels"]) for sample in features])
        return batch

    def _pad(self, labels: list[list[int]]) -> torch.Tensor:
        if all(row and row[0] == self.decoder_start_token_id for row in labels):
            labels = [row[1:] for row in labels]
        padded = torch.full((len(labels), max(map(len, labels))), IGNORED, dtype=torch.long)
        for row, tokens in zip(padded, labels):
            row[: len(tokens)] = torch.tensor(tokens, dtype=torch.long)
        return padded

    @staticmethod
    def _all_have(key: str, features: Sequence[Mapping[str, Any]]) -> bool:
        count = sum(key in sample for sample in features)
        if 0 < count < len(features):
            raise DataError(f"{count} of {len(features)} samples in one batch have '{key}'. Give it to all or to none.")
        return count > 0
