"""The page of a Space in headless Chromium, as published; what it would load from elsewhere comes from this machine."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from client_model import CHROMIUM, HERE, REPO, installed, make_model, run_node, write_clip
from hub_server import Hub
from transformers import AutoProcessor

from qat_plugin.publishing import publish_to_folder, push, push_space
from qat_plugin.publishing.space import TRANSFORMERS_JS
from qat_plugin.runtime import QuantizedWhisper

MODULES = HERE / "node_modules"
PAGE = "https://space.test/"

pytestmark = pytest.mark.skipif(
    CHROMIUM is None or not installed("playwright-core") or not installed("@huggingface/transformers"),
    reason="needs Chromium, Node and the packages of package.json: make test-clients",
)


def visit(folder: Path, sites: dict[str, Path], headers: dict[str, str], **job: Any) -> dict[str, Any]:
    """What a visitor of `PAGE` sees. `sites`: beginnings of addresses, and the folders that stand for them."""
    runtime = json.loads((MODULES / "onnxruntime-web" / "package.json").read_text())["version"]
    elsewhere = {
        TRANSFORMERS_JS: MODULES / "@huggingface" / "transformers" / "dist" / "transformers.min.js",
        f"https://cdn.jsdelivr.net/npm/onnxruntime-web@{runtime}/": MODULES / "onnxruntime-web",
    }
    places = {beginning: str(path) for beginning, path in (sites | elsewhere).items()}
    job |= {"page": f"{PAGE}index.html", "chromium": CHROMIUM, "sites": places, "headers": headers}
    (folder / "job.json").write_text(json.dumps(job))
    return json.loads(run_node(folder, str(HERE / "visit.mjs"), "job.json"))


def said_in_python(hub: Hub, folder: Path, model: Path) -> str:
    """What our runtime makes of the features that JavaScript hears in clip.wav."""
    variables = {"HF_ENDPOINT": hub.endpoint, "CACHE": str(folder / "cache")}
    prelude = ("--import", str(HERE / "prelude.mjs"))
    run_node(folder, *prelude, str(HERE / "features.mjs"), REPO, "clip.wav", "features.f32", **variables)
    features = torch.from_numpy(np.fromfile(folder / "features.f32", dtype=np.float32).reshape(1, 80, 3000))
    tokens = QuantizedWhisper.from_pretrained(model).generate(features, language="fr", task="transcribe")
    return AutoProcessor.from_pretrained(model).batch_decode(tokens, skip_special_tokens=True)[0]


@pytest.mark.parametrize("target", [None, "int8", "int4"])
def test_a_visitor_sees_the_text_and_the_time(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str | None
) -> None:
    hub.patch(monkeypatch)
    model, card_folder = make_model(tmp_path, target)
    push(model, card_folder, REPO)
    push_space(model, card_folder, REPO)
    space = tmp_path / "space"
    space.mkdir()
    for name, content in hub.files(REPO, repo_type="space").items():
        (space / name).write_bytes(content)
    headers = yaml.safe_load((space / "README.md").read_text(encoding="utf8").split("---\n")[1])["custom_headers"]
    write_clip(tmp_path / "clip.wav")
    (tmp_path / "notes.txt").write_text("no sound")
    sites = {PAGE: space, f"https://huggingface.co/{REPO}/resolve/main/": model}

    seen = visit(tmp_path, sites, headers, clips=["clip.wav", "notes.txt", "clip.wav"], record=True)
    assert seen["states"] == ["loading", "ready", "recording"]
    assert seen["errors"] == [] and seen["isolated"]
    first, refused, again = seen["transcripts"]
    expected = said_in_python(hub, tmp_path, model).strip()
    # WebAssembly's sums round elsewhere, which flips roundings to 8 bits; a random model soon says something else then.
    same = len(expected) if target is None else 5
    assert len(expected) > 5 and first["text"][:same] == expected[:same]
    assert first["time"].startswith("2.5 s of audio in ") and "x real time in this browser" in first["time"]
    assert refused["state"] == "error" and "cannot decode that file" in refused["status"]
    assert again["text"] == first["text"] and again["state"] == "ready"
    assert seen["recorded"]["state"] == "ready", seen["recorded"]
    assert "s of audio in" in seen["recorded"]["time"]


def test_a_folder_with_its_page_needs_no_hub(tmp_path: Path) -> None:
    model, card_folder = make_model(tmp_path, None)
    publish_to_folder(model, card_folder, tmp_path / "site", page=True)
    write_clip(tmp_path / "clip.wav")
    seen = visit(tmp_path, {PAGE: tmp_path / "site"}, {}, clips=["clip.wav"])
    assert seen["transcripts"][0]["text"] and seen["transcripts"][0]["state"] == "ready"


def test_the_snippet_of_the_card_runs_in_a_browser(tmp_path: Path) -> None:
    model, card_folder = make_model(tmp_path, "int4")
    (snippet,) = re.findall(r"```js\n(.*?)```", (card_folder / "README.md").read_text(encoding="utf8"), re.DOTALL)
    imports = json.dumps({"imports": {"@huggingface/transformers": TRANSFORMERS_JS}})
    (tmp_path / "index.html").write_text(
        f"""<main id="app" data-state="loading"><p id="status"></p><p id="text"></p></main>
        <script type="importmap">{imports}</script>
        <script>
        console.log = (said) => {{ document.getElementById("text").textContent = said; app.dataset.state = "ready"; }};
        onunhandledrejection = ({{ reason }}) => {{ document.getElementById("status").textContent = reason; app.dataset.state = "error"; }};
        </script>
        <script type="module">{snippet}</script>"""
    )
    write_clip(tmp_path / "clip.wav")
    seen = visit(tmp_path, {PAGE: tmp_path, f"https://huggingface.co/{REPO}/resolve/main/": model}, {})
    assert seen["states"][-1] == "ready", seen["status"]
    assert len(seen["text"]) > 5


def test_a_model_that_is_not_there_is_said(tmp_path: Path) -> None:
    model, card_folder = make_model(tmp_path, "int8")
    publish_to_folder(model, card_folder, tmp_path / "site", page=True)
    (tmp_path / "site" / "encoder_model.onnx").unlink()
    seen = visit(tmp_path, {PAGE: tmp_path / "site"}, {})
    assert seen["states"] == ["loading", "error"]
    assert seen["status"].startswith("The model could not be loaded: ") and "encoder_model.onnx" in seen["status"]
