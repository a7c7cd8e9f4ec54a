"""Table, report and plots say what results.json says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import exported_folder, write_transcripts
from matplotlib.image import imread

from qat_plugin.evaluation.folder_files import list_files
from qat_plugin.evaluation.plots import draw_plots
from qat_plugin.evaluation.report import findings, render_report, render_table
from qat_plugin.evaluation.results import collect_results

REFERENCE = "un deux trois quatre cinq six sept huit neuf dix"


@pytest.fixture
def results(tmp_path: Path, tiny_whisper_dir: Path) -> dict[str, Any]:
    """Two corpora of 20 utterances; ptq loses a word in each, qat in one utterance."""
    folders = {arm: exported_folder(tmp_path, tiny_whisper_dir, arm, 10_000) for arm in ("fp", "ptq-rtn", "qat")}
    short = REFERENCE.removesuffix(" dix")
    heard = {"fp": [REFERENCE] * 20, "ptq-rtn": [short] * 20, "qat": [short] + [REFERENCE] * 19}
    for corpus in ("studio", "street"):
        for arm, folder in folders.items():
            texts = [(REFERENCE, text) for text in heard[arm]]
            if corpus == "street" and arm == "fp":
                texts[0] = (REFERENCE, REFERENCE + " et" * 8)
            write_transcripts(tmp_path / "evaluation", corpus, arm, list_files(folder), texts)
    return collect_results(
        tmp_path / "evaluation", folders, ["studio", "street"], normalizer="basic", git_commit="abc123",
        recipe={"model_name_or_path": "openai/whisper-base"}, step_seconds={"train": 300.0, "evaluate": 20.4},
    )  # fmt: skip


def cells(text: str, *start: str) -> list[str]:
    """The cells of the table row that begins with these."""
    lines = [[cell.strip() for cell in line.strip("| ").split("|")] for line in text.splitlines() if "|" in line]
    (found,) = [line for line in lines if line[: len(start)] == list(start)]
    return found


def test_table(results: dict[str, Any]) -> None:
    table = render_table(results)
    size, of_fp = results["arms"]["qat"]["bytes"], results["arms"]["fp"]["bytes"]
    lines = [line.split() for line in table.splitlines()]
    assert lines[0] == ["corpus", "model", "format", "WER", "%", "95", "%", "interval", "vs", "fp", "size", "speed"]
    assert ["studio", "ptq-rtn", "int4", "10.0", "10.0", "to", "10.0", "+10.00"] in [line[:8] for line in lines]
    (qat,) = [line for line in lines if line[:2] == ["studio", "qat"]]
    assert qat[3] == "0.5" and qat[7] == "+0.50"
    assert qat[8:] == [f"{size / 1e6:.1f}", "MB", f"({100 * size / of_fp:.1f}", "%)", "4.0x"]
    assert ["street", "fp", "float32", "4.0"] in [line[:4] for line in lines]  # eight insertions in 200 words
    assert ["all", "corpora", "ptq-rtn", "int4", "10.0"] in [line[:5] for line in lines]
    assert "* all corpora: qat is 9.50 points better than ptq-rtn (0.5 against 10.0 % WER)" in table
    assert max(map(len, table.splitlines())) <= 120


def test_findings_say_how_sure_they_are(results: dict[str, Any]) -> None:
    sentences = findings(results)
    assert len(sentences) == 3 * 3
    (sure,) = [s for s in sentences if s.startswith("studio: qat is 9.50 points better than ptq-rtn ")]
    low, high = results["measurements"]["qat"]["studio"]["versus"]["ptq-rtn"]["interval"]
    expected = f"95 % interval {100 * low:+.2f} to {100 * high:+.2f} points, {100 * (high - low):.2f} wide"
    assert f"{expected}; 0 lies outside, so the difference is beyond its interval." in sure
    (unsure,) = [s for s in sentences if s.startswith("studio: qat is 0.50 points worse than fp")]
    assert unsure.endswith("0 lies inside, so this speech does not tell the two apart.")


def test_report(results: dict[str, Any]) -> None:
    report = render_report(results, ["wer_by_corpus.png"])
    assert report.startswith("# Evaluation of openai/whisper-base\n")
    assert cells(report, "model") == [
        "model", "format", "studio: WER %", "street: WER %", "all corpora: WER %", "size", "speed"
    ]  # fmt: skip
    assert cells(report, "ptq-rtn", "int4")[2] == "10.0 [10.0, 10.0] (+10.00)"
    errors = ["0", "0", "8", "200"]
    assert cells(report, "street", "fp")[2:6] == errors and cells(report, "street", "fp")[7:9] == ["1", "0"]
    difference = cells(report, "all corpora", "ptq-rtn", "fp")
    assert difference[3] == "+8.00" and difference[5] == "+400.00" and difference[8] == "yes"
    assert cells(report, "studio", "qat", "fp")[5:7] == ["n/a", "n/a"]  # fp has no error there
    for name, entry in results["arms"]["qat"]["files"].items():
        assert cells(report, "qat", f"`{name}`")[2:] == [f"{entry['bytes']:,}", f"`{entry['sha256']}`"]
    for fact in ("![wer_by_corpus.png](wer_by_corpus.png)", "normalizer 'basic'", "greedy", "one utterance at a time",
                 "2 threads on 2 logical cores of Example CPU (avx2)", "code at commit abc123", "step train: 5.0 min",
                 "step evaluate: 20 s", "2000 resamples"):  # fmt: skip
        assert fact in report


def test_one_corpus_is_not_pooled(results: dict[str, Any]) -> None:
    del results["corpora"]["street"]
    assert "all corpora" not in render_report(results) and "all corpora" not in render_table(results)


def test_plots(results: dict[str, Any], tmp_path: Path) -> None:
    paths = draw_plots(results, tmp_path)
    assert [path.name for path in paths] == ["wer_by_corpus.png", "wer_by_size.png"]
    before = [path.read_bytes() for path in paths]
    for path in paths:
        pixels = imread(path)[..., :3]
        colours = {tuple(colour) for colour in np.round(pixels.reshape(-1, 3) * 255).astype(int)}
        # black, orange and blue markers: fp, ptq and qat are all in the picture
        assert {(0, 0, 0), (230, 159, 0), (0, 114, 178)} <= colours
        # nothing is cut off: the rim is white
        rim = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        assert (rim == 1).all()
    draw_plots(results, tmp_path)
    assert [path.read_bytes() for path in paths] == before


def test_texts_need_neither_matplotlib_nor_onnxruntime() -> None:
    script = (
        "import sys, qat_plugin.evaluation.plots, qat_plugin.evaluation.report; "
        "print([m for m in ('matplotlib', 'onnxruntime') if m in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    output = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert output.stdout.strip() == "[]"
