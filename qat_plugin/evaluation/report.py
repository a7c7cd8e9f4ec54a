"""results.json for people: a Markdown report, and the table that the terminal shows."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from qat_plugin.evaluation.baselines import baseline_notes
from qat_plugin.evaluation.bootstrap import MIN_UNITS
from qat_plugin.evaluation.formatting import (
    TOO_FEW,
    Results,
    count_and_share,
    markdown_table,
    measurements_by_corpus,
    normalized,
    percent,
    percent_range,
    points,
    signed,
    signed_range,
    tested_part,
)
from qat_plugin.evaluation.report_breakdown import breakdown_sections, cost_sections, interval_line
from qat_plugin.evaluation.results import BASELINE
from qat_plugin.normalizers import NORMALIZERS


def render_table(results: Results) -> str:
    """For a terminal: a row for each corpus and arm, then what they say of the arms on all the speech."""
    header = ["corpus", "model", "format", "WER %", "95 % interval", "size", "speed"]
    if _has_baseline(results):
        header.insert(5, "vs fp")
    rows = []
    by_corpus = measurements_by_corpus(results)
    for corpus, measurements in by_corpus.items():
        for arm, m in measurements.items():
            cells = [percent(m["wer"]), percent_range(m["wer_interval"])]
            if _has_baseline(results):
                cells.append(signed(m["versus"][BASELINE]["difference"]) if BASELINE in m["versus"] else "")
            size = _size(results["arms"][arm])
            rows.append([corpus, arm, results["arms"][arm]["format"], *cells, size, _speed(m)])
        rows.append([""] * len(header))
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = []
    for row in [header, ["─" * width for width in widths], *rows]:
        # Texts to the left, figures to the right.
        cells = [c.ljust(w) if i < 3 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
    said = [*baseline_notes(results), *findings(results)]
    texts = [(_caption(results), ""), *((f"* {line}", "  ") for line in said)]
    lines += [textwrap.fill(text, 100, subsequent_indent=indent) for text, indent in texts]
    return "\n".join(lines) + "\n"


def render_report(results: Results, plots: Sequence[str] = ()) -> str:
    """The Markdown report; `plots` are the paths of images, relative to it."""
    settings, environment = results["settings"], results["environment"]
    parts = [
        f"# Evaluation of {results['recipe'].get('model_name_or_path', 'a Whisper')}",
        markdown_table(*_table(results), text_columns=2),
        " ".join([_caption(results), *baseline_notes(results)]),
        "## What the figures say",
        "\n".join(f"- {line}" for line in findings(results)),
        *(f"![{path}]({path})" for path in plots),
        "## Errors",
        "Insertions stand apart, because a single clip that falls into a loop can add a hundred. 'Looping' counts such "
        "clips, those that the loop guard ended included, 'cut off' those whose transcript ran into the model's length "
        f"limit; the looping rate is the share of clips that do either. Of {normalized(results)}.",
        markdown_table(*_error_table(results), text_columns=2),
        *breakdown_sections(results),
        *_difference_section(results),
        *cost_sections(results),
        "## Speech",
        markdown_table(*_corpus_table(results), text_columns=2),
        *([f"Of each corpus: {part}."] if (part := tested_part(results["recipe"])) else []),
        "A test file that is also a training file, byte for byte, is refused before anything is measured; texts of the same "
        "words may be in both, spoken in other recordings. Streamed corpora are not compared.",
        "## Files",
        "Every file of an arm's folder counts.",
        markdown_table(*_file_table(results), text_columns=2),
        "## How it was measured",
        "\n".join(
            f"- {line}"
            for line in (
                f"language {settings['language']}, task {settings['task']}, "
                f"{_search(settings)}, {_batch(settings)}, at most {settings['max_target_positions']} tokens a window",
                f"normalizer '{settings['normalizer']}', for references and transcripts alike: "
                + NORMALIZERS[settings["normalizer"]],
                interval_line(results),
                f"{_threads(settings)} on {environment['cores']} logical cores of "
                f"{environment['cpu']} ({' '.join(environment['cpu_flags']) or 'flags unknown'})",
                f"{environment['system']} {environment['architecture']}, Python {environment['python']}, "
                + ", ".join(f"{name} {version}" for name, version in environment["packages"].items()),
                f"code at commit {results['git_commit'] or 'unknown'}",
                *(f"step {step}: {_duration(seconds)}" for step, seconds in results["step_seconds"].items()),
            )
        ),
    ]
    return "\n\n".join(parts) + "\n"


def findings(results: Results) -> list[str]:
    """What all the speech together says: of each arm against fp, and of the last arm against each other one.

    A sentence holds the difference, its interval and whether it is beyond chance. Where a corpus has too few clips for the
    pooled ones to have an interval, the other corpora speak, each for itself. All pairs on all corpora are in the report's
    table of differences. Of a single arm there is its WER to tell, and that it was compared with none.
    """
    by_corpus = measurements_by_corpus(results)
    telling = {name: ms for name, ms in by_corpus.items() if all(m["wer_interval"] for m in ms.values())}
    pooled = list(by_corpus)[-1]
    if len(results["arms"]) == 1:
        ((arm, m),) = by_corpus[pooled].items()
        interval = f"95 % interval {percent_range(m['wer_interval'])} %" if m["wer_interval"] else TOO_FEW
        return [
            f"{pooled}: {arm} has {percent(m['wer'])} % WER, {interval}; no other arm was measured to compare it with."
        ]
    said = [
        _finding(corpus, arm, other, measurement, measurements[other], versus)
        for corpus, measurements in ([(pooled, telling[pooled])] if pooled in telling else telling.items())
        for arm, measurement in measurements.items()
        for other, versus in measurement["versus"].items()
        if other == BASELINE or arm == list(measurements)[-1]
    ]
    few = {name: results["corpora"][name] for name in by_corpus if name not in telling and name in results["corpora"]}
    return said + [
        f"{name}: {TOO_FEW} how sure its figures are: {corpus['interval_units']}, where {MIN_UNITS} are needed."
        for name, corpus in few.items()
    ]


def _finding(corpus: str, arm: str, other: str, mine: Results, theirs: Results, versus: Results) -> str:
    difference = versus["difference"]
    low, high = versus["interval"]
    direction = "better than" if difference < 0 else "worse than" if difference > 0 else "level with"
    amount = f"{points(abs(difference))} points {direction}" if difference else direction
    verdict = (
        "0 lies outside, so the difference is beyond its interval"
        if versus["beyond_interval"]
        else "0 lies inside, so this speech does not tell the two apart"
    )
    return (
        f"{corpus}: {arm} is {amount} {other} ({percent(mine['wer'])} against {percent(theirs['wer'])} % WER); "
        f"95 % interval {signed(low)} to {signed(high)} points, {points(high - low)} wide; {verdict}."
    )


def _table(results: Results) -> tuple[list[str], list[list[str]]]:
    by_corpus = measurements_by_corpus(results)
    header = ["model", "format", *(f"{corpus}: WER %" for corpus in by_corpus), "size", "speed"]
    pooled = results["pooled"]
    rows = []
    for arm, described in results["arms"].items():
        wers = [_wer_cell(arm, measurements[arm]) for measurements in by_corpus.values()]
        rows.append([arm, described["format"], *wers, _size(described), _speed(pooled[arm])])
    return header, rows


def _wer_cell(arm: str, measurement: Results) -> str:
    cell = percent(measurement["wer"])
    if measurement["wer_interval"] is not None:
        cell += f" [{percent_range(measurement['wer_interval'], '{}, {}')}]"
    versus = measurement["versus"].get(BASELINE)
    return cell if versus is None else f"{cell} ({signed(versus['difference'])})"


def _caption(results: Results) -> str:
    settings = results["settings"]
    delta = " and the difference to fp in points" if _has_baseline(results) else ""
    share = ", share of fp" if _has_baseline(results) else ""
    few = any(m["wer_interval"] is None for row in measurements_by_corpus(results).values() for m in row.values())
    missing = f" (none: {TOO_FEW})" if few else ""
    return (
        f"WER with its 95 % interval{missing}{delta}, {normalized(results)}. Size: all files of the "
        f"folder{share}. Speed: seconds of audio a second of wall time, {_threads(settings)} on "
        f"{results['environment']['cpu']}, {_batch(settings)}."
    )


def _has_baseline(results: Results) -> bool:
    """Whether there are arms to compare with fp."""
    return BASELINE in results["arms"] and len(results["arms"]) > 1


def _error_table(results: Results) -> tuple[list[str], list[list[str]]]:
    header = ["corpus", "arm", "substitutions", "deletions", "insertions", "words", "CER %"]
    header += ["looping", "cut off", "looping rate %", "speed"]
    rows = []
    for corpus, measurements in measurements_by_corpus(results).items():
        for arm, m in measurements.items():
            counts = [m[n] for n in ("substitutions", "deletions", "insertions", "reference_words")]
            figures = [*counts, percent(m["cer"]), m["looping"], m["hit_length_limit"]]
            # which older results do not name
            figures += [percent(m["looping_rate"]) if "looping_rate" in m else "n/a", _speed(m)]
            rows.append([corpus, arm, *map(str, figures)])
    return header, rows


def _difference_section(results: Results) -> list[str]:
    if len(results["arms"]) == 1:
        return []
    return [
        "## Differences",
        "WER of an arm minus WER of another on the same utterances, with the paired 95 % interval; below 0 the arm is "
        f"better. Of {normalized(results)}.",
        markdown_table(*_difference_table(results), text_columns=3),
    ]


def _difference_table(results: Results) -> tuple[list[str], list[list[str]]]:
    header = ["corpus", "arm", "minus", "points", "95 % interval", "relative %", "95 % interval", "p", "beyond"]
    rows = []
    for corpus, measurements in measurements_by_corpus(results).items():
        for arm, measurement in measurements.items():
            for other, v in measurement["versus"].items():
                relative = "n/a" if v["relative"] is None else signed(v["relative"])
                figures = [
                    signed(v["difference"]),
                    signed_range(v["interval"], TOO_FEW),
                    relative,
                    signed_range(v["relative_interval"]),
                ]
                rows.append([corpus, arm, other, *figures, _p_value(v["p_value"]), _BEYOND[v["beyond_interval"]]])
    return header, rows


_BEYOND = {True: "yes", False: "no", None: TOO_FEW}


def _p_value(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}" if value >= 0.001 else "< 0.001"


def _corpus_table(results: Results) -> tuple[list[str], list[list[str]]]:
    header = ["corpus", "language", "utterances", "words", "minutes", "speakers", "longer than the window"]
    header += ["empty references", "texts also trained on"]
    rows = []
    for name, c in results["corpora"].items():
        counts = [c["utterances"], c["words"], f"{c['seconds'] / 60:.1f}", c["speakers"] or "unknown"]
        counts += [c["long_form"], c["empty_references"], _shared_texts(c.get("overlap"))]
        rows.append([name, ", ".join(c["languages"]), *map(str, counts)])
    return header, rows


def _shared_texts(overlap: Results | None) -> str:
    if overlap is None or not overlap["test_rows"]:
        return "not compared"
    compared = count_and_share(overlap["same_text"], overlap["test_rows"])
    compared += f", without {', '.join(overlap['unchecked'])}" if overlap["unchecked"] else ""
    # Results from before texts were told apart from recordings do not name those that lack some.
    some = overlap.get("without_text")
    return compared + (f", as far as known of {', '.join(some)}" if some else "")


def _file_table(results: Results) -> tuple[list[str], list[list[str]]]:
    header = ["arm", "file", "bytes", "sha256"]
    rows = [
        [arm, f"`{path}`", f"{entry['bytes']:,}", f"`{entry['sha256']}`"]
        for arm, described in results["arms"].items()
        for path, entry in described["files"].items()
    ]
    return header, rows


def _size(described: Results) -> str:
    share = described["bytes_ratio"]
    return f"{described['bytes'] / 1e6:.1f} MB" + ("" if share is None else f" ({100 * share:.1f} %)")


def _speed(measurement: Results) -> str:
    return f"{measurement['rtfx']:.1f}x"


def _threads(settings: Results) -> str:
    count = settings["num_threads"]
    # Results from before the number was counted do not name it.
    return "a thread for each physical core" if count is None else "1 thread" if count == 1 else f"{count} threads"


def _search(settings: Results) -> str:
    count = settings["num_beams"]
    search = "greedy" if count == 1 else f"{count} beams"
    # Results from before there was a guard do not name it.
    return (
        f"{search}, loops decoded again where silence was folded, then ended by a guard"
        if settings.get("loop_guard")
        else search
    )


def _batch(settings: Results) -> str:
    count = settings["batch_size"]
    return "one utterance at a time" if count == 1 else f"{count} utterances at a time"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
