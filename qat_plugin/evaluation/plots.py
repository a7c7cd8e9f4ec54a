"""The figures of results.json as images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qat_plugin.evaluation.report import measurements_by_corpus

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette: told apart with every kind of colour vision, and by the shape of the marker in print.
_COLOURS = {
    "fp": "#000000", "fp-auto": "#009E73", "fp-ft": "#56B4E9", "ptq-rtn": "#E69F00", "ptq-kquant": "#F0E442", "ptq-hqq": "#CC79A7",
    "ptq-mse": "#D55E00", "ptq-gptq": "#882255", "ptq-ft": "#999999", "qat": "#0072B2",
}  # fmt: skip
_MARKERS = {
    "fp": "s", "fp-auto": "p", "fp-ft": "D", "ptq-rtn": "^", "ptq-kquant": "<", "ptq-hqq": ">", "ptq-mse": "v", "ptq-gptq": "P",
    "ptq-ft": "X", "qat": "o",
}  # fmt: skip
_OTHER_COLOUR, _OTHER_MARKER = "#AA4499", "*"


def draw_plots(results: Mapping[str, Any], out_dir: Path) -> list[Path]:
    """Write wer_by_corpus.png and wer_by_size.png to `out_dir`; returns their paths."""
    paths = []
    for name, figure in (("wer_by_corpus", _wer_by_corpus(results)), ("wer_by_size", _wer_by_size(results))):
        path = out_dir / f"{name}.png"
        # Without the library's version: the same results give the same bytes.
        figure.savefig(path, dpi=150, metadata={"Software": None})
        paths.append(path)
    return paths


def _wer_by_corpus(results: Mapping[str, Any]) -> Figure:
    """Corpora side by side, in each the arms with their 95 % interval."""
    arms, groups = list(results["arms"]), measurements_by_corpus(results)
    figure, axes = _figure(width=max(6.4, 0.8 + 0.5 * (len(arms) + 1) * len(groups)))
    step = 0.75 / len(arms)
    handles = {}
    for i, arm in enumerate(arms):
        for j, measurements in enumerate(groups.values()):
            x = j + (i - (len(arms) - 1) / 2) * step
            handles[arm], top = _draw(axes, arm, x, measurements[arm])
            wer = f"{100 * measurements[arm]['wer']:.1f}"
            axes.annotate(wer, (x, top), xytext=(0, 3), textcoords="offset points", ha="center", fontsize=9)
    first = arms[0]
    names = [f"{corpus}\n{group[first]['reference_words']:,} words" for corpus, group in groups.items()]
    axes.set_xticks(range(len(groups)), names)
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.5, len(groups) - 0.5)
    for boundary in range(1, len(groups)):
        axes.axvline(boundary - 0.5, color="0.85", linewidth=1)
    axes.set_ylabel("WER (%), 95 % interval")
    axes.set_title("Word error rate on each corpus (lower is better)")
    labels = [f"{arm} ({results['arms'][arm]['format']})" for arm in arms]
    figure.legend(list(handles.values()), labels, loc="outside lower center", ncols=len(arms), frameon=False)
    return figure


def _wer_by_size(results: Mapping[str, Any]) -> Figure:
    """The WER of each arm, all corpora together, against the size of its folder."""
    figure, axes = _figure(width=6.4)
    sizes = {arm: described["bytes"] / 1e6 for arm, described in results["arms"].items()}
    largest = max(sizes.values())
    handles, labels = [], []
    for arm, size in sizes.items():
        # Arms that weigh the same would hide each other, so they stand around their size; the legend tells it exactly.
        alike = [other for other in sizes if abs(sizes[other] - size) < 0.01 * largest]
        x = size + 0.03 * largest * (alike.index(arm) - (len(alike) - 1) / 2)
        handles.append(_draw(axes, arm, x, results["pooled"][arm])[0])
        wer = 100 * results["pooled"][arm]["wer"]
        labels.append(f"{arm} ({results['arms'][arm]['format']}): {wer:.1f} % at {size:.1f} MB")
    axes.set_xlim(0, 1.08 * largest)
    axes.set_xlabel("size of all files (MB); arms of one size stand side by side")
    axes.set_ylabel("WER (%), 95 % interval")
    corpora = list(results["corpora"])
    where = corpora[0] if len(corpora) == 1 else f"all {len(corpora)} corpora"
    axes.set_title(f"Word error rate on {where} against size (lower left is better)", fontsize=11)
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    return figure


def _figure(width: float) -> tuple[Figure, Axes]:
    # No pyplot: it keeps figures alive and may ask for a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_ylim(0, 1)
    return figure, axes


def _draw(axes: Axes, arm: str, x: float, measurement: Mapping[str, Any]) -> tuple[Any, float]:
    """Mark a WER and its interval, with room above. Returns the marker and, in percent, the upper bound."""
    wer, low, high = (100 * value for value in (measurement["wer"], *measurement["wer_interval"]))
    colour = _COLOURS.get(arm, _OTHER_COLOUR)
    bar = axes.errorbar(
        x, wer,
        # Of few resamples, a quantile may lie on the wrong side of the value itself.
        yerr=[[max(wer - low, 0.0)], [max(high - wer, 0.0)]],
        fmt=_MARKERS.get(arm, _OTHER_MARKER), color=colour, markersize=8, capsize=5, elinewidth=2, capthick=2,
    )  # fmt: skip
    top = max(wer, high)
    axes.set_ylim(0, max(axes.get_ylim()[1], 1.12 * top))
    return bar.lines[0], top
