"""Transcribing a corpus: what the model is asked, what is written, and what happens after an interruption."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import REFERENCES, FakeModel, ToneCorpus, exported_folder
from transformers import WhisperForConditionalGeneration

from qat_plugin.errors import EvaluationError, ModelError
from qat_plugin.evaluation import environment
from qat_plugin.evaluation.environment import describe_environment, physical_cores
from qat_plugin.evaluation.results import collect_results, write_results
from qat_plugin.evaluation.run import evaluate_arm
from qat_plugin.evaluation.transcripts import read_transcripts


@pytest.fixture
def folder(tmp_path: Path, tiny_whisper_dir: Path) -> Path:
    return exported_folder(tmp_path, tiny_whisper_dir, "qat")


def evaluate(folder: Path, corpus: ToneCorpus, out_dir: Path, model: Any, **arguments: Any) -> Path:
    settings = {"language": "french", "task": "transcribe", "model": model, **arguments}
    return evaluate_arm(folder, "qat", corpus, out_dir, **settings)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf8").splitlines()]


def without_times(path: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines(path)]


def test_a_row_that_tells_its_language_is_heard_in_it(folder: Path, tmp_path: Path) -> None:
    corpus, model = ToneCorpus(), FakeModel(folder)
    for row, language in zip(corpus.rows, ["es", None, "it", "it", "fr"], strict=True):
        row["language"] = language
    path = evaluate(folder, corpus, tmp_path / "out", model, batch_size=2)
    assert [line["language"] for line in lines(path)] == ["es", "fr", "it", "it", "fr"]
    # the first call warms up; rows of a batch may differ
    assert [call["language"] for call in model.calls[1:]] == [["es", "fr"], "it", "fr"]


def test_one_language_spelled_in_two_ways_is_one(folder: Path, tmp_path: Path) -> None:
    corpus, model = ToneCorpus(), FakeModel(folder)
    for row, language in zip(corpus.rows, ["fr", "french", "French", None, "fr"], strict=True):
        row["language"] = language
    evaluate(folder, corpus, tmp_path / "out", model, batch_size=5)
    assert [call["language"] for call in model.calls] == ["fr", "fr"]


def test_an_english_only_model_is_asked_for_no_language_however_rows_spell_it(folder: Path, tmp_path: Path) -> None:
    settings = folder / "generation_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "is_multilingual": False}))
    corpus, model = ToneCorpus(), FakeModel(folder)
    for row, language in zip(corpus.rows, ["en", "english", "English", None, "en"], strict=True):
        row["language"] = language
    path = evaluate(folder, corpus, tmp_path / "out", model, language="english", batch_size=5)
    assert [line["language"] for line in lines(path)] == ["en"] * 5
    assert not [call for call in model.calls if "language" in call]


def test_transcripts_and_what_the_model_was_asked(folder: Path, tmp_path: Path) -> None:
    model = FakeModel(folder, ["bonjour à tous", "merci bien", "", "au revoir", "un deux trois"])
    path = evaluate(folder, ToneCorpus(), tmp_path / "out", model, num_beams=3)
    assert path == tmp_path / "out" / "tones" / "qat.jsonl"
    expected = {
        "id": "clip1", "batch": "clip1", "reference": "merci", "hypothesis": "merci bien", "tokens": 10,
        "duration": 0.5, "speaker": "s1", "language": "fr", "long_form": False, "hit_length_limit": False,
        "loop_cut": False,
    }  # fmt: skip
    assert without_times(path)[1] == expected
    assert [line["id"] for line in lines(path)] == [f"clip{i}" for i in range(5)]
    assert all(0 < line["seconds"] < 5 for line in lines(path))
    # the first clip twice: once to warm up
    assert [call["heard"] for call in model.calls][:3] == [["bonjour à tous"], ["bonjour à tous"], ["merci bien"]]
    assert len(model.calls) == 6
    for call in model.calls:
        names = ("language", "task", "num_beams", "loop_guard", "do_sample", "return_timestamps")
        assert {k: call[k] for k in names} == {
            "language": "fr", "task": "transcribe", "num_beams": 3, "loop_guard": True, "do_sample": False,
            "return_timestamps": False,
        }  # fmt: skip
        assert call["condition_on_prev_tokens"] is False
        assert call["features"] == (1, 80, 3000)
        assert int(call["attention_mask"].sum()) == 50


def test_settings_pin_everything_that_decides(folder: Path, tmp_path: Path) -> None:
    path = evaluate(folder, ToneCorpus(), tmp_path, FakeModel(folder), batch_size=2, num_threads=1)
    settings, transcripts = read_transcripts(path)
    assert [t.reference for t in transcripts] == REFERENCES
    shown = {k: settings[k] for k in ("arm", "corpus", "language", "task", "num_beams", "batch_size", "num_threads")}
    assert shown == {"arm": "qat", "corpus": "tones", "language": "french", "task": "transcribe", "num_beams": 1,
                     "batch_size": 2, "num_threads": 1}  # fmt: skip
    assert settings["max_target_positions"] == 448
    assert settings["generation_config"]["max_length"] == 448
    assert settings["files"]["encoder_model.onnx"]["bytes"] == 1000
    assert "tokenizer.json" in settings["files"] and "quantization.json" in settings["files"]
    assert settings["environment"]["packages"]["transformers"]


def test_long_clips_are_not_truncated(folder: Path, tmp_path: Path) -> None:
    corpus = ToneCorpus()
    corpus.rows[1]["duration"] = 31.5
    model = FakeModel(folder)
    path = evaluate(folder, corpus, tmp_path, model, batch_size=3)
    assert [line["long_form"] for line in lines(path)] == [False, True, False, False, False]
    assert [line["hypothesis"] for line in lines(path)] == REFERENCES
    _, short, long, rest = model.calls
    assert short["heard"] == [REFERENCES[0], REFERENCES[2]] and short["features"] == (2, 80, 3000)
    assert long["heard"] == [REFERENCES[1]] and long["features"] == (1, 80, 3150)
    assert int(long["attention_mask"].sum()) == 3150 and long["return_timestamps"] is True
    assert rest["return_timestamps"] is False


class Interrupted(FakeModel):
    """Dies at its n-th call."""

    def __init__(self, folder: Path, calls: int) -> None:
        super().__init__(folder)
        self.left = calls

    def generate(self, input_features: torch.Tensor, **arguments: Any) -> dict[str, Any]:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        return super().generate(input_features, **arguments)


@pytest.mark.parametrize("torn", [b"", b'{"id": "clip3", "batch": "clip3", "refe', "é".encode()[:1]])
def test_continues_after_an_interruption(folder: Path, tmp_path: Path, torn: bytes) -> None:
    whole = evaluate(folder, ToneCorpus(), tmp_path / "whole", FakeModel(folder))
    with pytest.raises(KeyboardInterrupt):
        evaluate(folder, ToneCorpus(), tmp_path / "parts", Interrupted(folder, 4))  # the warm-up and three clips
    path = tmp_path / "parts" / "tones" / "qat.jsonl"
    assert len(lines(path)) == 3
    with pytest.raises(EvaluationError, match=r"qat.jsonl: unfinished; run the evaluation again, it goes on"):
        read_transcripts(path)
    before = path.read_bytes()
    path.write_bytes(before + torn)
    model = FakeModel(folder)
    assert evaluate(folder, ToneCorpus(), tmp_path / "parts", model) == path
    assert [call["heard"] for call in model.calls] == [[t] for t in (REFERENCES[3], REFERENCES[3], REFERENCES[4])]
    assert path.read_bytes().startswith(before)
    assert without_times(path) == without_times(whole)
    # and once more: nothing is left to do
    model = FakeModel(folder)
    evaluate(folder, ToneCorpus(), tmp_path / "parts", model)
    assert model.calls == []


def measured(results: dict[str, Any]) -> dict[str, Any]:
    """Without the times that no two evaluations share."""
    document: dict[str, Any] = json.loads(json.dumps(results))
    for measurement in [m for arm in document["measurements"].values() for m in arm.values()] + list(
        document["pooled"].values()
    ):
        del measurement["wall_seconds"], measurement["rtfx"]
    return document


def test_two_evaluations_agree_in_whatever_order_arms_ran(tmp_path: Path, tiny_whisper_dir: Path) -> None:
    heard = {"fp": REFERENCES, "ptq-rtn": ["bonjour", *REFERENCES[1:]], "qat": [*REFERENCES[:4], "un deux"]}
    folders = {arm: exported_folder(tmp_path, tiny_whisper_dir, arm) for arm in heard}
    found = []
    for name, arms in (("one", ["fp", "ptq-rtn", "qat"]), ("two", ["qat", "fp", "ptq-rtn"])):
        out = tmp_path / name
        for corpus in (ToneCorpus(), ToneCorpus(name="again")):
            for arm in arms:
                model = FakeModel(folders[arm], heard[arm])
                evaluate_arm(folders[arm], arm, corpus, out, language="french", task="transcribe", model=model)
        results = collect_results(
            out, {arm: folders[arm] for arm in arms}, ["tones", "again"], normalizer="basic", recipe={}, step_seconds={}
        )
        write_results(measured(results), out / "results.json")
        found.append((out / "results.json").read_bytes())
    assert found[0] == found[1] and b'"wer"' in found[0]


def test_a_batch_is_done_as_a_whole_or_again(folder: Path, tmp_path: Path) -> None:
    """Activations are quantized per batch: half a batch, or a batch of other clips, is not the same figure."""
    path = evaluate(folder, ToneCorpus(), tmp_path, FakeModel(folder), batch_size=2)
    assert [line["batch"] for line in lines(path)] == ["clip0", "clip0", "clip2", "clip2", "clip4"]
    kept = path.read_text(encoding="utf8").splitlines(keepends=True)
    path.write_text("".join(kept[:3]), encoding="utf8")
    model = FakeModel(folder)
    evaluate(folder, ToneCorpus(), tmp_path, model, batch_size=2)
    assert [call["heard"] for call in model.calls[1:]] == [REFERENCES[2:4], REFERENCES[4:]]
    assert [line["id"] for line in lines(path)] == [f"clip{i}" for i in range(5)]


def test_rows_that_are_gone_and_changed_texts(folder: Path, tmp_path: Path) -> None:
    path = evaluate(folder, ToneCorpus(), tmp_path, FakeModel(folder))
    corpus = ToneCorpus()
    del corpus.rows[1]
    corpus.rows[2]["text"] = "au revoir madame"
    model = FakeModel(folder)
    evaluate(folder, corpus, tmp_path, model)
    assert [call["heard"] for call in model.calls[1:]] == [["au revoir"]]
    assert [(line["id"], line["reference"]) for line in lines(path)] == [(r["id"], r["text"]) for r in corpus.rows]


def test_what_a_smaller_corpus_leaves_out_is_kept_for_a_larger_one(folder: Path, tmp_path: Path) -> None:
    whole = evaluate(folder, ToneCorpus(), tmp_path, FakeModel(folder)).read_bytes()
    for rows in (slice(2, 4), slice(1, 2)):
        few = ToneCorpus()
        few.rows = few.rows[rows]
        model = FakeModel(folder)
        path = evaluate(folder, few, tmp_path, model)
        assert model.calls == [] and [line["id"] for line in lines(path)] == [row["id"] for row in few.rows]
    model = FakeModel(folder)
    assert evaluate(folder, ToneCorpus(), tmp_path, model).read_bytes() == whole
    assert model.calls == [] and list(path.parent.glob("*left_out*")) == []


@pytest.mark.parametrize("change", [{"language": "en"}, {"duration": 7.0}])
def test_a_row_that_is_described_anew_is_heard_again(folder: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    path = evaluate(folder, ToneCorpus(), tmp_path, FakeModel(folder))
    corpus = ToneCorpus()
    corpus.rows[1].update(change)
    model = FakeModel(folder)
    evaluate(folder, corpus, tmp_path, model)
    assert len(model.calls) == 2  # the warm-up, and the row
    ((key, value),) = change.items()
    assert lines(path)[1][key] == value


def test_who_speaks_may_be_told_later(folder: Path, tmp_path: Path) -> None:
    """Hours of transcripts do not depend on it; intervals do."""
    path = evaluate(folder, ToneCorpus(), tmp_path, FakeModel(folder))
    before, corpus = lines(path), ToneCorpus()
    for row in corpus.rows:
        row["speaker"] = f"voice of {row['id']}"
    model = FakeModel(folder)
    evaluate(folder, corpus, tmp_path, model)
    assert model.calls == []
    assert lines(path) == [{**line, "speaker": f"voice of {line['id']}"} for line in before]


@pytest.mark.parametrize(
    ("change", "told"),
    [("beams", "num_beams: 1 → 4"), ("guard", "loop_guard: True → False"),
     ("file", r"files.encoder_model.onnx.sha256: '\w+' → '\w+'"),
     ("batch", "batch_size: 1 → 2")],
)  # fmt: skip
def test_other_settings_begin_anew(
    folder: Path, tmp_path: Path, change: str, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = evaluate(folder, ToneCorpus(), tmp_path, FakeModel(folder))
    before = path.read_bytes()
    if change == "file":
        (folder / "encoder_model.onnx").write_bytes(b"trained a little longer".ljust(1000))
    arguments = {"beams": {"num_beams": 4}, "guard": {"loop_guard": False}, "batch": {"batch_size": 2}}.get(change, {})
    model = FakeModel(folder, [*REFERENCES[:4], "un deux"])
    evaluate(folder, ToneCorpus(), tmp_path, model, **arguments)
    assert lines(path)[4]["hypothesis"] == "un deux" and len(lines(path)) == 5
    # Hours of transcripts must not vanish because of a slip on the command line.
    (aside,) = path.parent.glob("qat.????????????.jsonl")
    assert aside.read_bytes() == before
    assert "is begun anew, because its settings changed" in caplog.text
    assert re.search(told, caplog.text), caplog.text


def test_whatever_was_transcribed_is_kept_and_taken_up_again(folder: Path, tmp_path: Path) -> None:
    """Three settings one after the other, the second broken off; then each again."""
    written = {}
    for beams in (1, 2, 3):
        model = Interrupted(folder, 3) if beams == 2 else FakeModel(folder)
        if beams == 2:
            with pytest.raises(KeyboardInterrupt):
                evaluate(folder, ToneCorpus(), tmp_path, model, num_beams=beams)
        else:
            evaluate(folder, ToneCorpus(), tmp_path, model, num_beams=beams)
        written[beams] = (tmp_path / "tones" / "qat.jsonl").read_bytes()
    assert len({*written.values(), *(path.read_bytes() for path in (tmp_path / "tones").glob("qat.*.jsonl"))}) == 3
    for beams, clips in ((1, 0), (2, 3), (3, 0)):
        model = FakeModel(folder)
        path = evaluate(folder, ToneCorpus(), tmp_path, model, num_beams=beams)
        assert len(model.calls) == clips + bool(clips)  # the warm-up, and what is missing
        assert path.read_bytes().startswith(written[beams])
        assert read_transcripts(path)[0]["num_beams"] == beams


@pytest.fixture
def opened(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The arguments with which a model was opened, each time that one was."""
    calls: list[dict[str, Any]] = []

    def from_pretrained(_folder: Path, **arguments: Any) -> FakeModel:
        calls.append(arguments)
        return FakeModel(folder)

    monkeypatch.setattr("qat_plugin.runtime.QuantizedWhisper.from_pretrained", from_pretrained)
    return calls


