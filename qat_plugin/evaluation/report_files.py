"""The report's files, from results and transcripts; no model, and no library that runs one, is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qat_plugin.evaluation.page import render_page
from qat_plugin.evaluation.plots import draw_plots
from qat_plugin.evaluation.report import render_report


def write_report(
    results: Mapping[str, Any], evaluation_dir: Path, log_history: Sequence[Mapping[str, Any]] = ()
) -> None:
    """Write report.md, report.html and the plots to `evaluation_dir`, which holds CORPUS/ARM.jsonl.

    `log_history` is a trainer's log, empty without a training.

    Raises `EvaluationError` when transcripts are missing, unfinished or damaged.
    """
    plots = draw_plots(results, evaluation_dir, log_history)
    text = render_report(results, [path.name for path in plots])
    (evaluation_dir / "report.md").write_text(text, encoding="utf8")
    (evaluation_dir / "report.html").write_text(render_page(results, text, evaluation_dir), encoding="utf8")
