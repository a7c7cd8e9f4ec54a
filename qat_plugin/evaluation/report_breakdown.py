"""The report's parts on where errors lie, what arms cost to open, and what the intervals were drawn from.

Each is left out of the report on results that were made before these figures were.
"""

from __future__ import annotations

from typing import Any

from qat_plugin.evaluation.bootstrap import MIN_UNITS
from qat_plugin.evaluation.breakdown import LONG_INSERTION, MIN_SPEAKER_WORDS
from qat_plugin.evaluation.formatting import (
    Results,
    count_and_share,
    markdown_table,
    measurements_by_corpus,
    normalized,
    percent,
)


def breakdown_sections(results: Results) -> list[str]:
    """Markdown paragraphs, each a heading, a text or a table."""
    by_corpus = measurements_by_corpus(results)
    if not all("by_duration" in m for measurements in by_corpus.values() for m in measurements.values()):
        return []
    arms = list(results["arms"])
    sections = [
        "## Made-up speech and lost clips",
        f"Utterances with {LONG_INSERTION} words or more in a row that nobody said, the longest such run, utterances with more "
        f"than 50 % WER, and transcripts that ran into the length limit. Of {normalized(results)}.",
        markdown_table(
            ["corpus", "arm", "made up", "longest run, words", "over 50 % WER", "cut off"],
            [[corpus, arm, *_hallucinations(m)] for corpus, ms in by_corpus.items() for arm, m in ms.items()],
            text_columns=2,
        ),
        "## By length",
        f"WER in percent of clips that are so long, {normalized(results)}.",
        markdown_table(
            ["corpus", "seconds", "utterances", "words", *arms],
            [row for corpus in results["corpora"] for row in _length_rows(corpus, by_corpus[corpus], arms)],
            text_columns=2,
        ),
    ]
    spreads = [
        [corpus, arm, str(spread["speakers"]), *(percent(spread[name]) for name in ("lowest", "median", "highest"))]
        for corpus in results["corpora"]
        for arm, measurement in by_corpus[corpus].items()
        if (spread := measurement.get("speaker_spread"))  # which neither older results have nor speech of one speaker
    ]
    if spreads:
        sections += [
            "## By speaker",
            f"WER in percent of the speakers with {MIN_SPEAKER_WORDS} words or more, {normalized(results)}.",
            markdown_table(["corpus", "arm", "speakers", "lowest", "median", "highest"], spreads, text_columns=2),
        ]
    rows = [row for corpus in results["corpora"] for row in _speaker_rows(corpus, by_corpus[corpus], arms)]
    if rows:
        sections += [
            "## Hardest speakers",
            f"WER in percent of those on whom {arms[-1]} has the highest, of {MIN_SPEAKER_WORDS} words or more, "
            f"{normalized(results)}.",
            markdown_table(["corpus", "speaker", "utterances", "words", *arms], rows, text_columns=2),
        ]
    return sections


def cost_sections(results: Results) -> list[str]:
    """Load time and memory of the arms where they were measured."""
    costs = {arm: described["cost"] for arm, described in results["arms"].items() if described.get("cost")}
    if not costs:
        return []
    clip = next(iter(costs.values()))["clip_seconds"]
    return [
        "## Opening a model",
        f"Each arm in a fresh process: load time with the files in memory, and the most memory that the process held while it "
        f"transcribed {clip:.1f} s of speech, libraries included; they alone take what the last column says.",
        markdown_table(
            ["arm", "load, s", "peak memory, MB", "libraries, MB"],
            [
                [arm, f"{cost['load_seconds']:.2f}", *(f"{cost[name] / 1e6:.0f}" for name in ("peak_memory_bytes", "libraries_memory_bytes"))]
                for arm, cost in costs.items()
            ],
            text_columns=1,
        ),
    ]  # fmt: skip


def interval_line(results: Results) -> str:
    """What was resampled, corpus by corpus, and how."""
    bootstrap, corpora = results["settings"]["bootstrap"], results["corpora"]
    method = f", {bootstrap['method']} intervals" if "method" in bootstrap else ""
    units = "; ".join(f"{name}: {_unit(corpus)}" for name, corpus in corpora.items() if "interval_unit" in corpus)
    return (
        f"intervals: bootstrap over {units or 'utterances'}{method}, {bootstrap['resamples']} resamples, seed "
        f"{bootstrap['seed']}; several corpora are drawn from each by itself"
    )


def _unit(corpus: Results) -> str:
    if corpus["interval_unit"] == "speakers":
        return f"{corpus['interval_units']} speakers"
    known = corpus["speakers"]
    why = (
        "speakers are unknown"
        if known is None
        else f"of {known} known speaker{'s' if known > 1 else ''}, where {MIN_UNITS} and no unknown ones are needed to draw "
        "speakers"
    )
    return f"{corpus['interval_units']} utterances ({why}: the interval speaks for more speech of these only)"


def _hallucinations(m: Results) -> list[str]:
    whole = m["utterances"]
    return [
        count_and_share(m["long_insertions"], whole),
        str(m["longest_insertion_run"]),
        count_and_share(m["over_half_wrong"], whole),
        count_and_share(m["hit_length_limit"], whole),
    ]


def _length_rows(corpus: str, measurements: dict[str, Any], arms: list[str]) -> list[list[str]]:
    # The same clips in all arms, hence the same lengths.
    rows = []
    for buckets in zip(*(measurements[arm]["by_duration"] for arm in arms), strict=True):
        low, high = buckets[0]["from_seconds"], buckets[0]["to_seconds"]
        seconds = f"over {low:g}" if high is None else f"{low:g} to {high:g}"
        wers = ["n/a" if bucket["wer"] is None else percent(bucket["wer"]) for bucket in buckets]
        rows.append([corpus, seconds, str(buckets[0]["utterances"]), str(buckets[0]["reference_words"]), *wers])
    return rows


def _speaker_rows(corpus: str, measurements: dict[str, Any], arms: list[str]) -> list[list[str]]:
    # The results beside a card name no speaker, and in older ones each arm has its own.
    found = {arm: {entry["speaker"]: entry for entry in measurements[arm].get("worst_speakers", ())} for arm in arms}
    return [
        [
            corpus, speaker, str(entry["utterances"]), str(entry["reference_words"]),
            *(percent(found[arm][speaker]["wer"]) if speaker in found[arm] else "n/a" for arm in arms),
        ]
        for speaker, entry in found[arms[-1]].items()
    ]  # fmt: skip