def test_a_finished_arm_opens_no_model(folder: Path, tmp_path: Path, opened: list[dict[str, Any]]) -> None:
    path = evaluate(folder, ToneCorpus(), tmp_path, None)
    assert len(opened) == 1
    before = path.read_bytes(), path.with_suffix(".settings.json").read_bytes()
    assert evaluate(folder, ToneCorpus(), tmp_path, None) == path
    assert len(opened) == 1
    assert (path.read_bytes(), path.with_suffix(".settings.json").read_bytes()) == before
    # What is known without a model is the same as with it: nothing is begun anew.
    model = FakeModel(folder)
    evaluate(folder, ToneCorpus(), tmp_path, model)
    assert model.calls == [] and list(path.parent.glob("qat.*.jsonl")) == []
    with pytest.raises(ModelError, match="language is 'frensh'"):
        evaluate(folder, ToneCorpus(), tmp_path, None, language="frensh")


@pytest.mark.parametrize(("asked", "used"), [(None, 3), (1, 1)])
def test_the_recorded_threads_are_those_of_the_sessions(
    folder: Path,
    tmp_path: Path,
    opened: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    asked: int | None,
    used: int,
) -> None:
    monkeypatch.setattr("qat_plugin.evaluation.run.physical_cores", lambda: 3)
    path = evaluate(folder, ToneCorpus(), tmp_path, None, num_threads=asked)
    assert opened == [{"num_threads": used}] and read_transcripts(path)[0]["num_threads"] == used


