"""The embedded default: int4 QAT of Whisper base on French speech, from nothing to a model card."""

from __future__ import annotations

import time
from pathlib import Path

from qat_plugin.demo.fetch import fetch_all

DATA_DIR = Path("demo-data")


# A step in float32 takes some 8 s on two cores with AVX2, one of the full demo 15 s; the demo is to take minutes, the full
# one no more than an hour.
_STEPS_WITHOUT_BF16 = {"demo": 12, "demo-full": 100}


def fast_precision() -> list[str]:
    """Overrides for a CPU that multiplies in bf16: training takes a third of the time there, and many times as long elsewhere."""
    import torch

    from qat_plugin.evaluation.environment import describe_environment
    from qat_plugin.workspace import say

    if torch.cuda.is_available() or not {"avx512_bf16", "amx_bf16"} & {*describe_environment()["cpu_flags"]}:
        return []
    say("train", "this CPU multiplies in bf16, so the training runs under bf16 autocast (weights stay float32)")
    return ["--bf16", "true", "--use_cpu", "true"]


def as_long_as_time_allows(name: str) -> list[str]:
    """Overrides that keep the recipe `name` within its time on this machine: bf16, or fewer steps where there is none."""
    import torch

    from qat_plugin.recipe_loading import load_recipe
    from qat_plugin.workspace import say

    fast = fast_precision()
    if fast or torch.cuda.is_available():
        return fast
    steps, whole = _STEPS_WITHOUT_BF16[name], load_recipe(name, []).training.max_steps
    say(
        "train",
        f"this CPU does not multiply in bf16, so that a step takes several times as long: {steps} steps instead of {whole}; "
        f"`qat-plugin run {name} --output_dir FOLDER` trains all of them",
    )
    return ["--max_steps", str(steps), "--warmup_steps", str(steps // 8), "--save_steps", str(steps // 4)]


def run_demo(*, full: bool) -> int:
    """Fetch model and speech, then run the recipe `demo` or `demo-full`; returns the exit status 0.

    Raises what the steps raise; the same command then goes on where it stopped.
    """
    from qat_plugin import steps
    from qat_plugin.recipe_loading import load_recipe

    start = time.perf_counter()
    fetch_all(DATA_DIR, full=full)
    fetched = time.perf_counter() - start
    name = "demo-full" if full else "demo"
    recipe = load_recipe(name, as_long_as_time_allows(name))
    workspace = steps.open_workspace(recipe)
    steps.run_all(recipe, workspace)
    costs = {"model and speech": fetched, **workspace.seconds()}
    print("\nWhat each step cost, all its runs added up:")
    for name, seconds in costs.items():
        print(f"  {name:<16} {seconds:7.1f} s")
    print("\nWhere everything is:")
    for what, path in {
        "quantized model": workspace.onnx("qat"),
        "trained checkpoint": workspace.checkpoint("qat"),
        "report": workspace.evaluation / "report.html",
        "all figures": workspace.results_file,
        "model card": workspace.card / "README.md",
        "recipe of this run": workspace.recipe_file,
    }.items():
        print(f"  {what:<19} {path}")
    return 0
