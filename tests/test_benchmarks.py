"""The figures of committed results are those that the benchmark makes of them, and what README calls GPTQ is the best rival."""

import json
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
QUALITY = sorted((BENCHMARKS / "results").glob("quality-*.json"))


@pytest.mark.parametrize("path", QUALITY, ids=lambda path: path.stem)
def test_figures_are_made_of_the_measurements_beside_them(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from quality import summarize

    results = json.loads(path.read_text(encoding="utf8"))
    found: list[dict[str, Any]] = json.loads(json.dumps(summarize(results, results["recipe"]["target"])))
    assert found == results["figures"]


@pytest.mark.parametrize("path", [path for path in QUALITY if "int4" in path.name], ids=lambda path: path.stem)
def test_the_share_that_is_won_back_is_that_of_the_word_error_rates(path: Path) -> None:
    results = json.loads(path.read_text(encoding="utf8"))
    wer = {arm: pooled["wer"] for arm, pooled in results["pooled"].items()}
    # `ptq-ft` is no rival: it has been trained, too.
    best = min((arm for arm in wer if arm.startswith("ptq-") and arm != "ptq-ft"), key=wer.__getitem__)
    assert best == "ptq-gptq"
    values = {figure["name"]: figure["value"] for figure in results["figures"]}
    for baseline in {"fp", "fp-auto"} & {*wer}:
        share = values[f"pooled: share of the gap ({best} - {baseline}) recovered, words"]
        won, gap = wer[best] - wer["qat"], wer[best] - wer[baseline]
        assert share == pytest.approx(won / gap, abs=1e-3 / gap)
