"""How much of what quantization costs does QAT win back? Every arm on studio prompts and on speech recorded at home.

    python benchmarks/quality.py --common_voice FOLDER --target int4

`FOLDER/LANGUAGE/manifest.jsonl` hold Common Voice clips; the rest is what `make demo-full` fetches. Spanish, Italian and the
French prompts are tested on. Portuguese and Dutch are left alone, so that training can be tuned on them. All other speech is
trained on; no speaker is in both. Runs the recipe `whisper-base-TARGET` in `bench-quality-TARGET/`, goes on where it stopped,
and writes benchmarks/results/quality-TARGET.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from qat_plugin import steps
from qat_plugin.demo.fetch import fetch_all
from qat_plugin.demo.run import fast_precision
from qat_plugin.errors import QATError
from qat_plugin.evaluation.results import read_results
from qat_plugin.recipe_loading import load_recipe

TESTED, CHOSEN_ON = ("es", "it"), ("pt", "nl")
PROMPTS, TRAINED_ON = "asterisk_fr", ("tuxpaint_fr", "asterisk_en", "asterisk_ru")
ARMS = {
    "int4": ("fp", "fp-auto", "fp-ft", "ptq-rtn", "ptq-kquant", "ptq-hqq", "ptq-mse", "ptq-gptq", "ptq-ft", "qat"),
    "int8": ("fp", "fp-auto", "fp-ft", "ptq-rtn", "ptq-mse", "ptq-gptq", "ptq-ft", "qat"),
}
MAX_SHARE = {"int4": 0.155, "int8": 0.27}


def summarize(results: dict[str, Any], target: str) -> list[dict[str, Any]]:
    """The figures of the promise, from results.json."""
    pooled, corpora = results["pooled"], results["measurements"]
    rivals = [arm for arm in pooled if arm.startswith("ptq-") and arm != "ptq-ft"]
    best = min(rivals, key=lambda arm: pooled[arm]["wer"])
    figures: list[dict[str, Any]] = []

    def add(name: str, value: float, bar: float, *, at_least: bool = False, **more: Any) -> None:
        meets = value >= bar if at_least else value <= bar
        figures.append(
            {"name": name, "value": value, "bar": f"{'>=' if at_least else '<='} {bar}", "meets": meets, **more}
        )

    def rate(arm: str, *kinds: str) -> float:
        return sum(pooled[arm][kind] for kind in kinds) / pooled[arm]["reference_words"]

    for corpus, measured in corpora["qat"].items():
        versus = measured["versus"]["fp"]
        add(f"{corpus}: qat - fp, points", 100 * versus["difference"], 1.0 if target == "int4" else 0.1, **versus)
    against = pooled["qat"]["versus"][best]
    add(f"pooled: qat - {best}, p", against["p_value"], 0.05, **against)
    for name, kinds in {
        "words": ("substitutions", "deletions", "insertions"),
        "substitutions and deletions": ("substitutions", "deletions"),
    }.items():
        gap = rate(best, *kinds) - rate("fp", *kinds)
        won = (rate(best, *kinds) - rate("qat", *kinds)) / gap if gap > 0 else float("nan")
        add(f"pooled: share of the gap ({best} - fp) recovered, {name}", won, 0.8, at_least=True, gap_points=100 * gap)
    if "ptq-ft" in pooled:
        add("pooled: qat - ptq-ft, points", 100 * pooled["qat"]["versus"]["ptq-ft"]["difference"], 0.0)
    add("pooled: looping clips more than fp", pooled["qat"]["looping"] - pooled["fp"]["looping"], 0)
    add("size over fp", results["arms"]["qat"]["bytes_ratio"], MAX_SHARE[target])
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--common_voice", type=Path, required=True, help="folder of LANGUAGE/manifest.jsonl")
    parser.add_argument("--target", choices=ARMS, default="int4")
    parser.add_argument("--arms", nargs="+", help="default: all of the target")
    options, overrides = parser.parse_known_args()
    data = Path("demo-data")
    fetch_all(data, full=True)
    languages = sorted(path.parent.name for path in options.common_voice.glob("*/manifest.jsonl"))
    held_back = {*TESTED, *CHOSEN_ON}
    train = [options.common_voice / name / "manifest.jsonl" for name in languages if name not in held_back]
    train += [data / "speech" / name / "manifest.jsonl" for name in TRAINED_ON]
    test = [options.common_voice / name / "manifest.jsonl" for name in TESTED]
    test.append(data / "speech" / PROMPTS / "manifest.jsonl")
    recipe = load_recipe(
        f"whisper-base-{options.target}",
        [
            *("--model_name_or_path", str(data / "whisper-base"), "--base_model", "openai/whisper-base"),
            *("--train_corpora", "--train_data", *map(str, train)),
            *("--corpora", "--test_data", *map(str, test)),
            *("--arms", *(options.arms or ARMS[options.target])),
            *("--join_to_seconds", "12", "--output_dir", f"bench-quality-{options.target}"),
            *fast_precision(),
            *overrides,
        ],
    )
    workspace = steps.open_workspace(recipe)
    steps.run_all(recipe, workspace)
    results = read_results(workspace.results_file)
    figures = summarize(results, options.target)
    for entry in figures:
        print(f"{entry['name']:<70} {entry['value']:9.4f}  {entry['bar']:<8} {'met' if entry['meets'] else 'MISSED'}")
    target = Path(__file__).parent / "results" / f"quality-{options.target}.json"
    target.parent.mkdir(exist_ok=True)
    text = json.dumps({"figures": figures, **results}, indent=1) + "\n"
    # Where the clips lie on this machine is nobody's business.
    target.write_text(text.replace(str(options.common_voice), "common_voice"), encoding="utf8")
    print(f"written: {target}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except QATError as error:
        sys.exit(f"error: {error}")
