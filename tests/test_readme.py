"""What the README says must be true: its commands exist, its code compiles, its figures are those of a results file."""

import json
import re
import shlex
from pathlib import Path

import pytest

from qat_plugin.cli import main
from qat_plugin.evaluation.report import render_report
from qat_plugin.recipe_loading import load_recipe, shipped_recipes

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
COMMANDS = [line.split("#")[0].strip() for kind, text in BLOCKS if kind == "bash" for line in text.splitlines()]
MEASURED = ROOT / "model_cards" / "whisper-base-fr-int4-demo" / "results.json"


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make ")])
def test_make_targets_exist(command):
    target = command.split()[1]
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith(("qat-plugin", "accelerate"))])
def test_commands_parse(command):
    words = shlex.split(command)
    if words[0] == "accelerate":
        assert words[1:4] == ["launch", "-m", "qat_plugin.train"]
        words = ["qat-plugin", "train", *words[4:]]
    if words[1] == "transcribe":
        with pytest.raises(SystemExit) as stopped:
            main([*words[1:], "--help"])
        assert stopped.value.code == 0
        return
    fields = [word for word in words[3:] if word != "--dry_run"]
    assert words[1] in ("train", "export", "evaluate", "card", "push", "run")
    load_recipe(words[2], fields)


def test_every_shipped_recipe_is_named():
    assert all(f"`{name}`" in README for name in shipped_recipes())


@pytest.mark.parametrize("code", [text for kind, text in BLOCKS if kind == "python"])
def test_python_blocks_compile(code):
    compile(code, "README.md", "exec")


def test_the_table_is_that_of_the_committed_results():
    report = render_report(json.loads(MEASURED.read_text(encoding="utf8")))
    table = [line for line in report.split("##")[0].splitlines() if line.startswith("|")]
    assert len(table) > 3
    missing = [line for line in table if line not in README]
    assert not missing


def test_what_the_demo_lost_is_said():
    versus = json.loads(MEASURED.read_text(encoding="utf8"))["measurements"]["qat"]["asterisk_fr"]["versus"]["ptq-gptq"]
    assert versus["beyond_interval"] and f"{100 * versus['difference']:.2f} points worse than `ptq-gptq`" in README


def test_the_points_are_those_of_the_benchmark():
    results = json.loads((ROOT / "benchmarks" / "results" / "quality-int4.json").read_text(encoding="utf8"))
    pooled, text = results["pooled"], " ".join(README.split())
    costs = [100 * pooled[arm]["versus"]["fp"]["difference"] for arm in ("ptq-rtn", "ptq-gptq")]
    assert f"plain rounding costs {costs[0]:.1f} points and GPTQ in this format {costs[1]:.1f}" in text
    assert f"training, {results['recipe']['max_steps']} steps" in text and pooled["qat"]["looping"] == 1
