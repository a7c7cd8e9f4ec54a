"""What a Space holds and says; `tests/clients/test_page.py` visits its page in a browser."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from card_sample import RECIPE
from hub_server import Hub

from qat_plugin.errors import PublishError
from qat_plugin.publishing import publish_to_folder, push, push_space
from qat_plugin.publishing.document import card_document
from qat_plugin.publishing.space import TRANSFORMERS_JS, render_page

REPO = "tester/whisper-tiny-int4"


@pytest.fixture
def document(results: dict[str, Any], onnx_folders: dict[str, Path]) -> dict[str, Any]:
    return card_document(results, onnx_folders["qat"])


def settings_of(page: str) -> dict[str, Any]:
    return json.loads(re.findall(r'<script id="settings" type="application/json">(.*?)</script>', page, re.DOTALL)[0])


def test_a_static_space_of_two_files_comes_to_be(online: Hub, onnx_folders: dict[str, Path], card_folder: Path) -> None:
    push(onnx_folders["qat"], card_folder, REPO, revision="v2")
    report = push_space(onnx_folders["qat"], card_folder, REPO, revision="v2")
    assert report.commit_url is not None and report.commit_url.startswith(online.endpoint)
    files = online.files(REPO, repo_type="space")
    assert set(files) == {".gitattributes", "README.md", "index.html"}
    front_matter = yaml.safe_load(files["README.md"].decode().split("---\n")[1])
    assert front_matter["sdk"] == "static" and front_matter["models"] == [REPO]
    assert front_matter["custom_headers"]["cross-origin-embedder-policy"] == "require-corp"
    settings = settings_of(files["index.html"].decode())
    assert settings["model"] == REPO and settings["options"]["revision"] == "v2"
    assert settings["library"] == TRANSFORMERS_JS
    # Again, nothing is new; and what is, takes the place of the earlier page.
    assert push_space(onnx_folders["qat"], card_folder, REPO, revision="v2").commit_url is None
    assert (
        push_space(
            onnx_folders["qat"], card_folder, REPO, revision="v2", publishing={"model_title": "Écoute"}
        ).commit_url
        is not None
    )
    assert online.unknown == []


def test_a_dry_run_shows_it_and_sends_nothing(
    online: Hub, onnx_folders: dict[str, Path], card_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    push_space(onnx_folders["qat"], card_folder, REPO, dry_run=True)
    assert f"spaces/{REPO} (public), revision main: repo will be created" in capsys.readouterr().out
    assert online.repos == {}


def test_the_page_says_what_the_card_does_of_files_that_were_not_verified_or_not_measured(
    online: Hub, onnx_folders: dict[str, Path], card_folder: Path, tmp_path: Path
) -> None:
    folder = onnx_folders["qat"]
    graph = folder / "encoder_model.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"x")
    allowed = {"allow_unverified": True, "allow_unmeasured": True}
    with pytest.raises(PublishError, match="the parity gate passed on"):
        push_space(folder, card_folder, REPO)
    push(folder, card_folder, REPO, **allowed)
    push_space(folder, card_folder, REPO, **allowed)
    publish_to_folder(folder, card_folder, tmp_path / "published", page=True, **allowed)
    pages = (
        online.files(REPO, repo_type="space")["index.html"].decode(),
        (tmp_path / "published/index.html").read_text(),
    )
    for page in pages:
        assert "Not verified. The check against the trained model was not run on these files" in page
        assert "Not measured: the figures below are of other files than these, encoder_model.onnx." in page


@pytest.mark.parametrize("private", [None, True])
def test_a_model_that_visitors_cannot_load_gets_no_page(
    online: Hub, onnx_folders: dict[str, Path], card_folder: Path, private: bool | None
) -> None:
    if private:
        push(onnx_folders["qat"], card_folder, REPO, private=True)
    state, mend = ("private", "make it public") if private else ("not there", "push it first")
    with pytest.raises(PublishError, match=f"{REPO} at main is {state}: a Space needs a public model, {mend}"):
        push_space(onnx_folders["qat"], card_folder, REPO)
    assert ("space", REPO) not in online.repos


@pytest.mark.parametrize(
    ("sdk", "file", "says"),
    [
        ("gradio", "app.py", "its sdk is 'gradio': a page would take the place of its application"),
        ("static", "index.html", "holds another page than one of this model"),
    ],
)
def test_a_space_of_that_name_is_not_written_over(
    online: Hub, onnx_folders: dict[str, Path], card_folder: Path, tmp_path: Path, sdk: str, file: str, says: str
) -> None:
    push(onnx_folders["qat"], card_folder, REPO)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / file).write_text("their own")
    (tmp_path / "theirs" / "README.md").write_text(f"---\nsdk: {sdk}\n---\n")
    online.add_repo(REPO, tmp_path / "theirs", "space")
    before = online.files(REPO, repo_type="space")
    for dry_run in (True, False):
        with pytest.raises(PublishError, match=f"spaces/{REPO} exists and {says}"):
            push_space(onnx_folders["qat"], card_folder, REPO, dry_run=dry_run)
    assert online.files(REPO, repo_type="space") == before


def test_the_page_shows_the_measured_figures(document: dict[str, Any]) -> None:
    page = render_page(document, REPO)
    rows = re.findall(r"<tr.*?</tr>", page.split("<tbody>")[1], re.DOTALL)
    assert len(rows) == len(document["arms"])
    for row, arm in zip(rows, document["arms"], strict=True):
        assert f"{100 * document['pooled'][arm]['wer']:.1f}" in row
        assert f"{document['arms'][arm]['bytes'] / 1e6:.1f} MB" in row
        assert ('class="this"' in row) == (arm == "qat")
    assert "normalized by “basic”, Whisper’s BasicTextNormalizer" in page.replace("&#39;", "’")
    assert settings_of(page)["bytes"] == document["arms"]["qat"]["bytes"]
    assert settings_of(page)["generate"] == {"language": "fr", "task": "transcribe"}


def test_names_are_text_and_never_markup(results: dict[str, Any], onnx_folders: dict[str, Path]) -> None:
    results["recipe"] = {**RECIPE, "model_title": "</script><script>alert(1)</script>"}
    page = render_page(card_document(results, onnx_folders["qat"]), REPO)
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_weights_beside_a_graph_are_asked_for(document: dict[str, Any]) -> None:
    assert settings_of(render_page(document, REPO))["options"]["use_external_data_format"] is None
    document["arms"]["qat"]["files"]["encoder_model.onnx_data"] = {"bytes": 1, "sha256": "0"}
    assert settings_of(render_page(document, REPO))["options"]["use_external_data_format"] == {"encoder_model": True}


def test_a_folder_gets_the_page_beside_the_model(
    onnx_folders: dict[str, Path], card_folder: Path, tmp_path: Path
) -> None:
    publish_to_folder(onnx_folders["qat"], card_folder, tmp_path / "model", page=True)
    page = (tmp_path / "model" / "index.html").read_text(encoding="utf8")
    assert settings_of(page)["model"] is None
    assert (tmp_path / "model" / "encoder_model.onnx").is_file()