def test_physical_cores_are_no_more_than_logical_ones() -> None:
    assert 1 <= physical_cores() <= len(os.sched_getaffinity(0))


@pytest.mark.parametrize(("quota", "cores"), [("100000 100000", 1), ("40000 100000", 1), ("max 100000", None)])
def test_a_container_has_no_more_cores_than_its_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, cores: int | None
) -> None:
    everything = physical_cores(), describe_environment()["cores"]
    (tmp_path / "cpu.max").write_text(quota + "\n")
    monkeypatch.setattr(environment, "_CPU_QUOTA", tmp_path / "cpu.max")
    found = physical_cores(), describe_environment()["cores"]
    assert found == ((cores, cores) if cores else (everything[0], len(os.sched_getaffinity(0))))


def test_damaged_line(folder: Path, tmp_path: Path) -> None:
    path = evaluate(folder, ToneCorpus(), tmp_path, FakeModel(folder))
    kept = path.read_text(encoding="utf8").splitlines(keepends=True)
    path.write_text(kept[0] + "\0\0\0\n" + kept[2], encoding="utf8")
    with pytest.raises(EvaluationError, match=r"qat.jsonl, line 2: not JSON .*; delete the file to begin anew"):
        evaluate(folder, ToneCorpus(), tmp_path, FakeModel(folder))
    path.write_text(kept[0] + '{"id": "clip1"}\n', encoding="utf8")
    with pytest.raises(EvaluationError, match=r"qat.jsonl, line 2: has \['id'\], expected \['batch', "):
        evaluate(folder, ToneCorpus(), tmp_path, FakeModel(folder))


