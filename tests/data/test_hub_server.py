"""A Hub dataset over HTTP, with the real clients, from the loopback Hub: revisions, streaming, errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hub_server import Hub, hub  # noqa: F401  (fixture)
from synthetic_speech import write_tone
from test_hub_datasets import make_rows, write_dataset

from qat_plugin.data.corpora import CorpusDefinition
from qat_plugin.data.revisions import RunRevisions
from qat_plugin.errors import DataError

# A process of its own: datasets reads the endpoint when it is imported.
PROGRAM = """
import json, sys
from pathlib import Path
from qat_plugin.data.corpora import CorpusDefinition
from qat_plugin.data.loading import load_corpus, load_training_corpora
from qat_plugin.data.revisions import RunRevisions
from qat_plugin.errors import DataError
from qat_plugin.recipe import DataArguments

for arguments in json.loads(sys.argv[1]):
    streaming, run = arguments.pop("streaming", False), arguments.pop("run", None)
    definition = CorpusDefinition("speech", "hub", split="test", **arguments)
    try:
        if run is None:
            corpus = load_corpus(definition, streaming=streaming)
        else:
            file = Path(run).with_name("speech.json")
            file.write_text(json.dumps(dict(arguments, source="hub", split="test")))
            data = DataArguments(streaming=streaming)
            (corpus,) = load_training_corpora([str(file)], data, revisions=RunRevisions(run))
        rows = list(corpus)
        samples = [len(corpus.read(row)) for row in rows]
        result = dict(texts=[row["text"] for row in rows], samples=samples)
        result.update(revision=corpus.revision, notes=corpus.report.notes)
    except DataError as error:
        result = dict(error=str(error))
    print("RESULT " + json.dumps(result))
"""


CARD = """---
dataset_info:
  features:
  - name: audio
    dtype:
      audio:
        sampling_rate: 16000
  - name: sentence
    dtype: string
  - name: speaker_id
    dtype: int64
  splits:
  - name: test
    num_examples: 2
configs:
- config_name: default
  data_files:
  - split: test
    path: test-*
