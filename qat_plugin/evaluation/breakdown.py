"""Where an arm's errors lie: speech that was made up, clips that went wrong as a whole, lengths, speakers.

A corpus' WER may be the same for an arm that errs a little everywhere and one that loses a few clips altogether. These
figures tell them apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any, Optional

from qat_plugin.evaluation.wer import ErrorCounts, sum_word_errors

if TYPE_CHECKING:
    from qat_plugin.evaluation.scoring import Scored

LONG_INSERTION = 5
"""Words in a row that nobody said, from which on an utterance counts as one with made-up speech."""

DURATION_EDGES = (2.0, 5.0, 10.0, 20.0, 30.0)
"""Seconds; a clip of just that length belongs to the shorter ones. The last is Whisper's window."""

SHOWN_SPEAKERS = 5
MIN_SPEAKER_WORDS = 20
"""Of fewer words, a speaker's WER is chance."""


def break_down(part: Scored) -> dict[str, Any]:
    """The entries of a MEASUREMENT (see `results`) that say where the errors lie."""
    made_up = [name for name, run in zip(part.ids, part.insertion_runs, strict=True) if run >= LONG_INSERTION]
    half_wrong = [
        name for name, words in zip(part.ids, part.words, strict=True) if 2 * words.errors > words.reference_words
    ]
    return {
        "utterances": len(part.ids),
        "longest_insertion_run": max(part.insertion_runs, default=0),
        "long_insertions": len(made_up),
        "long_insertion_ids": made_up,
        "over_half_wrong": len(half_wrong),
        "by_duration": _by_duration(part),
        "speaker_spread": _speaker_spread(part),
    }


def hardest_speakers(part: Scored) -> list[str | None]:
    """Those with the highest WERs among speakers with enough words; none where speakers are unknown, or there is one."""
    groups = {speaker: sum_word_errors(words).wer for speaker, words in _by_speaker(part).items()}
    return sorted(groups, key=lambda speaker: (-groups[speaker], str(speaker)))[:SHOWN_SPEAKERS]


def count_speakers(part: Scored, speakers: Sequence[str | None]) -> list[dict[str, Any]]:
    """The errors on each of these speakers, in that order."""
    groups = _by_speaker(part)
    return [{"speaker": speaker, **_counts(groups[speaker])} for speaker in speakers]


def _by_duration(part: Scored) -> list[dict[str, Any]]:
    def bucket(index: int) -> tuple[float, Optional[float]]:
        edges = [0.0, *DURATION_EDGES]
        place = sum(part.transcripts[index].duration > edge for edge in DURATION_EDGES)
        return edges[place], edges[place + 1] if place + 1 < len(edges) else None

    groups = _grouped(part.words, bucket)
    return [
        {"from_seconds": low, "to_seconds": high, **_counts(words)}
        for (low, high), words in sorted(groups.items(), key=lambda item: item[0][0])
    ]


def _speaker_spread(part: Scored) -> Optional[dict[str, Any]]:
    wers = sorted(sum_word_errors(words).wer for words in _by_speaker(part).values())
    if not wers:
        return None
    figures = {"lowest": wers[0], "median": median(wers), "highest": wers[-1]}
    return {"speakers": len(wers), **{name: round(wer, 6) for name, wer in figures.items()}}


def _by_speaker(part: Scored) -> dict[str | None, list[ErrorCounts]]:
    """The utterances of the speakers with enough words, where all speakers are known and several."""
    if None in part.speakers or len(set(part.speakers)) < 2:
        return {}
    groups = _grouped(part.words, lambda index: part.speakers[index])
    return {s: words for s, words in groups.items() if sum_word_errors(words).reference_words >= MIN_SPEAKER_WORDS}


def _grouped(words: Sequence[ErrorCounts], key: Callable[[int], Any]) -> dict[Any, list[ErrorCounts]]:
    groups: dict[Any, list[ErrorCounts]] = {}
    for index, counts in enumerate(words):
        groups.setdefault(key(index), []).append(counts)
    return groups


def _counts(words: Sequence[ErrorCounts]) -> dict[str, Any]:
    total = sum_word_errors(words)
    return {
        "utterances": len(words),
        "reference_words": total.reference_words,
        "substitutions": total.substitutions,
        "deletions": total.deletions,
        "insertions": total.insertions,
        # a bucket of silence has insertions, but no rate
        "wer": round(total.wer, 6) if total.reference_words else None,
    }
