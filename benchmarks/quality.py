"""How much of what quantization costs does QAT win back? Every arm on studio prompts and on speech recorded at home.

    python benchmarks/quality.py --common_voice FOLDER --target int4

`FOLDER/LANGUAGE/manifest.jsonl` hold Common Voice clips; the rest is what `make demo-full` fetches. Spanish, Italian and the
French prompts are tested on. Portuguese and Dutch are left alone, so that training can be tuned on them. All other speech is
trained on, studio prompts in the tested languages included; no speaker is in both. Runs the recipe `whisper-base-TARGET` in
`bench-quality-TARGET/`, goes on where it stopped, and writes benchmarks/results/quality-TARGET.json, on CPUs without VNNI
quality-TARGET-without-vnni.json. What another machine has trained in that folder, as one with a GPU (here `--use_cpu true`
then), has `-trained-elsewhere` in its name. With `--unheard`, what is trained is tested on Portuguese and Dutch instead, and
`-unheard` is in the name.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from figures import figure, has_vnni, run, write_results

from qat_plugin import steps
from qat_plugin.demo.fetch import fetch_all
from qat_plugin.demo.run import DATA_DIR, fast_precision
from qat_plugin.errors import EvaluationError
from qat_plugin.evaluation.results import read_results
from qat_plugin.publishing.privacy import public_results
from qat_plugin.recipe import Recipe
from qat_plugin.recipe_loading import load_recipe

TESTED, CHOSEN_ON = ("es", "it"), ("pt", "nl")
PROMPTS, TRAINED_ON = "asterisk_fr", ("tuxpaint_fr", "asterisk_en", "asterisk_es", "asterisk_it", "asterisk_ru")
ARMS = {
    "int4": ("fp", "fp-auto", "fp-ft", "ptq-rtn", "ptq-kquant", "ptq-hqq", "ptq-mse", "ptq-gptq", "ptq-ft", "qat"),
    "int8": (
        *("fp", "fp-auto", "fp-ft", "ptq-dynamic", "ptq-dynamic-7bit", "ptq-static", "ptq-static-7bit"),
        *("ptq-rtn", "ptq-mse", "ptq-gptq", "ptq-ft", "qat"),
    ),
}
# On two cores that multiply in bf16, steps of four to nine seconds.
TRAINING = {
    "int4": ("--max_steps", "600", "--learning_rate", "5e-6"),
    "int8": ("--max_steps", "100", "--warmup_steps", "20"),
}
# Points of WER that may be lost: on each corpus at 4 bits, on all of them together at 8.
BARS = {"int4": 1.0, "int8": 0.1}
MAX_SHARE = {"int4": 0.155, "int8": 0.27}


def summarize(results: dict[str, Any], target: str) -> list[dict[str, Any]]:
    """The figures of the promise, from results.json."""
    pooled, corpora = results["pooled"], results["measurements"]
    rivals = [arm for arm in pooled if arm.startswith("ptq-") and arm != "ptq-ft"]
    best = min(rivals, key=lambda arm: pooled[arm]["wer"])
    figures = []

    for corpus, measured in corpora["qat"].items():
        versus = measured["versus"]["fp"]
        if versus["interval"] is None:
            raise EvaluationError(f"{corpus} has too few clips or speakers for an interval: test on more of them")
        if target == "int4":
            figures.append(figure(f"{corpus}: qat - fp", 100 * versus["difference"], "points", BARS[target], **versus))
        else:
            low = 100 * versus["interval"][0]
            figures.append(figure(f"{corpus}: qat - fp, lower end of the interval", low, "points", 0.0, **versus))
    if target == "int8":
        versus = pooled["qat"]["versus"]["fp"]
        figures.append(figure("pooled: qat - fp", 100 * versus["difference"], "points", BARS[target], **versus))
    else:
        figures += [*_against(pooled, best), *_won_back(pooled, best, "fp")]
    if "fp-auto" in pooled:
        # Folded silence wins words by itself: beside the float model that folds it, too, only quantization is left.
        versus = pooled["qat"]["versus"]["fp-auto"]
        figures.append(figure("pooled: qat - fp-auto", 100 * versus["difference"], "points", BARS[target], **versus))
        if target == "int4":
            figures += _won_back(pooled, best, "fp-auto")
    if "ptq-ft" in pooled:
        versus = pooled["qat"]["versus"]["ptq-ft"]
        figures.append(figure("pooled: qat - ptq-ft", 100 * versus["difference"], "points", 0.0, **versus))
    for arm in [name for name in ("fp-auto", "qat") if name in pooled]:
        more = pooled[arm]["looping"] - pooled["fp"]["looping"]
        figures.append(figure(f"pooled: looping clips of {arm} more than of fp", more, "clips", 0))
    figures.append(figure("size over fp", results["arms"]["qat"]["bytes_ratio"], "", MAX_SHARE[target]))
    for corpus, measured in corpora.get("fp-auto", {}).items():
        versus, full = measured["versus"]["fp"], corpora["fp"][corpus]
        figures.append(figure(f"{corpus}: fp-auto - fp", 100 * versus["difference"], "points", 0.3, **versus))
        more = measured["insertions"] - full["insertions"]
        figures.append(figure(f"{corpus}: insertions of fp-auto more than of fp", more, "words", 0))
    return figures


def _against(pooled: dict[str, Any], best: str) -> list[dict[str, Any]]:
    """The trained model beside the best arm without training."""
    against = pooled["qat"]["versus"][best]
    return [
        figure(f"pooled: qat - {best}", 100 * against["difference"], "points", 0.0, **against),
        figure(f"pooled: qat - {best}, p", against["p_value"], "", 0.05),
    ]


def _won_back(pooled: dict[str, Any], best: str, baseline: str) -> list[dict[str, Any]]:
    """How much of what the best arm without training loses to a float arm has been won back."""
    figures = []

    def rate(arm: str, *kinds: str) -> float:
        return sum(pooled[arm][kind] for kind in kinds) / pooled[arm]["reference_words"]

    for name, kinds in {
        "words": ("substitutions", "deletions", "insertions"),
        "substitutions and deletions": ("substitutions", "deletions"),
    }.items():
        gap = rate(best, *kinds) - rate(baseline, *kinds)
        if gap <= 0:
            continue  # Nothing was lost that could be won back.
        won = (rate(best, *kinds) - rate("qat", *kinds)) / gap
        name = f"pooled: share of the gap ({best} - {baseline}) recovered, {name}"
        figures.append(figure(name, won, "", 0.8, at_least=True, gap_points=100 * gap))
    return figures


def held_back_speech(common_voice: Path) -> tuple[list[Path], list[Path]]:
    """Manifests of the languages that are trained on, and of those that methods may be chosen on; the tested ones are in neither."""
    languages = sorted(path.parent.name for path in common_voice.glob("*/manifest.jsonl"))
    trained, chosen_on = ([name for name in languages if name not in (*TESTED, *CHOSEN_ON)], CHOSEN_ON)
    of_trained, of_chosen = (
        [common_voice / name / "manifest.jsonl" for name in names] for names in (trained, chosen_on)
    )
    return of_trained, of_chosen


def quality_recipe(
    common_voice: Path, target: str, arms: Sequence[str], overrides: Sequence[str], *, unheard: bool = False
) -> Recipe:
    """The recipe `whisper-base-TARGET` on this speech; `unheard`: tested on what methods are chosen on."""
    train, chosen_on = held_back_speech(common_voice)
    train += [DATA_DIR / "speech" / name / "manifest.jsonl" for name in TRAINED_ON]
    prompts = DATA_DIR / "speech" / PROMPTS / "manifest.jsonl"
    test = chosen_on if unheard else [*(common_voice / name / "manifest.jsonl" for name in TESTED), prompts]
    return load_recipe(
        f"whisper-base-{target}",
        [
            *("--model_name_or_path", str(DATA_DIR / "whisper-base"), "--base_model", "openai/whisper-base"),
            *("--train_corpora", "--train_data", *map(str, train)),
            *("--corpora", "--test_data", *map(str, test)),
            *("--arms", *arms),
            *("--join_to_seconds", "12", "--output_dir", f"bench-quality-{target}"),
            *TRAINING[target],
            *("--save_steps", "50"),
            *fast_precision(),
            *overrides,
        ],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--common_voice", type=Path, required=True, help="folder of LANGUAGE/manifest.jsonl")
    parser.add_argument("--target", choices=ARMS, default="int4")
    parser.add_argument("--arms", nargs="+", help="default: all of the target")
    parser.add_argument("--unheard", action="store_true", help=f"test on {', '.join(CHOSEN_ON)} instead")
    options, overrides = parser.parse_known_args()
    needed = {"fp", "qat", "ptq-gptq"}
    if not needed.issubset(options.arms or needed):
        parser.error(f"--arms needs {', '.join(sorted(needed))}, which the figures compare")
    fetch_all(DATA_DIR, full=True)
    arms = options.arms or ARMS[options.target]
    recipe = quality_recipe(options.common_voice, options.target, arms, overrides, unheard=options.unheard)
    workspace = steps.open_workspace(recipe)
    steps.run_all(recipe, workspace)
    results = read_results(workspace.results_file)
    figures = summarize(results, options.target)
    elsewhere = results["training"]["device"] != results["environment"]["cpu"]
    name = f"quality-{options.target}{'-unheard' if options.unheard else ''}{'-trained-elsewhere' if elsewhere else ''}"
    name += "" if has_vnni() else "-without-vnni"
    write_results(name, figures, private=str(options.common_voice), **public_results(results))


if __name__ == "__main__":
    run(main)
