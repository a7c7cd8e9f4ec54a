"""The figures of results.json, and the training behind them, as images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qat_plugin.arms import FLOAT
from qat_plugin.evaluation.formatting import measurements_by_corpus, normalized

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette: told apart with every kind of colour vision, and by the shape of the marker in print.
# The float arm has the colour of the text.
_COLOURS = {
    "fp-auto": "#009E73", "fp-ft": "#56B4E9", "ptq-rtn": "#E69F00", "ptq-kquant": "#F0E442", "ptq-hqq": "#CC79A7",
    "ptq-mse": "#D55E00", "ptq-gptq": "#B5487F", "ptq-ft": "#999999", "qat": "#0072B2",
    "ptq-dynamic": "#44AA99", "ptq-dynamic-7bit": "#2E8B57", "ptq-static": "#DDCC77", "ptq-static-7bit": "#7C6FD0",
}  # fmt: skip
_MARKERS = {
    "fp": "s", "fp-auto": "p", "fp-ft": "D", "ptq-rtn": "^", "ptq-kquant": "<", "ptq-hqq": ">", "ptq-mse": "v", "ptq-gptq": "P",
    "ptq-ft": "X", "qat": "o", "ptq-dynamic": "h", "ptq-dynamic-7bit": "H", "ptq-static": "d", "ptq-static-7bit": "8",
}  # fmt: skip
_OTHER_COLOUR, _OTHER_MARKER = "#AA4499", "*"
_ERROR_KINDS = {"substitutions": "#56B4E9", "deletions": "#0072B2", "insertions": "#E69F00"}
# Ink, paper, lines and notes of a page in the light and in the dark; the papers are those of the page's template.
_THEMES = {
    "": ("#000000", "#ffffff", "#e0e0e0", "#595959"),
    "-dark": ("#e6e6e6", "#181a1b", "#3a3e40", "#a8a8a8"),
}
_INKED = ("text.color", "axes.labelcolor", "axes.edgecolor", "axes.titlecolor", "xtick.color", "ytick.color")
_MAX_WIDTH = 11.0  # inches: wider ones are shrunk by the page until nobody can read them


def draw_plots(results: Mapping[str, Any], out_dir: Path, log_history: Sequence[Mapping[str, Any]] = ()) -> list[Path]:
    """Write the plots as PNG to `out_dir`, NAME.png on white and NAME-dark.png for a dark page; returns the former's paths.

    They are wer_by_corpus, wer_by_size, wer_by_speed, errors; degradation, where the float arm and others were measured;
    and, from `log_history`, a trainer's log, training.
    """
    import matplotlib

    losses = [entry for entry in log_history if "loss" in entry]
    plots: dict[str, Callable[[], Figure]] = {"wer_by_corpus": lambda: _wer_by_corpus(results)}
    if FLOAT in results["arms"] and len(results["arms"]) > 1:
        plots["degradation"] = lambda: _degradation(results)
    plots |= {
        "wer_by_size": lambda: _wer_by_size(results),
        "wer_by_speed": lambda: _wer_by_speed(results),
        "errors": lambda: _errors(results),
    }
    if losses:
        plots["training"] = lambda: _training(losses, results["recipe"])
    for suffix, (ink, paper, line, note) in _THEMES.items():
        style: Any = dict.fromkeys(_INKED, ink)
        style |= {"figure.facecolor": paper, "axes.facecolor": paper, "grid.color": line, "lines.color": note}
        with matplotlib.rc_context(style):
            for name, draw in plots.items():
                # Without the library's version: the same results give the same bytes.
                draw().savefig(out_dir / f"{name}{suffix}.png", dpi=150, metadata={"Software": None})
    return [out_dir / f"{name}.png" for name in plots]


def _ink() -> Any:
    """The colour of text in the theme that is drawn in."""
    import matplotlib

    return matplotlib.rcParams["text.color"]


def _note() -> Any:
    """The colour of what is there in passing."""
    import matplotlib

    return matplotlib.rcParams["lines.color"]


def _wer_by_corpus(results: Mapping[str, Any]) -> Figure:
    """A panel for each corpus, in it the arms with their 95 % interval."""
    arms, groups = list(results["arms"]), measurements_by_corpus(results)
    figure, panels = _panels(len(groups), len(arms))
    handles: list[Any] = []
    for axes, (corpus, measurements) in zip(panels, groups.items(), strict=True):
        drawn = [_draw_wer(axes, arm, x, measurements[arm]) for x, arm in enumerate(arms)]
        handles = [handle for handle, _ in drawn]
        for x, (arm, (_, top)) in enumerate(zip(arms, drawn, strict=True)):
            wer = f"{100 * measurements[arm]['wer']:.1f}"
            axes.annotate(wer, (x, top), xytext=(0, 6), textcoords="offset points", ha="center", fontsize=9)
        axes.set_xticks([])
        axes.set_title(f"{corpus}, {measurements[arms[0]]['reference_words']:,} words", fontsize=10)
        axes.set_ylabel("WER (%), 95 % interval")
    figure.suptitle(f"Word error rate on each corpus (lower is better)\n{normalized(results)}", fontsize=11)
    labels = [f"{arm} ({results['arms'][arm]['format']})" for arm in arms]
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(arms), 4), frameon=False)
    return figure


def _degradation(results: Mapping[str, Any]) -> Figure:
    """A panel for each corpus, in it what each arm errs more than fp, with the paired interval of the difference."""
    arms, groups = [arm for arm in results["arms"] if arm != FLOAT], measurements_by_corpus(results)
    figure, panels = _panels(len(groups), len(arms))
    handles: list[Any] = []
    for axes, (corpus, measurements) in zip(panels, groups.items(), strict=True):
        axes.axhline(0, color=_ink(), linewidth=1)
        bounds, handles = [0.0], []
        for x, arm in enumerate(arms):
            versus = measurements[arm]["versus"][FLOAT]
            handle, low, high = _draw(axes, arm, x, versus["difference"], versus["interval"])
            handles.append(handle)
            bounds += [low, high]
            axes.annotate(
                f"{100 * versus['difference']:+.2f}", (x, high), xytext=(0, 6), textcoords="offset points", ha="center", fontsize=9
            )  # fmt: skip
        room = 0.15 * max(max(bounds) - min(bounds), 0.5)
        axes.set_ylim(min(bounds) - room, max(bounds) + room)
        axes.set_xticks([])
        axes.set_title(corpus, fontsize=10)
        axes.set_ylabel("points of WER, paired 95 % interval")
    figure.suptitle(f"Word error rate minus that of fp (below 0 is better)\n{normalized(results)}", fontsize=11)
    labels = [f"{arm} ({results['arms'][arm]['format']})" for arm in arms]
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(arms), 4), frameon=False)
    return figure


def _wer_by_size(results: Mapping[str, Any]) -> Figure:
    """The WER of each arm, all corpora together, against the size of its folder."""
    sizes = {arm: described["bytes"] / 1e6 for arm, described in results["arms"].items()}
    return _wer_against(results, sizes, "size of all files (MB)", "at {:.1f} MB", "size (lower left is better)")


def _wer_by_speed(results: Mapping[str, Any]) -> Figure:
    """The same against its speed."""
    speeds = {arm: measurement["rtfx"] for arm, measurement in results["pooled"].items()}
    label = "seconds of audio a second (RTFx)"
    return _wer_against(results, speeds, label, "at {:.1f}x", "speed (lower right is better)")


def _wer_against(
    results: Mapping[str, Any], values: Mapping[str, float], label: str, said: str, against: str
) -> Figure:
    figure = _figure(width=6.4)
    axes = _axes(figure)
    largest = max(values.values())
    places = _side_by_side(values, 0.03 * largest)
    handles, labels = [], []
    for arm, value in values.items():
        handles.append(_draw_wer(axes, arm, places[arm], results["pooled"][arm])[0])
        wer = 100 * results["pooled"][arm]["wer"]
        labels.append(f"{arm} ({results['arms'][arm]['format']}): {wer:.1f} % {said.format(value)}")
    axes.set_xlim(0, max(1.08 * largest, max(places.values()) + 0.04 * largest))
    axes.set_xlabel(label if places == values else f"{label}; markers that would hide each other stand apart")
    axes.set_ylabel("WER (%), 95 % interval")
    corpora = list(results["corpora"])
    where = corpora[0] if len(corpora) == 1 else f"all {len(corpora)} corpora"
    axes.set_title(f"Word error rate on {where} against {against}\n{normalized(results)}", fontsize=11)
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    return figure


def _side_by_side(values: Mapping[str, float], distance: float) -> dict[str, float]:
    """Each value, or a place beside it where markers closer than `distance` would hide each other."""
    places: dict[str, float] = {}
    cluster: list[str] = []
    ranked = sorted(values, key=lambda arm: values[arm])
    for arm, following in zip(ranked, [*ranked[1:], None], strict=True):
        cluster.append(arm)
        if following is None or values[following] - values[arm] >= distance:
            middle = sum(values[name] for name in cluster) / len(cluster)
            for i, name in enumerate(cluster):
                places[name] = middle + distance * (i - (len(cluster) - 1) / 2) if len(cluster) > 1 else values[name]
            cluster = []
    return {arm: places[arm] for arm in values}


def _errors(results: Mapping[str, Any]) -> Figure:
    """A panel for each corpus, in it the arms' substitutions, deletions and insertions on top of each other."""
    arms, groups = list(results["arms"]), measurements_by_corpus(results)
    figure, panels = _panels(len(groups), len(arms))
    handles: list[Any] = []
    for axes, (corpus, measurements) in zip(panels, groups.items(), strict=True):
        below, handles = [0.0] * len(arms), []
        for kind, colour in _ERROR_KINDS.items():
            heights = [100 * measurements[arm][kind] / measurements[arm]["reference_words"] for arm in arms]
            handles.append(axes.bar(range(len(arms)), heights, 0.7, bottom=below, color=colour))
            below = [low + height for low, height in zip(below, heights, strict=True)]
        axes.set_ylim(0, max(1.0, 1.08 * max(below)))
        axes.set_xticks(range(len(arms)), arms, rotation=45, ha="right", rotation_mode="anchor", fontsize=9)
        axes.tick_params(axis="x", length=0)
        axes.set_title(corpus, fontsize=10)
        axes.set_ylabel("errors for 100 words")
    figure.suptitle(f"What kind of errors they are (lower is better)\n{normalized(results)}", fontsize=11)
    figure.legend(handles, list(_ERROR_KINDS), loc="outside lower center", ncols=3, frameon=False)
    return figure