def test_rows_that_cannot_be_compared(folder: Path, tmp_path: Path) -> None:
    twice = ToneCorpus()
    twice.rows.append(twice.rows[0])
    with pytest.raises(EvaluationError, match="corpus 'tones', row 'clip0': this id comes twice"):
        evaluate(folder, twice, tmp_path / "twice", FakeModel(folder))
    with pytest.raises(EvaluationError, match="corpus 'tones', row 'clip1': has no text to compare with"):
        evaluate(folder, ToneCorpus(["oui", None]), tmp_path / "none", FakeModel(folder))
    with pytest.raises(EvaluationError, match="corpus 'tones': holds no utterance"):
        evaluate(folder, ToneCorpus([]), tmp_path / "empty", FakeModel(folder))


def test_language_is_never_guessed(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="language is 'frensh'"):
        evaluate(folder, ToneCorpus(), tmp_path, FakeModel(folder), language="frensh")


def test_not_an_export(tmp_path: Path, tiny_whisper_dir: Path) -> None:
    with pytest.raises(EvaluationError, match=r"holds no \.onnx file; export the model first"):
        evaluate(tiny_whisper_dir, ToneCorpus(), tmp_path, FakeModel(tiny_whisper_dir))
    with pytest.raises(EvaluationError, match="no such folder; export the model first"):
        evaluate(tmp_path / "nothing", ToneCorpus(), tmp_path, FakeModel(tiny_whisper_dir))


