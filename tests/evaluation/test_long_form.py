"""Recordings beyond the model's window, by the shipped definitions of corpora that hold some, up to the report."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pytest
from fakes import FakeModel, exported_folder
from synthetic_speech import wav_bytes

from qat_plugin.data.loading import load_test_corpora
from qat_plugin.data.revisions import RunRevisions
from qat_plugin.evaluation.decoder import LongForm
from qat_plugin.evaluation.report import render_report
from qat_plugin.evaluation.results import collect_results
from qat_plugin.evaluation.run import evaluate_arm
from qat_plugin.evaluation.transcripts import read_transcripts
from qat_plugin.recipe import DataArguments, EvaluationArguments
from qat_plugin.shipped import recipes_folder

SAID = ["bonjour à tous", "merci", "il fait beau"]
SECONDS = [0.5, 70.0, 40.0]


def lay_down(name: str, folder: Path) -> Path:
    """A shipped definition of a dataset on the Hub, whose rows lie in `folder`, in its own columns and split."""
    definition = json.loads((recipes_folder() / "corpora" / f"{name}.json").read_text(encoding="utf8"))
    assert definition["source"] == "hub"
    folder.mkdir()
    audio, text = definition.get("audio_column", "audio"), definition.get("text_column", "text")
    # The tones that FakeModel tells apart.
    rows = [
        {audio: {"bytes": wav_bytes(300 + 500 * i, seconds), "path": f"{i}.wav"}, text: said}
        for i, (said, seconds) in enumerate(zip(SAID, SECONDS, strict=True))
    ]
    table = datasets.Dataset.from_list(rows).cast_column(audio, datasets.Audio(sampling_rate=16000, decode=False))
    table.to_parquet(folder / f"{definition['split']}-00000-of-00001.parquet")
    path = folder.parent / f"{name}.json"
    path.write_text(json.dumps({**definition, "path": str(folder), "config": None}), encoding="utf8")
    return path


@pytest.mark.parametrize("long_form", ["sequential", "chunked"])
@pytest.mark.parametrize("name", ["community-v2", "mtedx"])
def test_long_recordings_of_a_named_corpus_are_heard_to_their_end(
    name: str, long_form: LongForm, tmp_path: Path, tiny_whisper_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (corpus,) = load_test_corpora(
        [str(lay_down(name, tmp_path / "rows"))],
        DataArguments(),
        EvaluationArguments(),
        revisions=RunRevisions(tmp_path),
    )
    folder = exported_folder(tmp_path, tiny_whisper_dir, "qat")
    model = FakeModel(folder, SAID)
    path = evaluate_arm(
        folder, "qat", corpus, tmp_path / "out", language="french", task="transcribe", long_form=long_form, model=model
    )
    settings, transcripts = read_transcripts(path)
    assert settings["long_form"] == long_form and path.parent.name == name
    assert [(t.duration, t.long_form, t.hypothesis) for t in transcripts] == [
        (seconds, seconds > 30, said) for seconds, said in zip(SECONDS, SAID, strict=True)
    ]
    # Frames of 10 ms: whole recordings with timestamps, or windows without, as many as cover them.
    heard = [(call["features"][-1], call["return_timestamps"]) for call in model.calls[1:]]
    whole = [(3000, False), (7000, True), (4000, True)]
    assert heard == (whole if long_form == "sequential" else [(3000, False)] * (1 + 3 + 2))
    results = collect_results(
        tmp_path / "out", {"qat": folder}, [name], normalizer="basic", recipe={}, step_seconds={}, resamples=200
    )
    assert results["corpora"][name]["long_form"] == 2 and results["settings"]["long_form"] == long_form
    last = results["measurements"]["qat"][name]["by_duration"][-1]
    assert (last["from_seconds"], last["utterances"], last["wer"]) == (30.0, 2, 0.0)
    assert f"| {name} | over 30 | 2 |" in render_report(results)
