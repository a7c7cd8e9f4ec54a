"""Does a file say the same on another kind of CPU? Counts of the same arms, measured on two machines.

    python benchmarks/cpus.py --here bench-quality-int4/evaluation/results.json --there benchmarks/results/quality-int4.json

Integer products are exact on both (see `qat_plugin/fake_quant/schemes.py`), float sums round otherwise, and an 8-bit activation
now and then with them. So the float arm shows what the machines do, a quantized one what the format makes of it.
Writes benchmarks/results/cpus.json. Only arms that need no training have the same weights on both.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from figures import figure, run, write_results

from qat_plugin.errors import EvaluationError
from qat_plugin.evaluation.results import read_results

KINDS = ("substitutions", "deletions", "insertions", "tokens")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--here", type=Path, required=True, help="results.json of this machine")
    parser.add_argument("--there", type=Path, required=True, help="results of the other one")
    options = parser.parse_args()
    here, there = read_results(options.here), read_results(options.there)
    figures, counts = [], {}
    for arm in [arm for arm in here["arms"] if arm in there["arms"] and arm != "qat" and not arm.endswith("-ft")]:
        counts[arm] = {
            name: _counts(results, arm, here["corpora"]) for name, results in (("here", here), ("there", there))
        }
        errors, words = (
            {name: sum(sum(row[kind] for kind in kinds) for row in rows.values()) for name, rows in counts[arm].items()}
            for kinds in (KINDS[:3], ("words",))
        )
        wer = {name: 100 * errors[name] / words[name] for name in errors}
        figures.append(
            figure(f"{arm}: difference of WER", abs(wer["here"] - wer["there"]), "points", 0.1, wer=wer, errors=errors)
        )
    write_results("cpus", figures, counts=counts, other_machine=there["environment"])


def _counts(results: dict[str, Any], arm: str, corpora: dict[str, Any]) -> dict[str, dict[str, int]]:
    measured = results["measurements"][arm]
    for corpus, described in corpora.items():
        if results["corpora"][corpus]["sha256"] != described["sha256"]:
            raise EvaluationError(f"{corpus}: the two machines did not measure the same rows")
    return {
        corpus: {**{kind: measured[corpus][kind] for kind in KINDS}, "words": measured[corpus]["reference_words"]}
        for corpus in corpora
    }


if __name__ == "__main__":
    run(main)
