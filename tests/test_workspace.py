"""The output folder: what counts as done, what is refused, what survives an interruption."""

import errno
import json
import os
import shutil
from types import SimpleNamespace

import pytest
from safetensors import SafetensorError

from qat_plugin.errors import WorkspaceError
from qat_plugin.workspace import Workspace


def test_a_step_is_done_for_the_same_inputs_only(tmp_path):
    workspace = Workspace(tmp_path / "run")
    inputs = {"target": "int4", "max_steps": 3}
    assert not workspace.is_done("train", inputs) and workspace.differences("train", inputs) == []
    with workspace.step("train", inputs):
        pass
    again = Workspace(tmp_path / "run")
    assert again.is_done("train", dict(reversed(inputs.items())))
    assert not again.is_done("train", {**inputs, "max_steps": 4})
    assert again.differences("train", {**inputs, "max_steps": 4}) == ["max_steps: 3 → 4"]


def test_one_process_at_a_time_does_a_step(tmp_path):
    workspace, other = Workspace(tmp_path), Workspace(tmp_path)
    with workspace.alone("evaluate"):
        with (
            pytest.raises(WorkspaceError, match=r"another process does step 'evaluate' in .* now"),
            other.alone("evaluate"),
        ):
            pass
        with other.alone("export"):
            pass
    with other.alone("evaluate"):
        pass


def test_an_interrupted_step_is_not_done_and_its_time_is_kept(tmp_path):
    workspace = Workspace(tmp_path)
    with pytest.raises(KeyboardInterrupt), workspace.step("train", {"a": 1}):
        raise KeyboardInterrupt
    assert not workspace.is_done("train", {"a": 1})
    state = json.loads((tmp_path / "state.json").read_text())
    state["train"]["seconds"] = 40.0
    (tmp_path / "state.json").write_text(json.dumps(state))
    with workspace.step("train", {"a": 1}):
        pass
    assert workspace.is_done("train", {"a": 1}) and workspace.seconds()["train"] >= 40.0
    with workspace.step("train", {"a": 2}, keeps_work=True):  # what was done is taken up again
        pass
    assert workspace.seconds()["train"] >= 40.0
    with workspace.step("train", {"a": 3}):  # other inputs: another piece of work
        pass
    assert workspace.seconds()["train"] < 40.0


def test_foreign_folders_and_files_are_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(WorkspaceError, match="holds files of something else"):
        Workspace(tmp_path)
    with pytest.raises(WorkspaceError, match="which is a file"):
        Workspace(tmp_path / "thesis.tex")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"),
    ],
)
def test_a_full_disk_is_explained_and_keeps_what_was_done(tmp_path, monkeypatch, error):
    workspace = Workspace(tmp_path)
    with workspace.step("train", {}):
        pass
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))

    def no_room(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(WorkspaceError, match=r"no space left .* in step 'export'.*run the same command again"):
        with workspace.step("export", {}):
            monkeypatch.setattr(os, "replace", no_room)  # nor for the books
            raise error
    assert workspace.is_done("train", {}) and not workspace.is_done("export", {})


def test_other_errors_are_not_taken_for_a_full_disk(tmp_path):
    workspace = Workspace(tmp_path)
    with pytest.raises(RuntimeError, match="enforce fail"), workspace.step("train", {}):
        raise RuntimeError("[enforce fail at somewhere.cc:1] . wrong shape")


def test_a_damaged_state_file_names_the_line(tmp_path):
    workspace = Workspace(tmp_path)
    (tmp_path / "state.json").write_text("{\n oops")
    with pytest.raises(WorkspaceError, match=r"state.json, line 2: not JSON"):
        workspace.seconds()


def test_of_several_processes_one_keeps_the_books(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    second = Workspace(tmp_path / "run")
    with second.step("train", {}):
        assert not second.is_done("train", {})
    assert not (tmp_path / "run").exists()
    monkeypatch.setenv("RANK", "0")
    with Workspace(tmp_path / "run").step("train", {}):
        pass
    assert second.is_done("train", {})
