"""Where errors lie: made-up speech, lost clips, lengths, speakers."""

from __future__ import annotations

import pytest

from qat_plugin.evaluation.breakdown import (
    MIN_SPEAKER_WORDS,
    SHOWN_SPEAKERS,
    break_down,
    count_speakers,
    hardest_speakers,
)
from qat_plugin.evaluation.normalizer import get_normalizer
from qat_plugin.evaluation.scoring import Scored, measure_arms, pool, score
from qat_plugin.evaluation.transcripts import Transcript
from qat_plugin.evaluation.wer import longest_insertion_run

TEN = "un deux trois quatre cinq six sept huit neuf dix"


def scored(rows: list[tuple[str, str, float, str | None]]) -> Scored:
    """Of (reference, hypothesis, seconds, speaker)."""
    transcripts = [
        Transcript(
            id=f"u{i}", batch=f"u{i}", reference=reference, hypothesis=hypothesis, tokens=1, duration=seconds, seconds=0.1,
            speaker=speaker, language="fr", long_form=False, hit_length_limit=False, loop_cut=False,
        )
        for i, (reference, hypothesis, seconds, speaker) in enumerate(rows)
    ]  # fmt: skip
    return score(transcripts, get_normalizer("basic"))


@pytest.mark.parametrize(
    ("reference", "hypothesis", "run"),
    [
        (TEN, TEN, 0),
        (TEN, TEN + " et voilà", 2),
        ("bonjour merci", "bonjour a b c merci d e", 3),
        ("", "a b c d", 4),
        ("a b", "", 0),
        ("un deux", "un trois", 0),  # a substitution is no insertion
        ("", "", 0),
    ],
)
def test_longest_insertion_run(reference: str, hypothesis: str, run: int) -> None:
    assert longest_insertion_run(reference, hypothesis) == run


def test_made_up_and_lost_utterances() -> None:
    found = break_down(
        scored(
            [
                (TEN, TEN + " a b c d", 3.0, None),  # four: not long yet
                (TEN, TEN + " a b c d e", 3.0, None),  # five; half of the words, not more
                (TEN, "", 3.0, None),
                ("", "a b c d e f", 3.0, None),
                (TEN, TEN, 3.0, None),
            ]
        )
    )
    assert (found["longest_insertion_run"], found["long_insertions"], found["long_insertion_ids"]) == (
        6,
        2,
        ["u1", "u3"],
    )
    assert found["over_half_wrong"] == 2 and found["utterances"] == 5
    assert found["speaker_spread"] is None


def test_lengths() -> None:
    rows = [("a b", "a b", 2.0, None), ("a b", "a", 0.5, None), ("a b", "a c d", 2.01, None), ("", "a", 31.0, None)]
    by_duration = break_down(scored(rows))["by_duration"]
    assert by_duration == [
        {"from_seconds": 0.0, "to_seconds": 2.0, "utterances": 2, "reference_words": 4, "substitutions": 0, "deletions": 1,
         "insertions": 0, "wer": 0.25},
        {"from_seconds": 2.0, "to_seconds": 5.0, "utterances": 1, "reference_words": 2, "substitutions": 1, "deletions": 0,
         "insertions": 1, "wer": 1.0},
        {"from_seconds": 30.0, "to_seconds": None, "utterances": 1, "reference_words": 0, "substitutions": 0, "deletions": 0,
         "insertions": 1, "wer": None},
    ]  # fmt: skip


def speakers_of(rows: list[tuple[str, str, float, str | None]]) -> list[str | None]:
    return hardest_speakers(scored(rows))


def test_hardest_speakers() -> None:
    rows = [(TEN, TEN.replace("un", "a") if i >= 4 else TEN, 4.0, f"s{i}") for i in range(8) for _ in range(2)]
    rows += [(TEN, "", 4.0, "s2"), ("oui", "non", 1.0, "rare")]  # of 'rare' there are too few words
    part = scored(rows)
    assert hardest_speakers(part) == ["s2", "s4", "s5", "s6", "s7"] and SHOWN_SPEAKERS == 5
    found = count_speakers(part, hardest_speakers(part))
    assert found[0] == {
        "speaker": "s2", "utterances": 3, "reference_words": 30, "substitutions": 0, "deletions": 10, "insertions": 0,
        "wer": round(1 / 3, 6),
    }  # fmt: skip
    assert all(entry["reference_words"] >= MIN_SPEAKER_WORDS for entry in found)
    # s0, s1 and s3 without an error, four with one word in ten, s2 with a third
    assert break_down(part)["speaker_spread"] == {"speakers": 8, "lowest": 0.0, "median": 0.1, "highest": 0.333333}


def test_the_same_speakers_stand_side_by_side_in_all_arms() -> None:
    rows = [(TEN, TEN, 4.0, f"s{i}") for i in range(8) for _ in range(2)]
    worse = [(TEN, "" if speaker == "s6" else said, 4.0, speaker) for _, said, _, speaker in rows]
    other = [(TEN, "" if speaker == "s1" else said, 4.0, speaker) for _, said, _, speaker in rows]
    parts = {"fp": scored(other), "qat": scored(worse)}
    found = measure_arms({arm: [part] for arm, part in parts.items()}, parts, resamples=200, seed=1)
    assert [entry["speaker"] for entry in found["fp"]["worst_speakers"]] == ["s6", "s0", "s1", "s2", "s3"]
    shown = {arm: {e["speaker"]: e["wer"] for e in measured["worst_speakers"]} for arm, measured in found.items()}
    assert shown["fp"].keys() == shown["qat"].keys()
    assert (shown["fp"]["s6"], shown["qat"]["s6"]) == (0, 1) and (shown["fp"]["s1"], shown["qat"]["s1"]) == (1, 0)


def test_speakers_are_named_only_where_all_are_known_and_several() -> None:
    assert speakers_of([(TEN, TEN, 4.0, "s1")] * 4) == []
    assert speakers_of([(TEN, TEN, 4.0, "s1")] * 2 + [(TEN, TEN, 4.0, None)] * 2) == []


def test_speakers_of_two_corpora_are_two() -> None:
    part = scored([(TEN, TEN, 4.0, "s1")] * 2)
    assert hardest_speakers(pool({"studio": part, "street": part})) == ["street/s1", "studio/s1"]
