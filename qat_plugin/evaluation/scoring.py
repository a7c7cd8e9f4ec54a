"""The errors of an arm's transcripts, and what they amount to: the MEASUREMENT of `results`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qat_plugin.evaluation.bootstrap import (
    Counts,
    Difference,
    Interval,
    paired_difference,
    sum_by_unit,
    wer_interval,
)
from qat_plugin.evaluation.breakdown import break_down, count_speakers, hardest_speakers
from qat_plugin.evaluation.loops import is_looping
from qat_plugin.evaluation.normalizer import Normalizer
from qat_plugin.evaluation.transcripts import Transcript
from qat_plugin.evaluation.wer import (
    CharacterCounts,
    ErrorCounts,
    count_character_errors,
    count_word_errors,
    longest_insertion_run,
    sum_character_errors,
    sum_word_errors,
)


@dataclass(frozen=True)
class Scored:
    """Transcripts of one arm, of one corpus or (ids and speakers prefixed) of several, with the errors of each."""

    transcripts: list[Transcript]
    ids: list[str]
    speakers: list[str | None]
    words: list[ErrorCounts]
    characters: list[CharacterCounts]
    looping: list[bool]
    insertion_runs: list[int]


def score(transcripts: list[Transcript], normalize: Normalizer) -> Scored:
    """Count the errors of each utterance after the same normalization of both texts."""
    pairs = [(normalize(t.reference), normalize(t.hypothesis)) for t in transcripts]
    return Scored(
        transcripts,
        [t.id for t in transcripts],
        [t.speaker for t in transcripts],
        [count_word_errors(*pair) for pair in pairs],
        [count_character_errors(*pair) for pair in pairs],
        [t.loop_cut or is_looping(*pair) for t, pair in zip(transcripts, pairs, strict=True)],
        [longest_insertion_run(*pair) for pair in pairs],
    )


def pool(parts: Mapping[str, Scored]) -> Scored:
    """One arm's corpora (name → part) as one; ids become CORPUS/ID, speakers CORPUS/SPEAKER."""
    return Scored(
        [t for part in parts.values() for t in part.transcripts],
        [f"{corpus}/{name}" for corpus, part in parts.items() for name in part.ids],
        [name and f"{corpus}/{name}" for corpus, part in parts.items() for name in part.speakers],
        [counts for part in parts.values() for counts in part.words],
        [counts for part in parts.values() for counts in part.characters],
        [flag for part in parts.values() for flag in part.looping],
        [run for part in parts.values() for run in part.insertion_runs],
    )


def measure_arms(
    strata: Mapping[str, Sequence[Scored]], whole: Mapping[str, Scored], *, resamples: int, seed: int
) -> dict[str, dict[str, Any]]:
    """A MEASUREMENT for each arm; `strata` are what the bootstrap draws from, `whole` is all of them together."""
    measurements: dict[str, dict[str, Any]] = {}
    # The same speakers in all arms, so that they stand side by side.
    hardest = hardest_speakers(list(whole.values())[-1])
    for arm, parts in strata.items():
        counts = [_count_columns(part) for part in parts]
        interval = wer_interval([columns[:, :2] for columns in counts], resamples=resamples, seed=seed)
        versus = {}
        for other in measurements:  # those that come earlier
            pairs = zip(counts, strata[other], strict=True)
            paired = [np.column_stack([mine[:, 0], _count_columns(theirs)]) for mine, theirs in pairs]
            versus[other] = _difference_to_json(paired_difference(paired, resamples=resamples, seed=seed))
        speakers = count_speakers(whole[arm], hardest)
        measurements[arm] = {**_measure(whole[arm], interval), "worst_speakers": speakers, "versus": versus}
    return measurements


def _count_columns(part: Scored) -> Counts:
    """Errors and reference words of each unit that the bootstrap draws."""
    counts = np.array([(w.errors, w.reference_words) for w in part.words], dtype=np.int64)
    return sum_by_unit(counts, part.speakers)


def _measure(part: Scored, interval: Interval | None) -> dict[str, Any]:
    words, characters = sum_word_errors(part.words), sum_character_errors(part.characters)
    audio, wall = (sum(getattr(t, name) for t in part.transcripts) for name in ("duration", "seconds"))
    looping = [name for name, flag in zip(part.ids, part.looping, strict=True) if flag]
    cut = [name for name, t in zip(part.ids, part.transcripts, strict=True) if t.hit_length_limit]
    guarded = [name for name, t in zip(part.ids, part.transcripts, strict=True) if t.loop_cut]
    return {
        "wer": rounded(words.wer),
        "wer_interval": _interval_to_json(interval),
        "substitutions": words.substitutions,
        "deletions": words.deletions,
        "insertions": words.insertions,
        "hits": words.hits,
        "reference_words": words.reference_words,
        "cer": rounded(characters.cer),
        "character_errors": characters.errors,
        "reference_characters": characters.reference_characters,
        "audio_seconds": round(audio, 3),
        "wall_seconds": round(wall, 3),
        "rtfx": round(audio / wall, 3),
        "tokens": sum(t.tokens for t in part.transcripts),
        "looping": len(looping),
        "looping_ids": looping,
        "looping_rate": rounded(len({*looping, *cut}) / len(part.ids)),
        "loop_cut": len(guarded),
        "loop_cut_ids": guarded,
        "hit_length_limit": len(cut),
        "hit_length_limit_ids": cut,
        **break_down(part),
    }


def _difference_to_json(difference: Difference) -> dict[str, Any]:
    return {
        "difference": rounded(difference.value),
        "interval": _interval_to_json(difference.interval),
        "p_value": _rounded_or_none(difference.p_value),
        "relative": _rounded_or_none(difference.relative),
        "relative_interval": _interval_to_json(difference.relative_interval),
        "beyond_interval": difference.beyond_interval,
    }


def _interval_to_json(interval: Interval | None) -> list[float] | None:
    return None if interval is None else [rounded(interval.low), rounded(interval.high)]


def _rounded_or_none(value: float | None) -> float | None:
    return None if value is None else rounded(value)


def rounded(value: float) -> float:
    """To ten thousandths of a point: platforms' last bits must not change results.json."""
    return round(float(value), 6)
