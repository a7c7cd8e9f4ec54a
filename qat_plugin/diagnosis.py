"""`qat-plugin diagnose RECIPE`: is there anything for training to win back, and which parts of the model lose it?

Runs the target without training, compares it with the float model on the recipe's test speech, then quantizes each part of
the model alone, and all but its weights. Minutes, where training takes hours. What it exports and transcribes is kept for the run that may follow.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from qat_plugin import steps
from qat_plugin.arms import ARMS, FLOAT, FLOAT_FOLDED
from qat_plugin.arms import PTQ_START as PTQ
from qat_plugin.recipe import Recipe
from qat_plugin.workspace import Workspace, say

# Parts whose weights would win more than this much of a nat for a megabyte are worth 8 bits, as long as these are few.
_WORTH_NATS_PER_MB, _MOST_MB_SHARE = 0.004, 0.05


def diagnose(recipe: Recipe, workspace: Workspace) -> None:
    """Write `diagnosis/diagnosis.json`, `.md` and `sensitivity.png`, and print the verdict."""
    from qat_plugin.evaluation.results import read_results
    from qat_plugin.training.run import measure_parts

    # Folded silence changes words, too: what is lost beside the float model that folds it is lost by quantization.
    baseline = FLOAT if recipe.model.encoder_context == "full" else FLOAT_FOLDED
    arms = list(dict.fromkeys([FLOAT, baseline, "ptq-rtn", PTQ]))
    # A finished evaluation stays whole: its other arms are measured already.
    measured = read_results(workspace.results_file)["arms"] if workspace.results_file.is_file() else ()
    shown = [arm for arm in ARMS if arm in arms or arm in measured]
    few = dataclasses.replace(recipe, evaluation=dataclasses.replace(recipe.evaluation, arms=shown))
    steps.export(few, workspace)
    steps.evaluate(few, workspace)
    results = read_results(workspace.results_file)
    say("diagnose", "each part of the model quantized alone, on training speech")
    parts = measure_parts(recipe, workspace.checkpoint(PTQ))
    whole, *parts = parts
    parts.sort(key=lambda part: -part.kl)
    described = [dataclasses.asdict(part) for part in parts]
    suggestion = suggest(described, results["arms"][PTQ]["bytes"] / 1e6)
    found: dict[str, Any] = {
        "target": recipe.quantization.target,
        "baseline": baseline,
        "pooled": {arm: results["pooled"][arm] for arm in arms},
        "kl_all": whole.kl,
        "parts": described,
        "suggestion": suggestion,
        # A list in a recipe replaces the one before, so what is pasted must hold both.
        "int8_modules": list(dict.fromkeys([*recipe.quantization.int8_modules, *suggestion])),
    }
    workspace.diagnosis.mkdir(exist_ok=True)
    text = render(found)
    (workspace.diagnosis / "diagnosis.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf8")
    (workspace.diagnosis / "diagnosis.md").write_text(text, encoding="utf8")
    _plot(found, workspace)
    print(text)
    say("diagnose", f"written: {workspace.diagnosis}")


def suggest(parts: list[dict[str, Any]], total_mb: float) -> list[str]:
    """Globs for `int8_modules`: the parts whose finer weights would win enough for the bytes, the best bargain first."""
    bargains = [part for part in parts if part["extra_megabytes"] > 0 and "layers" in part["part"]]
    bargains.sort(key=lambda part: -part["won"] / part["extra_megabytes"])
    chosen, spent = [], 0.0
    for part in bargains:
        spent += part["extra_megabytes"]
        if part["won"] / part["extra_megabytes"] < _WORTH_NATS_PER_MB or spent > _MOST_MB_SHARE * total_mb:
            break
        chosen.append(f"model.{part['part']}.*")
    return chosen


def verdict(measured: dict[str, Any], baseline: str) -> str:
    """What the interval of PTQ's loss, beside the float arm `baseline`, says about training."""
    from qat_plugin.evaluation.bootstrap import MIN_UNITS

    versus = measured["versus"][baseline]
    costs = f"without training the target costs {100 * versus['difference']:+.2f} points of WER beside {baseline}"
    if versus["interval"] is None:
        return f"This speech cannot tell: {costs}, on too few clips to say. Test on {MIN_UNITS} clips or more of every corpus."
    low, high = (100 * bound for bound in versus["interval"])
    said = f"{costs} (95 % interval {low:+.2f} to {high:+.2f})"
    if low > 0:
        return f"There is something to win back: {said}."
    if high < 0.5:
        return f"Nothing to win back: {said}. Ship {PTQ}, or train only to fine-tune."
    return f"This speech cannot tell: {said}. Test on more words, or on speech that the model finds harder."


def render(found: dict[str, Any]) -> str:
    """The diagnosis as Markdown."""
    lines = [f"# {found['target']} before training", "", verdict(found["pooled"][PTQ], found["baseline"]), ""]
    lines += [
        "| arm | WER % | substitutions | deletions | insertions | looping clips |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for arm, m in found["pooled"].items():
        lines.append(
            f"| {arm} | {100 * m['wer']:.1f} | {m['substitutions']} | {m['deletions']} | {m['insertions']} | {m['looping']} |"
        )
    lines += [
        "",
        f"All parts quantized: KL {found['kl_all']:.4f} nats a token. Each part alone, and what is won when its weights",
        "alone are float, about what 8 bits for them would win (of so few clips it can come out below zero):",
        "",
        "| part | KL | won | weights, M | bits | MB more with 8 bits |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for part in found["parts"]:
        lines.append(
            f"| {part['part']} | {part['kl']:.4f} | {part['won']:+.4f} | {part['weights'] / 1e6:.2f} | {part['bits']} "
            f"| {part['extra_megabytes']:.2f} |"
        )
    if found["suggestion"]:
        lines += ["", f'Worth 8 bits: `"int8_modules": {json.dumps(found["int8_modules"])}`']
    return "\n".join(lines) + "\n"


def _plot(found: dict[str, Any], workspace: Workspace) -> None:
    from matplotlib.figure import Figure

    parts = found["parts"][::-1]
    figure = Figure(figsize=(7, 1.4 + 0.4 * len(parts)), layout="constrained")
    axes = figure.subplots()
    rows, half = range(len(parts)), 0.4
    axes.barh(
        [row + half / 2 for row in rows], [part["kl"] for part in parts], half, color="#0072B2", label="quantized alone"
    )
    axes.barh(
        [row - half / 2 for row in rows], [part["won"] for part in parts], half, color="#E69F00",
        label="won when its weights are float, the rest quantized",
    )  # fmt: skip
    axes.set_yticks(rows, [part["part"] for part in parts])
    axes.set_xlabel("KL(float || quantized), nats a token")
    axes.legend(loc="lower right", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(workspace.diagnosis / "sensitivity.png", dpi=150, metadata={"Software": None})
