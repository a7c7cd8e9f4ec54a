"""Neighbouring clips of one speaker as one training sample: short clips train far better in company."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from qat_plugin.data.audio import SAMPLING_RATE

GAP_SECONDS = 0.3
"""Silence between joined clips, about a pause between sentences."""

Key = TypeVar("Key")


@dataclass(frozen=True)
class Clip(Generic[Key]):
    """One row as joining sees it. `tokens` is the length of its text in tokens; None where it has no text."""

    key: Key
    corpus: str
    speaker: str | None
    language: str | None
    duration: float
    tokens: int | None


def join_neighbours(clips: Iterable[Clip[Key]], *, max_seconds: float, max_tokens: int) -> Iterator[list[Key]]:
    """Group clips greedily in their order; every clip is in exactly one group.

    A clip joins the group before it when corpus, language and speaker are the same and the speaker is known, both have text or both have none,
    and the group stays within `max_seconds` (silence included) and `max_tokens` (one token more for each blank between
    texts, which is the most that a blank can add).
    """
    group: list[Key] = []
    last: Clip[Key] | None = None
    seconds, tokens = 0.0, 0
    for clip in clips:
        own_tokens = clip.tokens or 0
        if (
            last is not None
            and clip.speaker is not None
            and _kind(clip) == _kind(last)
            and seconds + GAP_SECONDS + clip.duration <= max_seconds
            and tokens + 1 + own_tokens <= max_tokens
        ):
            group.append(clip.key)
            seconds += GAP_SECONDS + clip.duration
            tokens += 1 + own_tokens
        else:
            if group:
                yield group
            group, seconds, tokens = [clip.key], clip.duration, own_tokens
        last = clip
    if group:
        yield group


def _kind(clip: Clip[Key]) -> tuple[str, str | None, str | None, bool]:
    return clip.corpus, clip.language, clip.speaker, clip.tokens is None


def join_audio(clips: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Clips of shape (samples,) at 16 kHz, one after the other with `GAP_SECONDS` of silence between."""
    gap = np.zeros(round(GAP_SECONDS * SAMPLING_RATE), dtype=np.float32)
    pieces = [clips[0]]
    for clip in clips[1:]:
        pieces += [gap, clip]
    return np.concatenate(pieces)


def join_seconds(durations: list[float]) -> float:
    """Seconds that `join_audio` makes of clips of these durations."""
    return sum(durations) + GAP_SECONDS * (len(durations) - 1)


def join_texts(texts: list[str | None]) -> str | None:
    """Texts with a blank between; None where there is none (a group has text throughout or not at all)."""
    spoken = [text for text in texts if text is not None]
    return " ".join(spoken) if spoken else None
