"""What lies in a local folder after publishing to it, and what is refused."""

import shutil
from pathlib import Path

import pytest
from card_sample import BENCHMARK, set_source

from qat_plugin.errors import PublishError
from qat_plugin.publishing import publish_to_folder, write_card
from qat_plugin.publishing.eval_results import EVAL_RESULTS_FILE


@pytest.fixture
def folder(onnx_folders: dict[str, Path]) -> Path:
    return onnx_folders["qat"]


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_holds_what_the_hub_would(folder: Path, card_folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "shared" / "model"
    report = publish_to_folder(folder, card_folder, target)
    assert content(target) == content(folder) | {"README.md": (card_folder / "README.md").read_bytes()}
    assert {file.change for file in report.files} == {"new"}


def test_again_only_what_changed_is_written(folder: Path, card_folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "model"
    publish_to_folder(folder, card_folder, target)
    (target / "sample.mp3").write_bytes(b"theirs")
    written = (target / "encoder_model.onnx").stat().st_mtime_ns
    card = card_folder / "README.md"
    card.write_text(card.read_text() + "\nA remark by hand.\n")
    report = publish_to_folder(folder, card_folder, target)
    assert {file.name for file in report.files if file.change != "unchanged"} == {"README.md"}
    assert report.remaining == ("sample.mp3",)
    assert (target / "README.md").read_bytes() == card.read_bytes()
    assert (target / "encoder_model.onnx").stat().st_mtime_ns == written


def test_figures_of_an_earlier_publication_go(
    folder: Path, results_file: Path, tmp_path: Path, card_folder: Path
) -> None:
    write_card(set_source(results_file, "studio", **BENCHMARK), folder, card_folder)
    publish_to_folder(folder, card_folder, tmp_path / "model")
    assert (tmp_path / "model" / EVAL_RESULTS_FILE).is_file()
    write_card(set_source(results_file, "studio", task_id=None), folder, card_folder)
    publish_to_folder(folder, card_folder, tmp_path / "model")
    assert not (tmp_path / "model" / EVAL_RESULTS_FILE).exists()


def test_a_folder_gets_the_card_as_it_is_presented_now(folder: Path, card_folder: Path, tmp_path: Path) -> None:
    before = (card_folder / "README.md").read_text()
    publish_to_folder(folder, card_folder, tmp_path / "model", page=True, publishing={"model_title": "Écoute"})
    assert "\n# Écoute\n" in (tmp_path / "model" / "README.md").read_text()
    assert "<h1>Écoute</h1>" in (tmp_path / "model" / "index.html").read_text()
    assert (card_folder / "README.md").read_text() == before and "Écoute" not in before


def test_dry_run_writes_nothing(
    folder: Path, card_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish_to_folder(folder, card_folder, tmp_path / "model", dry_run=True)
    assert "6 of 6 files to send" in capsys.readouterr().out
    assert not (tmp_path / "model").exists()


def test_other_folders_are_left_alone(folder: Path, card_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.jpg").write_bytes(b"x")
    for target in (tmp_path / "photos", tmp_path / "photos" / "me.jpg"):
        with pytest.raises(PublishError, match="holds something else than a published model"):
            publish_to_folder(folder, card_folder, target)
    # Nor are files that only have the names of ours.
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "README.md").write_text("# My project")
    (tmp_path / "project" / ".README.md.partial").write_text("ours")
    for target in (tmp_path / "project", folder.parent / "fp"):
        before = content(target)
        with pytest.raises(PublishError, match="holds something else than a published model"):
            publish_to_folder(folder, card_folder, target)
        assert content(target) == before
    (folder / "README.md").write_text("x")
    with pytest.raises(PublishError, match="is the exported folder itself"):
        publish_to_folder(folder, card_folder, folder)


def test_what_the_hub_does_not_get_a_folder_does_not_get(folder: Path, card_folder: Path, tmp_path: Path) -> None:
    (folder / "parity.json").write_text('{"passed": false}')
    with pytest.raises(PublishError, match="do not compute what was trained"):
        publish_to_folder(folder, card_folder, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_an_interrupted_copy_goes_on(
    folder: Path, card_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, copy = tmp_path / "model", shutil.copyfile

    def stop(source: Path, to: Path) -> None:
        copy(source, to)
        if "encoder" in to.name:
            raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "copyfile", stop)
    with pytest.raises(KeyboardInterrupt):
        publish_to_folder(folder, card_folder, target)
    assert any(path.name.endswith(".partial") for path in target.iterdir())
    monkeypatch.undo()
    publish_to_folder(folder, card_folder, target)
    assert content(target) == content(folder) | {"README.md": (card_folder / "README.md").read_bytes()}