@pytest.mark.parametrize("listed", [False, True])
def test_length_limit_is_flagged(folder: Path, tmp_path: Path, listed: bool) -> None:
    start = 4
    fits = "a" * (448 - start - 1)  # the end token is the last that fits
    if listed:  # as some versions of transformers' Trainer save it
        saved = folder / "generation_config.json"
        values = json.loads(saved.read_text(encoding="utf8"))
        saved.write_text(json.dumps({**values, "eos_token_id": [values["eos_token_id"]]}), encoding="utf8")
    path = evaluate(folder, ToneCorpus(["a", "a", "a"]), tmp_path, FakeModel(folder, [fits, fits + "a", "a"]))
    assert [line["hit_length_limit"] for line in lines(path)] == [False, True, False]


def test_what_the_guard_cut_is_flagged(folder: Path, tmp_path: Path) -> None:
    """Four times in a row, sixteen tokens: only a guard ends there."""
    said = ["je ne sais pas, " * 4, "je ne sais pas, " * 3, "non"]
    for guard, expected in ((True, [True, False, False]), (False, [False, False, False])):
        out = tmp_path / str(guard)
        path = evaluate(folder, ToneCorpus(["a", "b", "c"]), out, FakeModel(folder, said), loop_guard=guard)
        assert [line["loop_cut"] for line in lines(path)] == expected