def _training(losses: Sequence[Mapping[str, Any]], recipe: Mapping[str, Any]) -> Figure:
    """The loss and its parts over the steps, with what the schedule did when."""
    figure = _figure(width=8.0)
    axes = _axes(figure)
    steps = [entry["step"] for entry in losses]
    axes.plot(steps, [entry["loss"] for entry in losses], color=_COLOURS["qat"], linewidth=2, label="loss")
    parts = sorted({name for entry in losses for name in entry if name.startswith("loss_")})
    for name, colour in zip(parts, ("#E69F00", "#009E73", "#CC79A7", "#56B4E9"), strict=False):
        found = [(entry["step"], entry[name]) for entry in losses if name in entry]
        axes.plot(*zip(*found, strict=True), color=colour, linewidth=1.2, label=name.removeprefix("loss_"))
    # With room above the curves for the names of the events.
    axes.set_ylim(0, 1.4 * max(value for entry in losses for name, value in entry.items() if name.startswith("loss")))
    axes.set_xlim(0, 1.02 * steps[-1])
    for step, event in _events(recipe, steps[-1]):
        axes.axvline(step, color=_note(), linewidth=1, linestyle="--")
        axes.annotate(
            event, (step, 1), xycoords=("data", "axes fraction"), xytext=(3, -3), textcoords="offset points",
            rotation=90, ha="left", va="top", fontsize=8, color=_note(),
        )  # fmt: skip
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("training loss")
    axes.set_title("Training of qat")
    figure.legend(loc="outside lower center", ncols=6, frameon=False)
    return figure


