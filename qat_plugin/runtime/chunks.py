"""Audio longer than the window as chunks that overlap, each transcribed by itself: the chunked algorithm of transformers'
speech recognition pipeline, with its overlap.

A word that a chunk's edge cuts is whole in the chunk beside it; texts are joined where their overlaps agree best.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from transformers import WhisperProcessor

_OVERLAP = 1 / 6
"""Share of a chunk that it hears again of the one before, and the next one of it."""

_POSITION_SECONDS = 0.02


@dataclass(frozen=True)
class Chunk:
    """A stretch of audio, float32 [samples], of which `left` and `right` samples belong to its neighbours, too."""

    audio: NDArray[np.float32]
    left: int
    right: int


def split(audio: NDArray[np.float32], window: int) -> list[Chunk]:
    """Chunks of `window` samples, the last one shorter; one where the audio fits it."""
    overlap = round(window * _OVERLAP)
    chunks = []
    for start in range(0, len(audio), window - 2 * overlap):
        is_last = start + window >= len(audio)
        chunks.append(Chunk(audio[start : start + window], overlap if start else 0, 0 if is_last else overlap))
        if is_last:
            break
    return chunks


def join(processor: WhisperProcessor, chunks: Sequence[Chunk], tokens: Sequence[NDArray[np.int64]]) -> str:
    """One text of what was generated for each chunk, token ids without timestamps, int64 [tokens]."""
    rate = processor.feature_extractor.sampling_rate
    outputs = [
        {"tokens": ids[None], "stride": (len(chunk.audio) / rate, chunk.left / rate, chunk.right / rate)}
        for chunk, ids in zip(chunks, tokens, strict=True)
    ]
    text, _ = processor.tokenizer._decode_asr(
        outputs, return_timestamps=False, return_language=False, time_precision=_POSITION_SECONDS
    )
    return str(text).strip()
