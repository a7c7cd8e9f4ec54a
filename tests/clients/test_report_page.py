"""The report as pictures: what a reader sees of report.html in a browser, in light and in dark, wide and narrow."""

import json
from pathlib import Path

import numpy as np
import pytest
from card_sample import HYPOTHESES, RECIPE, make_onnx_folder, measure
from client_model import CHROMIUM, HERE, installed, run_node
from matplotlib.image import imread

from qat_plugin.evaluation.report_files import write_report
from qat_plugin.evaluation.results import read_results

# Colours of the page's template.
PAPER = {"light": 0xFFFFFF, "dark": 0x181A1B}
INK = {"light": 0x1C1C1C, "dark": 0xE6E6E6}
WRONG = {"light": 0xA32010, "dark": 0xFF9A86}
WIDTHS = [1100, 390]

pytestmark = pytest.mark.skipif(
    CHROMIUM is None or not installed("playwright-core"),
    reason="needs Chromium, Node and the packages of package.json: make test-clients",
)


def test_the_report_can_be_read_in_light_and_in_dark(tmp_path: Path) -> None:
    folders = {arm: make_onnx_folder(tmp_path / "onnx" / arm, arm) for arm in HYPOTHESES}
    results_file = measure(tmp_path / "evaluation", folders, {**RECIPE, "warmup_steps": 5, "freeze_scales_step": 80})
    log = [{"step": step, "loss": 1 / step, "loss_kl": 0.5 / step} for step in range(10, 121, 10)]
    write_report(read_results(results_file), results_file.parent, log)
    page = results_file.parent / "report.html"
    (tmp_path / "job.json").write_text(json.dumps({"page": str(page), "chromium": CHROMIUM, "widths": WIDTHS}))
    pictures = json.loads(run_node(tmp_path, str(HERE / "picture.mjs"), "job.json"))
    assert [(seen["colorScheme"], seen["width"]) for seen in pictures] == [(c, w) for c in PAPER for w in WIDTHS]
    for seen in pictures:
        scheme, name = seen["colorScheme"], seen["picture"]
        assert (seen["errors"], seen["requests"]) == ([], []), name
        assert seen["pageWidth"] <= seen["width"], f"{name}: the page scrolls sideways"
        assert len(seen["images"]) == 6 and seen["wrong"] > 0
        pixels = np.round(imread(tmp_path / name)[..., :3] * 255).astype(int) @ [65536, 256, 1]
        assert {INK[scheme], WRONG[scheme]} <= set(np.unique(pixels).tolist()), name
        assert pixels[2, 2] == PAPER[scheme], name
        for image in seen["images"]:
            # Of the variant for this scheme: around the axes a plot has the paper of the page, and in them something is drawn.
            left, top = round(image["x"]) + 3, round(image["y"]) + 3
            drawn = pixels[top : top + round(image["height"]) - 6, left : left + round(image["width"]) - 6]
            assert image["height"] > 100 and drawn[0, 0] == drawn[-1, -1] == PAPER[scheme], name
            assert len(np.unique(drawn)) > 20, name
