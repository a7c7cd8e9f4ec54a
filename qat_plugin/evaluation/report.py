"""results.json for people: a Markdown report, and the table that the terminal shows."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from qat_plugin.evaluation.results import BASELINE

Results = Mapping[str, Any]
POOLED = "all corpora"


def render_table(results: Results) -> str:
    """For a terminal: a row for each corpus and arm, then what they say of the arms on all the speech."""
    header = ["corpus", "model", "format", "WER %", "95 % interval", "vs fp", "size", "speed"]
    rows = []
    by_corpus = measurements_by_corpus(results)
    for corpus, measurements in by_corpus.items():
        for arm, m in measurements.items():
            low, high = m["wer_interval"]
            to_fp = _signed(m["versus"][BASELINE]["difference"]) if BASELINE in m["versus"] else ""
            cells = [_percent(m["wer"]), f"{_percent(low)} to {_percent(high)}", to_fp, _size(results["arms"][arm])]
            rows.append([corpus, arm, results["arms"][arm]["format"], *cells, _speed(m)])
        rows.append([""] * len(header))
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = []
    for row in [header, ["─" * width for width in widths], *rows]:
        # Texts to the left, figures to the right.
        cells = [c.ljust(w) if i < 3 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
    last = next(reversed(by_corpus))
    texts = [(_caption(results), ""), *((f"* {line}", "  ") for line in _findings(last, by_corpus[last]))]
    lines += [textwrap.fill(text, 100, subsequent_indent=indent) for text, indent in texts]
    return "\n".join(lines) + "\n"


def render_report(results: Results, plots: Sequence[str] = ()) -> str:
    """The Markdown report; `plots` are the paths of images, relative to it."""
    settings, environment = results["settings"], results["environment"]
    parts = [
        f"# Evaluation of {results['recipe'].get('model_name_or_path', 'a Whisper')}",
        _markdown_table(*_table(results), text_columns=2),
        _caption(results),
        "## What the figures say",
        "\n".join(f"- {line}" for line in findings(results)),
        *(f"![{path}]({path})" for path in plots),
        "## Errors",
        "Insertions stand apart, because a single clip that falls into a loop can add a hundred. 'Looping' counts such "
        "clips, those that the loop guard ended included, 'cut off' those whose transcript ran into the model's length "
        "limit.",
        _markdown_table(*_error_table(results), text_columns=2),
        "## Differences",
        "WER of an arm minus WER of another on the same utterances, with the paired 95 % interval; below 0 the arm is "
        "better.",
        _markdown_table(*_difference_table(results), text_columns=3),
        "## Speech",
        _markdown_table(*_corpus_table(results), text_columns=2),
        "## Files",
        "Every file of an arm's folder counts.",
        _markdown_table(*_file_table(results), text_columns=2),
        "## How it was measured",
        "\n".join(
            f"- {line}"
            for line in (
                f"language {settings['language']}, task {settings['task']}, normalizer '{settings['normalizer']}', "
                f"{_search(settings)}, {_batch(settings)}, at most {settings['max_target_positions']} tokens a window",
                f"intervals: bootstrap over utterances, {settings['bootstrap']['resamples']} resamples, seed "
                f"{settings['bootstrap']['seed']}; several corpora are drawn from each by itself",
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
    """One sentence for each pair of arms and corpus: the difference, its interval and whether it is beyond chance."""
    by_corpus = measurements_by_corpus(results)
    return [line for corpus, measurements in by_corpus.items() for line in _findings(corpus, measurements)]


def _findings(corpus: str, measurements: Results) -> list[str]:
    return [
        _finding(corpus, arm, other, measurement, measurements[other], versus)
        for arm, measurement in measurements.items()
        for other, versus in measurement["versus"].items()
    ]


def _finding(corpus: str, arm: str, other: str, mine: Results, theirs: Results, versus: Results) -> str:
    points = versus["difference"]
    low, high = versus["interval"]
    direction = "better than" if points < 0 else "worse than" if points > 0 else "level with"
    amount = f"{_points(abs(points))} points {direction}" if points else direction
    verdict = (
        "0 lies outside, so the difference is beyond its interval"
        if versus["beyond_interval"]
        else "0 lies inside, so this speech does not tell the two apart"
    )
    return (
        f"{corpus}: {arm} is {amount} {other} ({_percent(mine['wer'])} against {_percent(theirs['wer'])} % WER); "
        f"95 % interval {_signed(low)} to {_signed(high)} points, {_points(high - low)} wide; {verdict}."
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
    low, high = measurement["wer_interval"]
    cell = f"{_percent(measurement['wer'])} [{_percent(low)}, {_percent(high)}]"
    versus = measurement["versus"].get(BASELINE)
    return cell if versus is None else f"{cell} ({_signed(versus['difference'])})"


def _caption(results: Results) -> str:
    settings = results["settings"]
    delta = " and the difference to fp in points" if BASELINE in results["arms"] and len(results["arms"]) > 1 else ""
    return (
        f"WER with its 95 % interval{delta}. Size: all files of the folder, share of fp. Speed: seconds of audio a "
        f"second of wall time, {_threads(settings)} on {results['environment']['cpu']}, {_batch(settings)}."
    )


def _error_table(results: Results) -> tuple[list[str], list[list[str]]]:
    header = ["corpus", "arm", "substitutions", "deletions", "insertions", "words", "CER %"]
    header += ["looping", "cut off", "speed"]
    rows = []
    for corpus, measurements in measurements_by_corpus(results).items():
        for arm, m in measurements.items():
            counts = [m[n] for n in ("substitutions", "deletions", "insertions", "reference_words")]
            figures = [*counts, _percent(m["cer"]), m["looping"], m["hit_length_limit"], _speed(m)]
            rows.append([corpus, arm, *map(str, figures)])
    return header, rows


def _difference_table(results: Results) -> tuple[list[str], list[list[str]]]:
    header = ["corpus", "arm", "minus", "points", "95 % interval", "relative %", "95 % interval", "p", "beyond"]
    rows = []
    for corpus, measurements in measurements_by_corpus(results).items():
        for arm, measurement in measurements.items():
            for other, v in measurement["versus"].items():
                relative = "n/a" if v["relative"] is None else _signed(v["relative"])
                figures = [_signed(v["difference"]), _range(v["interval"]), relative, _range(v["relative_interval"])]
                p_value = f"{v['p_value']:.3f}" if v["p_value"] >= 0.001 else "< 0.001"
                rows.append([corpus, arm, other, *figures, p_value, "yes" if v["beyond_interval"] else "no"])
    return header, rows


def _corpus_table(results: Results) -> tuple[list[str], list[list[str]]]:
    header = ["corpus", "language", "utterances", "words", "minutes", "speakers", "longer than the window"]
    header.append("empty references")
    rows = [
        [name, *(str(v) for v in (", ".join(c["languages"]), c["utterances"], c["words"], f"{c['seconds'] / 60:.1f}", c["speakers"] or "unknown",
                                  c["long_form"], c["empty_references"]))]
        for name, c in results["corpora"].items()
    ]  # fmt: skip
    return header, rows


def _file_table(results: Results) -> tuple[list[str], list[list[str]]]:
    header = ["arm", "file", "bytes", "sha256"]
    rows = [
        [arm, f"`{path}`", f"{entry['bytes']:,}", f"`{entry['sha256']}`"]
        for arm, described in results["arms"].items()
        for path, entry in described["files"].items()
    ]
    return header, rows


def measurements_by_corpus(results: Results) -> dict[str, dict[str, Any]]:
    """Corpus → arm → MEASUREMENT, with the pooled corpora last where there are several."""
    measurements = results["measurements"]
    table = {corpus: {arm: measurements[arm][corpus] for arm in measurements} for corpus in results["corpora"]}
    if len(table) > 1:
        table[POOLED] = dict(results["pooled"])
    return table


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, text_columns: int) -> str:
    rules = ["---" if i < text_columns else "---:" for i in range(len(header))]
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, rules, *rows])


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}"


def _points(fraction: float) -> str:
    return f"{100 * fraction:.2f}"


def _signed(fraction: float) -> str:
    return f"{100 * fraction:+.2f}"


def _range(interval: Sequence[float] | None) -> str:
    return "n/a" if interval is None else f"{_signed(interval[0])} to {_signed(interval[1])}"


def _size(described: Results) -> str:
    share = described["bytes_ratio"]
    return f"{described['bytes'] / 1e6:.1f} MB" + ("" if share is None else f" ({100 * share:.1f} %)")


def _speed(measurement: Results) -> str:
    return f"{measurement['rtfx']:.1f}x"


def _threads(settings: Results) -> str:
    count = settings["num_threads"]
    return "a thread for each physical core" if count is None else "1 thread" if count == 1 else f"{count} threads"


def _search(settings: Results) -> str:
    count = settings["num_beams"]
    search = "greedy" if count == 1 else f"{count} beams"
    # Results from before there was a guard do not name it.
    return f"{search}, loops ended by a guard" if settings.get("loop_guard") else search


def _batch(settings: Results) -> str:
    count = settings["batch_size"]
    return "one utterance at a time" if count == 1 else f"{count} utterances at a time"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