---
"""


def load_in_new_process(
    hub: Hub,  # noqa: F811
    definitions: list[dict[str, Any]],
    **environment: str,
) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(definitions)],
        env={**os.environ, **hub.environment(), **environment},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line[7:]) for line in done.stdout.splitlines() if line.startswith("RESULT ")]


def test_revisions_streaming_and_errors(tmp_path: Path, hub: Hub) -> None:  # noqa: F811
    write_dataset(tmp_path / "old", make_rows(3))
    write_dataset(tmp_path / "new", make_rows(2, _0={"sentence": "Corrigé"}))
    repo, name = "tester/speech", ("dataset", "tester/speech")
    first = hub.add_repo(repo, tmp_path / "old", "dataset").sha
    # With a card, as most datasets on the Hub: the types of the columns are then known before any row is read.
    (tmp_path / "new" / "README.md").write_text(CARD)
    files = {path.name: hub.make_blob(path, path.suffix == ".parquet") for path in (tmp_path / "new").iterdir()}
    second = hub.repos[name].commit("main", "corrected", files).sha

    pinned, main, streamed, streamed_main, missing, no_revision = load_in_new_process(
        hub,
        [
            {"path": repo, "revision": first},
            {"path": repo, "revision": "main"},
            {"path": repo, "revision": first, "streaming": True},
            {"path": repo, "revision": "main", "streaming": True},
            {"path": "tester/nothing", "revision": "main"},
            {"path": repo, "revision": "v9"},
        ],
    )
    assert pinned == {"texts": ["Texte 0", "Texte 1", "Texte 2"], "samples": [8000] * 3, "revision": first, "notes": []}
    assert main["texts"] == ["Corrigé", "Texte 1"] and main["revision"] == second
    assert main["notes"] == [f"revision 'main' is commit {second}; name that commit to pin it"]
    assert streamed == pinned
    assert streamed_main == main
    for failed, path in ((missing, "tester/nothing"), (no_revision, repo)):
        assert failed["error"].startswith(f"dataset {path} (test) cannot be loaded: ")
        assert "--corpus_manifests speech=PATH" in failed["error"]
    assert "v9" in no_revision["error"]
    assert not hub.unknown

    # Offline, datasets itself would answer any revision with the version it cached last.
    cached, other, missing = load_in_new_process(
        hub,
        [
            {"path": repo, "revision": second},
            {"path": repo, "revision": first},
            {"path": "tester/nothing", "revision": first},
        ],
        HF_HUB_OFFLINE="1",
        HF_DATASETS_OFFLINE="1",
    )
    assert cached == {**main, "notes": []}
    assert f"the cache offers commit {second}, not the {first} of the corpus definition" in other["error"]
    assert "--corpus_manifests speech=PATH" in missing["error"]


def test_loose_audio_files_are_read_by_path_or_by_url(tmp_path: Path, hub: Hub) -> None:  # noqa: F811
    for i in range(3):
        write_tone(tmp_path / "folder" / "test" / f"clip{i}.flac", 300 + 100 * i, 0.5, 44100)
    table = "file_name,transcription\n" + "".join(f"clip{i}.flac,Texte {i}\n" for i in range(3))
    (tmp_path / "folder" / "test" / "metadata.csv").write_text(table)
    sha = hub.add_repo("tester/folder", tmp_path / "folder", "dataset").sha
    definition = {"path": "tester/folder", "revision": sha}
    loaded, streamed, again = load_in_new_process(hub, [definition, {**definition, "streaming": True}, definition])
    assert loaded == {"texts": ["Texte 0", "Texte 1", "Texte 2"], "samples": [8000] * 3, "revision": sha, "notes": []}
    assert streamed == again == loaded


def test_a_run_reads_the_commit_of_its_first_reading_whatever_becomes_of_the_branch(tmp_path: Path, hub: Hub) -> None:  # noqa: F811
    write_dataset(tmp_path / "old", make_rows(3))
    write_dataset(tmp_path / "new", make_rows(2))
    repo, name, run = "tester/speech", ("dataset", "tester/speech"), RunRevisions(tmp_path / "run")
    first = hub.add_repo(repo, tmp_path / "old", "dataset").sha
    asked = CorpusDefinition("speech", "hub", path=repo, split="test", revision="main")
    assert run.pin(asked) == asked
    folder = str(tmp_path / "run")
    (before,) = load_in_new_process(hub, [{"path": repo, "revision": "main", "run": folder}])
    assert before["revision"] == first and run.pin(asked) == replace(asked, revision=first)
    files = {path.name: hub.make_blob(path, path.suffix == ".parquet") for path in (tmp_path / "new").iterdir()}
    second = hub.repos[name].commit("main", "shorter", files).sha
    hub.repos[name].branches["next"] = second

    found = load_in_new_process(
        hub,
        [
            {"path": repo, "revision": "main", "run": folder},
            {"path": repo, "revision": "main", "run": folder, "streaming": True},
            {"path": repo, "revision": "main", "run": str(tmp_path / "another")},
            {"path": repo, "revision": "next", "run": folder},
        ],
    )
    assert [(one["revision"], len(one["texts"])) for one in found] == [(first, 3), (first, 3), (second, 2), (second, 2)]

    # A commit, or data on this machine, needs no book.
    run.keep(replace(asked, revision=first), first)
    run.keep(replace(asked, path="elsewhere"), None)
    kept = json.loads((tmp_path / "run" / "revisions.json").read_text())
    assert kept == {f"{repo}@main": first, f"{repo}@next": second}
    (tmp_path / "run" / "revisions.json").write_text("{")
    with pytest.raises(
        DataError, match=r"revisions\.json, line 1: not JSON .*delete the file to read the newest commits"
    ):
        run.pin(asked)
