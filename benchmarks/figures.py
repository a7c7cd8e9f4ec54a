"""What all benchmarks write: figures beside the bars that they should meet, and what made them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qat_plugin.errors import QATError
from qat_plugin.evaluation.environment import describe_environment, git_commit

RESULTS = Path(__file__).parent / "results"


def figure(name: str, value: float, unit: str, bar: float, *, at_least: bool = False, **more: Any) -> dict[str, Any]:
    """One line of a promise: what was measured, what it should be, and whether it is; `more` is kept beside it."""
    meets = bool(value >= bar if at_least else value <= bar)
    return {
        "name": name,
        "value": value,
        "unit": unit,
        "bar": f"{'>=' if at_least else '<='} {bar}",
        "meets": meets,
        **more,
    }


def folder_bytes(folder: Path) -> int:
    """Of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def onnx_bytes(folder: Path) -> int:
    """Of the graphs and their weights, without what lies beside them for every format alike, as the tokenizer."""
    return sum(path.stat().st_size for path in folder.glob("*.onnx*"))


def has_vnni() -> bool:
    """Whether this CPU multiplies bytes in one instruction; results of those that do not are `NAME-without-vnni`."""
    return bool({"avx512_vnni", "avx_vnni"} & {*describe_environment()["cpu_flags"]})


def write_results(name: str, figures: list[dict[str, Any]], private: str = "", **more: Any) -> Path:
    """Write results/NAME.json with the machine, the commit and the command, print the figures, and return the path.

    `private` is a path of this machine that is nobody's business, replaced by its last part.
    """
    document = {
        "machine": describe_environment(),
        "commit": git_commit(),
        "command": " ".join(["python", *sys.argv]),
        "figures": figures,
        **more,
    }
    text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
    if Path(private).is_absolute():
        text = text.replace(private, Path(private).name)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(text, encoding="utf8")
    for entry in figures:
        verdict = "met   " if entry["meets"] else "MISSED"
        print(f"{verdict} {entry['name']}: {entry['value']:.6g} {entry['unit']} ({entry['bar']})")
    print(f"written: {path}")
    return path


def run(main: Callable[[], None]) -> None:
    """Run `main`; of an error that its user can mend, only what it tells is shown."""
    try:
        main()
    except QATError as error:
        sys.exit(f"error: {error}")
