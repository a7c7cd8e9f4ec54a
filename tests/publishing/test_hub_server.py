"""The Hub that other tests rely on, as the real clients see it in a process of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow
import pytest
from hub_server import Hub
from pyarrow import parquet

PROGRAM = """
import json, sys
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

api, folder = HfApi(), sys.argv[1]
api.create_repo("tester/data", repo_type="dataset", private=True)
api.create_repo("tester/data", repo_type="dataset", exist_ok=True)
first = api.upload_folder(repo_id="tester/data", repo_type="dataset", folder_path=folder)
same = api.upload_folder(repo_id="tester/data", repo_type="dataset", folder_path=folder)
where = snapshot_download("tester/data", repo_type="dataset")
api.delete_file("sub/note.txt", "tester/data", repo_type="dataset")

def refused(error, call):
    try:
        call()
    except error as found:
        return type(found).__name__
    return None

print(json.dumps({
    "user": api.whoami()["name"], "oids": [first.oid, same.oid], "snapshot": where,
    "files": sorted(api.list_repo_files("tester/data", repo_type="dataset")),
    "first": sorted(api.list_repo_files("tester/data", repo_type="dataset", revision=first.oid)),
    "tree": sorted(e.path for e in api.list_repo_tree("tester/data", repo_type="dataset", revision=first.oid)),
    "paths": [e.lfs.sha256 for e in api.get_paths_info("tester/data", ["big.bin"], repo_type="dataset")],
    "private": api.dataset_info("tester/data").private,
    "served": open(hf_hub_download("someone/model", "config.json")).read(),
    "refused": [
        refused(RepositoryNotFoundError, lambda: api.model_info("tester/none")),
        refused(RepositoryNotFoundError, lambda: api.dataset_info("tester/data", token=False)),
        refused(RevisionNotFoundError, lambda: api.dataset_info("tester/data", revision="none")),
        refused(EntryNotFoundError, lambda: hf_hub_download("someone/model", "none.json")),
        refused(HfHubHTTPError, lambda: api.create_repo("someone/model2")),
        refused(HfHubHTTPError, lambda: api.create_repo("tester/data", repo_type="dataset")),
    ],
}))
"""


def test_clients_write_and_read_back(hub: Hub, tmp_path: Path) -> None:
    folder, model = tmp_path / "folder", tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "big.bin").write_bytes(os.urandom(70_000))
    (folder / "sub" / "note.txt").write_text("été\n", encoding="utf8")
    (folder / "empty.txt").write_text("")
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "whisper"}')
    hub.add_repo("someone/model", model)

    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder)], env={**os.environ, **hub.environment()},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert found["user"] == "tester"
    assert found["oids"][0] == found["oids"][1]  # nothing changed, no second commit
    assert found["private"] is True
    names = ["big.bin", "empty.txt", "sub/note.txt"]
    assert found["first"] == [".gitattributes", *names]
    assert found["files"] == [".gitattributes", *names[:2]]
    assert found["tree"] == [".gitattributes", "big.bin", "empty.txt", "sub"]
    for name in names:
        assert (Path(found["snapshot"]) / name).read_bytes() == (folder / name).read_bytes()
    stored = hub.repo("tester/data", "dataset").at(found["oids"][0]).files["big.bin"]
    assert found["paths"] == [stored.sha256]
    assert found["served"] == '{"model_type": "whisper"}'
    assert None not in found["refused"]
    assert hub.unknown == []


@pytest.mark.slow
def test_a_whisper_and_a_dataset_load_by_hub_id(
    hub: Hub, tmp_path: Path, tiny_whisper_dir: Path, tones_manifest: Path
) -> None:
    hub.add_repo("someone/tiny", tiny_whisper_dir)
    rows = [json.loads(line) for line in tones_manifest.read_text(encoding="utf8").splitlines()]
    sounds = [{"path": row["audio"], "bytes": (tones_manifest.parent / row["audio"]).read_bytes()} for row in rows]
    table = pyarrow.table({"audio": sounds, "text": [row["text"] for row in rows]})
    (tmp_path / "speech" / "data").mkdir(parents=True)
    parquet.write_table(table, tmp_path / "speech" / "data" / "test-00000-of-00001.parquet")
    hub.add_repo("someone/speech", tmp_path / "speech", repo_type="dataset")
    program = """
import json
from datasets import load_dataset
from transformers import WhisperForConditionalGeneration, WhisperProcessor
model = WhisperForConditionalGeneration.from_pretrained("someone/tiny")
WhisperProcessor.from_pretrained("someone/tiny")
found = []
for streaming in (False, True):
    rows = load_dataset("someone/speech", split="test", streaming=streaming)
    found.append([[row["text"], row["audio"]["bytes"].hex()] for row in rows])
print(json.dumps([sum(p.numel() for p in model.parameters()), *found]))
"""
    run = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **hub.environment()}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    parameters, downloaded, streamed = json.loads(run.stdout.splitlines()[-1])
    assert parameters > 100_000
    expected = [[row["text"], sound["bytes"].hex()] for row, sound in zip(rows, sounds, strict=True)]
    assert downloaded == streamed == expected
