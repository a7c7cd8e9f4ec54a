"""Fixtures of `card_sample`: folders, results, and a card written from them."""

import json
from pathlib import Path
from typing import Any

import pytest
from card_sample import HYPOTHESES, RECIPE, make_onnx_folder, measure
from hub_server import Hub, hub  # noqa: F401

from qat_plugin.publishing import write_card


@pytest.fixture
def onnx_folders(tmp_path: Path) -> dict[str, Path]:
    """Folder of each arm."""
    return {arm: make_onnx_folder(tmp_path / "onnx" / arm, arm) for arm in HYPOTHESES}


@pytest.fixture
def results_file(tmp_path: Path, onnx_folders: dict[str, Path]) -> Path:
    """results.json of two corpora and three arms."""
    return measure(tmp_path / "evaluation", onnx_folders, RECIPE)


@pytest.fixture
def results(results_file: Path) -> dict[str, Any]:
    """What `results_file` holds."""
    return json.loads(results_file.read_text(encoding="utf8"))


@pytest.fixture
def card_folder(tmp_path: Path, results_file: Path, onnx_folders: dict[str, Path]) -> Path:
    """Folder of the card of `results`."""
    return write_card(results_file, onnx_folders["qat"], tmp_path / "card").parent


@pytest.fixture
def online(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:  # noqa: F811
    """The Hub of the tests, which every client finds."""
    hub.patch(monkeypatch)
    return hub
