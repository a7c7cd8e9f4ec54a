"""results.json from transcripts: values worked out by hand, and what must not be compared."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import ENVIRONMENT, exported_folder, write_transcripts

from qat_plugin.errors import EvaluationError
from qat_plugin.evaluation.bootstrap import MIN_UNITS, paired_difference, wer_interval
from qat_plugin.evaluation.folder_files import list_files
from qat_plugin.evaluation.results import collect_results, read_results, write_results

SPOKEN = ["un deux trois quatre", "C'est l'été !", "", "oui"]
HEARD = {
    "fp": ["un deux trois quatre", "c'est l'été", "", "non"],
    "ptq-rtn": ["un deux toi", "c'est l'été", "euh", "non " * 12],
    "qat": ["un deux trois quatre", "c'est pas l'hiver", "", "oui"],
}


class Run:
    """An output folder with finished transcripts of three arms on two corpora."""

    def __init__(self, tmp_path: Path, tiny_whisper_dir: Path) -> None:
        sizes = {"fp": 50_000, "ptq-rtn": 5_000, "qat": 5_000}
        self.folders = {arm: exported_folder(tmp_path, tiny_whisper_dir, arm, size) for arm, size in sizes.items()}
        self.evaluation = tmp_path / "evaluation"
        for arm in HEARD:
            self.write("studio", arm)
            self.write("street", arm, texts=[("le chat dort bien", "le chat dort bien")] * MIN_UNITS)

    def write(self, corpus: str, arm: str, texts: list[tuple[str, str]] | None = None, **settings: Any) -> Path:
        pairs = texts if texts is not None else list(zip(SPOKEN, HEARD[arm], strict=True))
        settings.setdefault("files", list_files(self.folders[arm]))
        return write_transcripts(self.evaluation, corpus, arm, texts=pairs, **settings)

    def collect(self, arms: tuple[str, ...] = ("qat", "ptq-rtn", "fp"), **arguments: Any) -> dict[str, Any]:
        folders = {arm: self.folders[arm] for arm in arms}
        given = {"normalizer": "basic", "recipe": {"target": "int4"}, "step_seconds": {"train": 61.23}, **arguments}
        return collect_results(self.evaluation, folders, given.pop("corpora", ["studio", "street"]), **given)


@pytest.fixture
def run(tmp_path: Path, tiny_whisper_dir: Path) -> Run:
    return Run(tmp_path, tiny_whisper_dir)


def test_counts(run: Run) -> None:
    results = run.collect()
    assert list(results["arms"]) == ["fp", "ptq-rtn", "qat"]
    fp, ptq, qat = (results["measurements"][arm]["studio"] for arm in results["arms"])

    def counts(m: dict[str, Any]) -> tuple[int, ...]:
        return tuple(m[n] for n in ("substitutions", "deletions", "insertions", "hits", "reference_words"))

    assert counts(fp) == (1, 0, 0, 8, 9)
    # 'toi' for 'trois' and a word lost; a word in the silence; 'non' for 'oui' and eleven more
    assert counts(ptq) == (2, 1, 12, 6, 9)
    assert counts(qat) == (1, 0, 1, 8, 9)  # 'pas', and 'hiver' for 'été'
    assert (fp["wer"], ptq["wer"]) == (pytest.approx(1 / 9, abs=1e-6), pytest.approx(15 / 9, abs=1e-6))
    assert (ptq["looping"], ptq["looping_ids"], fp["looping"]) == (1, ["u3"], 0)
    assert (ptq["audio_seconds"], ptq["wall_seconds"], ptq["rtfx"]) == (8.0, 2.0, 4.0)
    pooled = results["pooled"]["ptq-rtn"]
    assert counts(pooled) == (2, 1, 12, 6 + 4 * MIN_UNITS, 9 + 4 * MIN_UNITS)
    assert pooled["wer"] == pytest.approx(15 / (9 + 4 * MIN_UNITS), abs=1e-6)  # not the mean of 15/9 and 0
    assert pooled["looping_ids"] == ["studio/u3"]
    digest = hashlib.sha256(
        json.dumps(
            [[f"u{i}", text, 2.0, f"s{i % 3}", "fr"] for i, text in enumerate(SPOKEN)], ensure_ascii=False
        ).encode()
    ).hexdigest()
    assert results["corpora"]["studio"] == {
        "utterances": 4, "words": 9, "characters": 20 + 11 + 3, "empty_references": 1, "long_form": 0, "seconds": 8.0,
        "speakers": 3, "languages": ["fr"], "interval_unit": "utterances", "interval_units": 4, "source": None, "overlap": None,
        "sha256": digest,
    }  # fmt: skip
    assert fp["cer"] == pytest.approx(3 / 34, abs=1e-6) and fp["reference_characters"] == 34


def test_differences(run: Run) -> None:
    for arm in HEARD:
        run.write("studio", arm, texts=list(zip(SPOKEN, HEARD[arm], strict=True)) * 3)
    results = run.collect(resamples=500, seed=3)
    assert {arm: list(results["pooled"][arm]["versus"]) for arm in results["arms"]} == {
        "fp": [], "ptq-rtn": ["fp"], "qat": ["fp", "ptq-rtn"],
    }  # fmt: skip
    versus = results["measurements"]["qat"]["studio"]["versus"]["ptq-rtn"]
    assert versus["difference"] == pytest.approx(-13 / 9, abs=1e-6)
    assert versus["relative"] == pytest.approx(-13 / 15, abs=1e-6)
    studio = np.array([[0, 2, 4], [2, 0, 4], [0, 1, 0], [0, 12, 1]] * 3)  # errors of qat, of ptq, words
    street = np.array([[0, 0, 4]] * MIN_UNITS)
    for difference, strata in ((versus, [studio]), (results["pooled"]["qat"]["versus"]["ptq-rtn"], [studio, street])):
        expected = paired_difference(strata, resamples=500, seed=3)
        assert expected.interval is not None
        assert difference["interval"] == pytest.approx([expected.interval.low, expected.interval.high], abs=1e-6)
        assert difference["p_value"] == pytest.approx(expected.p_value, abs=1e-6)
        assert difference["beyond_interval"] is expected.beyond_interval
    interval = wer_interval([studio[:, [0, 2]]], resamples=500, seed=3)
    assert interval is not None
    assert results["measurements"]["qat"]["studio"]["wer_interval"] == pytest.approx(
        [interval.low, interval.high], abs=1e-6
    )
    level = results["measurements"]["qat"]["street"]["versus"]["ptq-rtn"]
    assert (level["difference"], level["relative"], level["beyond_interval"]) == (0, None, False)


def test_of_few_clips_there_is_no_verdict(run: Run) -> None:
    """Neither of four clips, nor of all speech with them in it; the other corpus has its own."""
    results = run.collect()
    groups = {
        "studio": results["measurements"]["qat"]["studio"],
        "street": results["measurements"]["qat"]["street"],
        "pooled": results["pooled"]["qat"],
    }
    for name, measurement in groups.items():
        versus = measurement["versus"]["ptq-rtn"]
        judged = [measurement["wer_interval"], *(versus[key] for key in ("interval", "p_value", "beyond_interval"))]
        assert judged == ([[0, 0], [0, 0], 1, False] if name == "street" else [None] * 4), name
        assert versus["difference"] is not None
    assert groups["studio"]["versus"]["ptq-rtn"]["relative"] == pytest.approx(-13 / 15, abs=1e-6)


def test_speakers_are_resampled_where_there_are_enough(run: Run) -> None:
    texts = [("un deux trois quatre", "un deux trois quatre" if i % 7 else "un deux") for i in range(4 * MIN_UNITS)]
    for arm in HEARD:
        path = run.write("studio", arm, texts=texts)
        lines = [json.loads(line) for line in path.read_text(encoding="utf8").splitlines()]
        for i, line in enumerate(lines):
            line["speaker"] = f"s{i % MIN_UNITS}"
        path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf8")
    results = run.collect(resamples=300)
    units = {name: (c["interval_unit"], c["interval_units"], c["speakers"]) for name, c in results["corpora"].items()}
    assert units == {"studio": ("speakers", MIN_UNITS, MIN_UNITS), "street": ("utterances", MIN_UNITS, 3)}
    said = [range(s, 4 * MIN_UNITS, MIN_UNITS) for s in range(MIN_UNITS)]
    speakers = np.array([[2 * sum(i % 7 == 0 for i in rows), 16] for rows in said])
    expected = wer_interval([speakers], resamples=300)
    measured = results["measurements"]["qat"]["studio"]
    assert measured["wer_interval"] == pytest.approx([expected.low, expected.high], abs=1e-6)
    versus = measured["versus"]["fp"]  # the same transcripts
    assert (versus["difference"], versus["interval"], versus["p_value"]) == (0, [0, 0], 1)
    expected = wer_interval([speakers, np.array([[0, 4]] * MIN_UNITS)], resamples=300)
    assert results["pooled"]["qat"]["wer_interval"] == pytest.approx([expected.low, expected.high], abs=1e-6)


def test_sizes_and_digests_are_those_of_the_files(run: Run) -> None:
    arms = run.collect()["arms"]
    for arm, folder in run.folders.items():
        files = {path.name: path for path in folder.iterdir()}
        assert set(arms[arm]["files"]) == set(files)
        assert arms[arm]["bytes"] == sum(path.stat().st_size for path in files.values())
        for name, entry in arms[arm]["files"].items():
            assert entry["sha256"] == hashlib.sha256(files[name].read_bytes()).hexdigest()
    assert (arms["fp"]["format"], arms["qat"]["format"]) == ("float32", "int4")
    assert arms["fp"]["bytes_ratio"] == 1.0
    assert arms["qat"]["bytes_ratio"] == pytest.approx(arms["qat"]["bytes"] / arms["fp"]["bytes"], abs=1e-6)
    assert arms["qat"]["quantization"] == {"target": "int4", "skip_modules": []}


def test_what_decided_is_told(run: Run) -> None:
    overlap = {"test_rows": 8, "same_text": 1, "same_audio": 0, "unchecked": []}
    source, cost = {"source": "hub", "revision": "1a2b"}, {"load_seconds": 0.5, "peak_memory_bytes": 1_000_000}
    results = run.collect(git_commit="abc", resamples=200, seed=1, costs={"qat": cost}, sources={"studio": source},
                          overlaps={"street": overlap})  # fmt: skip
    assert [results["arms"][arm]["cost"] for arm in results["arms"]] == [None, None, cost]
    assert (results["corpora"]["studio"]["source"], results["corpora"]["street"]["source"]) == (source, None)
    assert (results["corpora"]["studio"]["overlap"], results["corpora"]["street"]["overlap"]) == (None, overlap)
    assert (results["git_commit"], results["recipe"]) == ("abc", {"target": "int4"})
    assert results["step_seconds"] == {"train": 61.2}
    assert results["environment"] == ENVIRONMENT
    assert results["settings"] == {
        "normalizer": "basic", "language": "french", "task": "transcribe", "num_beams": 1, "loop_guard": True,
        "max_target_positions": 448,
        "generation_config": {"max_length": 448}, "batch_size": 1, "num_threads": 2,
        "bootstrap": {"resamples": 200, "seed": 1, "confidence": 0.95, "method": "expanded percentile"},
    }  # fmt: skip


def test_looping_rate_counts_clips_that_loop_or_hit_the_length_limit(run: Run) -> None:
    path = run.evaluation / "studio" / "ptq-rtn.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf8").splitlines()]
    lines[1]["hit_length_limit"] = lines[3]["hit_length_limit"] = True  # u3 loops, too
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf8")
    results = run.collect()
    studio, pooled = results["measurements"]["ptq-rtn"]["studio"], results["pooled"]["ptq-rtn"]
    assert (studio["looping"], studio["hit_length_limit"], studio["looping_rate"]) == (1, 2, 0.5)
    assert pooled["looping_rate"] == pytest.approx(2 / (4 + MIN_UNITS), abs=1e-6)
    assert results["measurements"]["fp"]["studio"]["looping_rate"] == 0


def test_the_normalizer_is_the_same_for_all(run: Run) -> None:
    results = run.collect(normalizer="none")
    assert results["settings"]["normalizer"] == "none"
    assert results["measurements"]["fp"]["studio"]["reference_words"] == 8  # C'est, l'été, !
    assert results["measurements"]["fp"]["studio"]["wer"] == pytest.approx(3 / 8)  # 'c'est', no '!', 'non'


def test_same_transcripts_same_bytes(run: Run, tmp_path: Path) -> None:
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for path, arms in zip(paths, [("qat", "ptq-rtn", "fp"), ("fp", "qat", "ptq-rtn")], strict=True):
        write_results(run.collect(arms, recipe={"target": "int4", "arms": list(arms)}), path)
    assert json.loads(paths[0].read_text(encoding="utf8"))["recipe"]["arms"] == ["fp", "ptq-rtn", "qat"]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert read_results(paths[0]) == json.loads(paths[0].read_text(encoding="utf8"))


def test_without_the_float_arm(run: Run) -> None:
    results = run.collect(("ptq-rtn", "qat"))
    assert results["arms"]["qat"]["bytes_ratio"] is None
    assert list(results["pooled"]["qat"]["versus"]) == ["ptq-rtn"]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("num_beams", 5),
        ("loop_guard", False),
        ("language", "english"),
        ("task", "translate"),
        ("batch_size", 8),
        ("num_threads", 1),
        ("max_target_positions", 225),
        ("generation_config", {"max_length": 20}),
        ("environment", {**ENVIRONMENT, "cpu": "Another CPU"}),
    ],
)
def test_other_settings_are_not_compared(run: Run, setting: str, value: Any) -> None:
    run.write("studio", "qat", **{setting: value})
    message = rf"{setting} is .* in .*fp.jsonl and .* in .*qat.jsonl: such results cannot be compared"
    with pytest.raises(EvaluationError, match=message):
        run.collect()


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (SPOKEN[:3], r"utterance 'u3': .*\('oui', 2.0\) in arm 'fp' and None in arm 'qat'"),
        ([*SPOKEN, "de plus"], r"utterance 'u4': .*None in arm 'fp' and \('de plus', 2.0\) in arm 'qat'"),
        (["un deux", *SPOKEN[1:]], "utterance 'u0': .*same utterances only"),
    ],
)
def test_other_utterances_are_not_compared(run: Run, texts: list[str], message: str) -> None:
    run.write("studio", "qat", texts=[(text, text) for text in texts])
    with pytest.raises(EvaluationError, match=f"corpus 'studio', {message}"):
        run.collect()


def test_an_utterance_twice_is_not_compared(run: Run) -> None:
    path = run.evaluation / "studio" / "qat.jsonl"
    text = path.read_text(encoding="utf8")
    path.write_text(text + text.splitlines(keepends=True)[0], encoding="utf8")
    with pytest.raises(EvaluationError, match="'fp' and 'qat' come in different order or number"):
        run.collect()


def test_other_files_than_those_measured(run: Run) -> None:
    (run.folders["qat"] / "encoder_model.onnx").write_bytes(b"exported again")
    with pytest.raises(EvaluationError, match=r"qat.jsonl: was made with other files than .*onnx/qat holds now"):
        run.collect()


def test_missing_transcripts(run: Run) -> None:
    with pytest.raises(EvaluationError, match=r"radio/fp.jsonl: not there; run the evaluation of this arm and corpus"):
        run.collect(corpora=["studio", "radio"])
    with pytest.raises(EvaluationError, match=r"corpora \[\]: name at least one of each"):
        run.collect(corpora=[])


def test_no_reference_word(run: Run) -> None:
    for arm in HEARD:
        run.write("studio", arm, texts=[("...", "oui")])
    with pytest.raises(EvaluationError, match="'studio': no reference holds a word after the normalizer 'basic'"):
        run.collect()


def test_unreadable_results(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    with pytest.raises(EvaluationError, match="not there; run the evaluation first"):
        read_results(path)
    path.write_text('{"schema_version": 0}', encoding="utf8")
    with pytest.raises(EvaluationError, match="schema_version is 0, this version reads 1"):
        read_results(path)
    path.write_text("{", encoding="utf8")
    with pytest.raises(EvaluationError, match="not JSON"):
        read_results(path)