def _events(recipe: Mapping[str, Any], last_step: int) -> list[tuple[int, str]]:
    """Step and name of what the recipe's schedule changes within the training."""
    events = [
        (recipe.get("warmup_steps"), "warm-up ends"),
        (recipe.get("fake_quant_start_step"), "fake quantization starts"),
        (recipe.get("freeze_scales_step"), "scales stand still"),
    ]
    # A warm-up below 1 is a share of all steps.
    known = [
        (round(step * last_step) if 0 < step < 1 else int(step), name) for step, name in events if step is not None
    ]
    # Nothing warms up in no steps; all else may be so from the start.
    return [(step, name) for step, name in known if 0 <= step <= last_step and (step, name) != (0, "warm-up ends")]


def _figure(width: float, height: float = 4.6) -> Figure:
    # No pyplot: it keeps figures alive and may ask for a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _axes(figure: Figure, rows: int = 1, columns: int = 1, place: int = 1) -> Axes:
    axes: Axes = figure.add_subplot(rows, columns, place)
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_ylim(0, 1)
    return axes


def _panels(count: int, arms: int) -> tuple[Figure, list[Axes]]:
    """As many panels, with room for the arms in each, in rows that a page can show."""
    width = max(3.2, 0.8 + 0.5 * (arms + 1))
    columns = min(count, max(1, int(_MAX_WIDTH // width)))
    rows = -(-count // columns)
    figure = _figure(max(6.4, columns * width), 1.4 + 3.2 * rows)
    panels = [_axes(figure, rows, columns, place + 1) for place in range(count)]
    for axes in panels:
        axes.set_xlim(-0.6, arms - 0.4)
    return figure, panels


def _draw_wer(axes: Axes, arm: str, x: float, measurement: Mapping[str, Any]) -> tuple[Any, float]:
    """Mark a WER and its interval, with room above. Returns the marker and, in percent, the upper bound."""
    marker, _, top = _draw(axes, arm, x, measurement["wer"], measurement["wer_interval"])
    axes.set_ylim(0, max(axes.get_ylim()[1], 1.12 * top))
    return marker, top


def _draw(
    axes: Axes, arm: str, x: float, fraction: float, interval: Sequence[float] | None
) -> tuple[Any, float, float]:
    """Mark a value and its interval, where it has one. Returns the marker and, times 100, the bounds of what is drawn."""
    value = 100 * fraction
    low, high = (100 * bound for bound in interval or (fraction, fraction))
    bar = axes.errorbar(
        x, value,
        # Of few resamples, a quantile may lie on the wrong side of the value itself.
        yerr=None if interval is None else [[max(value - low, 0.0)], [max(high - value, 0.0)]],
        fmt=_MARKERS.get(arm, _OTHER_MARKER), color=_ink() if arm == FLOAT else _COLOURS.get(arm, _OTHER_COLOUR),
        markersize=8, capsize=5, elinewidth=2, capthick=2,
    )  # fmt: skip
    return bar.lines[0], min(value, low), max(value, high)