def test_long_audio_in_overlapping_chunks(folder: Path, tmp_path: Path) -> None:
    model = FakeModel(folder)
    path = evaluate(folder, ToneCorpus(["bonjour à tous"], seconds=70), tmp_path, model, long_form="chunked")
    (line,) = lines(path)
    # Each of three chunks says all of it, and the overlaps agree.
    assert (line["hypothesis"], line["long_form"], line["tokens"]) == ("bonjour à tous", True, 3 * 15)
    assert [call["features"] for call in model.calls[1:]] == 3 * [(1, 80, 3000)]
    assert not any(call["return_timestamps"] for call in model.calls)
    settings = json.loads(path.with_suffix(".settings.json").read_text(encoding="utf8"))["settings"]
    assert settings["long_form"] == "chunked"


class Slow(FakeModel):
    """The first call takes long, as that of a fresh session does."""

    def generate(self, input_features: torch.Tensor, **arguments: Any) -> dict[str, Any]:
        time.sleep(0.02 if self.calls else 1.5)
        return super().generate(input_features, **arguments)


def test_time_is_warm_and_shared_by_duration(folder: Path, tmp_path: Path) -> None:
    corpus = ToneCorpus(["un", "deux"])
    corpus.rows[1]["duration"] = 1.5
    first, second = lines(evaluate(folder, corpus, tmp_path, Slow(folder, ["un", "deux"]), batch_size=2))
    assert 0.02 <= first["seconds"] + second["seconds"] < 1.0
    assert second["seconds"] == pytest.approx(3 * first["seconds"], rel=1e-3)


class Unguarded(WhisperForConditionalGeneration):
    """Transformers' Whisper, which has no guard to turn off."""

    def generate(self, *arguments: Any, loop_guard: bool, **options: Any) -> Any:
        assert not loop_guard
        return super().generate(*arguments, **options)


def test_on_a_real_whisper_the_limit_is_the_models_own(folder: Path, tmp_path: Path, tiny_whisper_dir: Path) -> None:
    """Configs with lengths of 20 and 225 are about: generation must not end there."""
    model = Unguarded.from_pretrained(tiny_whisper_dir).eval()
    model.generation_config.max_new_tokens = 20
    model.generation_config.max_length = 25
    # Without the end token a transcript has no other end; timestamps would make more windows of it.
    end, first_timestamp = model.generation_config.eos_token_id, model.generation_config.no_timestamps_token_id + 1
    model.generation_config.suppress_tokens = [end, *range(first_timestamp, model.config.vocab_size)]
    path = evaluate(folder, ToneCorpus(["un", "deux"]), tmp_path, model, batch_size=2, loop_guard=False)
    assert [line["hit_length_limit"] for line in lines(path)] == [True, True]
    assert [line["tokens"] for line in lines(path)] == [444, 444]
