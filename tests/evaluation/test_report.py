"""Table, report and plots say what results.json says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import exported_folder, write_transcripts
from matplotlib.image import imread

from qat_plugin.evaluation.baselines import baseline_notes
from qat_plugin.evaluation.bootstrap import MIN_UNITS
from qat_plugin.evaluation.folder_files import list_files
from qat_plugin.evaluation.plots import _degradation, _events, _side_by_side, draw_plots
from qat_plugin.evaluation.report import findings, render_report, render_table
from qat_plugin.evaluation.results import collect_results
from qat_plugin.normalizers import NORMALIZERS

REFERENCE = "un deux trois quatre cinq six sept huit neuf dix"


@pytest.fixture
def results(tmp_path: Path, tiny_whisper_dir: Path) -> dict[str, Any]:
    """Two corpora of 20 utterances; ptq loses a word in each, qat in one utterance."""
    folders = {arm: exported_folder(tmp_path, tiny_whisper_dir, arm, 10_000) for arm in ("fp", "ptq-rtn", "qat")}
    short = REFERENCE.removesuffix(" dix")
    heard = {"fp": [REFERENCE] * 20, "ptq-rtn": [short] * 20, "qat": [short] + [REFERENCE] * 19}
    for corpus in ("studio", "street"):
        for arm, folder in folders.items():
            texts = [(REFERENCE, text) for text in heard[arm]]
            if corpus == "street" and arm == "fp":
                texts[0] = (REFERENCE, REFERENCE + " et" * 8)
            write_transcripts(tmp_path / "evaluation", corpus, arm, list_files(folder), texts)
    return collect_results(
        tmp_path / "evaluation", folders, ["studio", "street"], normalizer="basic", git_commit="abc123",
        recipe={"model_name_or_path": "openai/whisper-base"}, step_seconds={"train": 300.0, "evaluate": 20.4},
    )  # fmt: skip


def cells(text: str, *start: str, under: str = "") -> list[str]:
    """The cells of the table row that begins with these; of the part under that heading, if one is given."""
    text = text.split(f"## {under}\n")[1].split("\n## ")[0] if under else text
    lines = [[cell.strip() for cell in line.strip("| ").split("|")] for line in text.splitlines() if "|" in line]
    (found,) = [line for line in lines if line[: len(start)] == list(start)]
    return found


def test_table(results: dict[str, Any]) -> None:
    table = render_table(results)
    size, of_fp = results["arms"]["qat"]["bytes"], results["arms"]["fp"]["bytes"]
    lines = [line.split() for line in table.splitlines()]
    assert lines[0] == ["corpus", "model", "format", "WER", "%", "95", "%", "interval", "vs", "fp", "size", "speed"]
    assert ["studio", "ptq-rtn", "int4", "10.0", "10.0", "to", "10.0", "+10.00"] in [line[:8] for line in lines]
    (qat,) = [line for line in lines if line[:2] == ["studio", "qat"]]
    assert qat[3] == "0.5" and qat[7] == "+0.50"
    assert qat[8:] == [f"{size / 1e6:.1f}", "MB", f"({100 * size / of_fp:.1f}", "%)", "4.0x"]
    assert ["street", "fp", "float32", "4.0"] in [line[:4] for line in lines]  # eight insertions in 200 words
    assert ["all", "corpora", "ptq-rtn", "int4", "10.0"] in [line[:5] for line in lines]
    assert "* all corpora: qat is 9.50 points better than ptq-rtn (0.5 against 10.0 % WER)" in table
    assert max(map(len, table.splitlines())) <= 120


def test_findings_say_how_sure_they_are(results: dict[str, Any]) -> None:
    sentences = findings(results)
    assert [s.split(" (")[0] for s in sentences] == [
        "all corpora: ptq-rtn is 8.00 points worse than fp",
        "all corpora: qat is 1.50 points better than fp",
        "all corpora: qat is 9.50 points better than ptq-rtn",
    ]
    sure = sentences[2]
    low, high = results["pooled"]["qat"]["versus"]["ptq-rtn"]["interval"]
    expected = f"95 % interval {100 * low:+.2f} to {100 * high:+.2f} points, {100 * (high - low):.2f} wide"
    assert f"{expected}; 0 lies outside, so the difference is beyond its interval." in sure
    unsure = sentences[1]
    assert unsure.endswith("0 lies inside, so this speech does not tell the two apart.")


def without_verdict(measurement: dict[str, Any]) -> None:
    measurement["wer_interval"] = None
    for versus in measurement["versus"].values():
        versus.update(interval=None, relative_interval=None, p_value=None, beyond_interval=None)


def test_of_few_clips_it_is_said_that_they_are_few(results: dict[str, Any], tmp_path: Path) -> None:
    results["corpora"]["street"]["interval_units"] = 2
    for arm in results["arms"]:
        without_verdict(results["measurements"][arm]["street"])
        without_verdict(results["pooled"][arm])
    report, table = render_report(results), render_table(results)
    row = cells(report, "street", "qat", "fp", under="Differences")
    assert (row[4], *row[6:]) == ("too few clips to say", "n/a", "n/a", "too few clips to say")
    assert cells(report, "qat", "int4")[3].startswith("0.5 (")
    assert "too few clips to say" in next(line for line in table.splitlines() if line.split()[:2] == ["street", "qat"])
    # The corpus that has clips enough speaks for itself, and the other is named.
    assert [sentence.partition(":")[0] for sentence in findings(results)] == ["studio"] * 3 + ["street"]
    assert (
        findings(results)[-1]
        == f"street: too few clips to say how sure its figures are: 2, where {MIN_UNITS} are needed."
    )
    names = {path.name for path in draw_plots(results, tmp_path)}
    assert "wer_by_corpus.png" in names


def test_report(results: dict[str, Any]) -> None:
    report = render_report(results, ["wer_by_corpus.png"])
    assert report.startswith("# Evaluation of openai/whisper-base\n")
    assert cells(report, "model") == [
        "model", "format", "studio: WER %", "street: WER %", "all corpora: WER %", "size", "speed"
    ]  # fmt: skip
    assert cells(report, "ptq-rtn", "int4")[2] == "10.0 [10.0, 10.0] (+10.00)"
    errors = ["0", "0", "8", "200"]
    row = cells(report, "street", "fp", under="Errors")
    assert row[2:6] == errors and row[7:10] == ["1", "0", "5.0"]  # one of twenty clips loops
    difference = cells(report, "all corpora", "ptq-rtn", "fp")
    assert difference[3] == "+8.00" and difference[5] == "+400.00" and difference[8] == "yes"
    assert cells(report, "studio", "qat", "fp")[5:7] == ["n/a", "n/a"]  # fp has no error there
    for name, entry in results["arms"]["qat"]["files"].items():
        assert cells(report, "qat", f"`{name}`")[2:] == [f"{entry['bytes']:,}", f"`{entry['sha256']}`"]
    for fact in ("![wer_by_corpus.png](wer_by_corpus.png)", "normalizer 'basic'", "greedy", "one utterance at a time",
                 "2 threads on 2 logical cores of Example CPU (avx2)", "code at commit abc123", "step train: 5.0 min",
                 "step evaluate: 20 s", "2000 resamples"):  # fmt: skip
        assert fact in report


def test_where_errors_lie(results: dict[str, Any]) -> None:
    report = render_report(results)
    made_up = "Made-up speech and lost clips"
    # eight words in a row that nobody said, in one of 20 utterances
    assert cells(report, "street", "fp", under=made_up)[2:] == ["1 (5.0 %)", "8", "1 (5.0 %)", "0 (0.0 %)"]
    assert cells(report, "all corpora", "qat", under=made_up)[2:] == ["0 (0.0 %)", "0", "0 (0.0 %)", "0 (0.0 %)"]
    assert cells(report, "street", "0 to 2", under="By length") == [
        "street",
        "0 to 2",
        "20",
        "200",
        "4.0",
        "10.0",
        "0.5",
    ]
    # Three speakers of seven, seven and six utterances: ptq loses one word in ten on each, qat one of s0's.
    assert cells(report, "street", "s0", under="Hardest speakers") == ["street", "s0", "7", "70", "11.4", "10.0", "1.4"]
    assert cells(report, "street", "fp", under="By speaker")[2:] == ["3", "0.0", "0.0", "11.4"]
    assert cells(report, "street", "ptq-rtn", under="By speaker")[2:] == ["3", "10.0", "10.0", "10.0"]


def test_what_opening_costs_is_told_where_it_was_measured(results: dict[str, Any]) -> None:
    assert "Opening a model" not in render_report(results)
    results["arms"]["qat"]["cost"] = {
        "load_seconds": 0.456, "clip_seconds": 12.0, "peak_memory_bytes": 800_400_000, "libraries_memory_bytes": 400_000_000,
    }  # fmt: skip
    report = render_report(results)
    assert cells(report, "qat", "0.46") == ["qat", "0.46", "800", "400"] and "12.0 s of speech" in report


def test_what_was_resampled_is_told(results: dict[str, Any]) -> None:
    report = render_report(results)
    assert f"bootstrap over studio: 20 utterances (of 3 known speakers, where {MIN_UNITS}" in report
    results["corpora"]["studio"] |= {"interval_unit": "speakers", "interval_units": 9}
    results["corpora"]["street"]["speakers"] = None
    report = render_report(results)
    assert "bootstrap over studio: 9 speakers; street: 20 utterances (speakers are unknown: " in report


def test_normalizer_is_named_with_every_table(results: dict[str, Any]) -> None:
    assert "texts normalized by 'basic'" in " ".join(render_table(results).split())
    report = render_report(results)
    assert "texts normalized by 'basic'" in report.split("## ")[0] and NORMALIZERS["basic"] in report
    errors = ("Errors", "Made-up speech and lost clips", "By length", "By speaker", "Hardest speakers", "Differences")
    for heading in errors:
        text, table = report.split(f"## {heading}\n\n")[1].split("\n\n")[:2]
        assert "texts normalized by 'basic'" in text and table.startswith("|"), heading


def test_older_results_are_shown_without_what_they_lack(results: dict[str, Any]) -> None:
    for measurement in [m for arm in results["measurements"].values() for m in arm.values()] + list(
        results["pooled"].values()
    ):
        del measurement["by_duration"], measurement["looping_rate"], measurement["speaker_spread"]
    for corpus in results["corpora"].values():
        del corpus["interval_unit"]
    report = render_report(results)
    assert "By length" not in report and "bootstrap over utterances, expanded percentile" in report


def test_one_corpus_is_not_pooled(results: dict[str, Any]) -> None:
    del results["corpora"]["street"]
    assert "all corpora" not in render_report(results) and "all corpora" not in render_table(results)


def test_plots(results: dict[str, Any], tmp_path: Path) -> None:
    log = [
        {"step": 5, "loss": 0.5, "loss_kl": 0.2},
        {"step": 10, "loss": 0.3, "loss_kl": 0.1},
        {"step": 10, "train_runtime": 9},
    ]
    paths = draw_plots(results, tmp_path, log)
    names = [
        "wer_by_corpus.png",
        "degradation.png",
        "wer_by_size.png",
        "wer_by_speed.png",
        "errors.png",
        "training.png",
    ]
    assert [path.name for path in paths] == names
    before = [path.read_bytes() for path in paths]
    fp, ptq, qat, dark_fp = (0, 0, 0), (230, 159, 0), (0, 114, 178), (230, 230, 230)
    shown = {
        # the markers of fp, ptq-rtn and qat are all in the picture
        **{name: {fp, ptq, qat} for name in ("wer_by_corpus", "wer_by_size", "wer_by_speed")},
        "degradation": {ptq, qat},
        # deletions and insertions; there is no substitution
        "errors": {qat, ptq},
        # the loss, and its part
        "training": {qat, ptq},
    }
    for name, expected in shown.items():
        for suffix, paper, ink in (("", (255, 255, 255), fp), ("-dark", (24, 26, 27), dark_fp)):
            pixels = np.round(imread(tmp_path / f"{name}{suffix}.png")[..., :3] * 255).astype(int)
            packed = np.unique(pixels @ [65536, 256, 1])
            colours = {(value >> 16, value >> 8 & 255, value & 255) for value in packed.tolist()}
            # Text and axes have the ink of the page, whichever it is.
            assert {ink if colour == fp else colour for colour in expected} | {ink} <= colours, name + suffix
            # nothing is cut off: the rim is empty
            rim = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
            assert (rim == paper).all()
    draw_plots(results, tmp_path, log)
    assert [path.read_bytes() for path in paths] == before


def test_degradation_shows_the_paired_intervals(results: dict[str, Any]) -> None:
    """Not those of the arms' WER: what is hard for both cancels out."""
    figure = _degradation(results)
    panels = dict(zip(["studio", "street", "all corpora"], figure.axes, strict=True))
    for corpus, axes in panels.items():
        assert axes.get_title() == corpus
        measurements = {**{arm: ms.get(corpus) for arm, ms in results["measurements"].items()}}
        if corpus == "all corpora":
            measurements = results["pooled"]
        drawn = [bar.get_segments()[0][:, 1] for bar in axes.collections]
        expected = [measurements[arm]["versus"]["fp"]["interval"] for arm in ("ptq-rtn", "qat")]
        assert np.allclose(drawn, 100 * np.array(expected))
        low, high = axes.get_ylim()
        assert low < min(0, np.min(drawn)) and high > max(0, np.max(drawn))


def test_without_fp_nothing_is_said_of_it(results: dict[str, Any], tmp_path: Path) -> None:
    del results["arms"]["fp"], results["measurements"]["fp"], results["pooled"]["fp"]
    for measurement in [m for arm in results["measurements"].values() for m in arm.values()] + list(
        results["pooled"].values()
    ):
        measurement["versus"].pop("fp", None)
    for described in results["arms"].values():
        described["bytes_ratio"] = None
    report, table = render_report(results), render_table(results)
    for text in (report, table):
        assert "fp" not in text.replace("fp-", "")
    assert len(findings(results)) == 1 and findings(results)[0].startswith(
        "all corpora: qat is 9.50 points better than ptq-rtn"
    )
    assert "degradation.png" not in [path.name for path in draw_plots(results, tmp_path)]


def test_what_is_not_like_with_like_is_said(results: dict[str, Any]) -> None:
    results["recipe"] |= {"encoder_context": "auto", "ce_weight": 1.0}
    for text in (" ".join(render_table(results).split()), render_report(results)):
        assert "fp computes the whole window of 30 s, as Whisper is usually run; the others fold the silence" in text
        assert "how much of the differences is due to quantization was not measured (the arm fp-auto)." in text
        assert "qat was taught by transcripts, and the float model was not trained so for comparison" in text
    taught = results["recipe"] | {"ce_weight": 0.0, "teacher_model_name_or_path": "openai/whisper-large-v3"}
    assert "qat was taught by another model, and" in render_report(results | {"recipe": taught})
    # With both controls in the table, the one is named and the other needs no word.
    for name in ("arms", "measurements", "pooled"):
        results[name] = {
            "fp": results[name]["fp"],
            **dict.fromkeys(("fp-auto", "fp-ft"), results[name]["fp"]),
            **results[name],
        }
    told = render_report(results)
    assert "by itself: compare with fp-auto to see what quantization alone does." in told and "taught by" not in told
    # One arm alone is compared with none.
    alone = {name: {"qat": results[name]["qat"]} for name in ("arms", "measurements", "pooled")}
    assert baseline_notes(results | alone) == []
    results["recipe"] |= {"encoder_context": "full"}
    assert "whole window" not in render_report(results)


@pytest.mark.parametrize("arm", ["fp", "qat"])
def test_one_arm_is_compared_with_none(results: dict[str, Any], tmp_path: Path, arm: str) -> None:
    for name in ("arms", "measurements", "pooled"):
        results[name] = {arm: results[name][arm]}
    for measurement in [*results["measurements"][arm].values(), results["pooled"][arm]]:
        measurement["versus"] = {}
    if arm == "qat":
        results["arms"][arm]["bytes_ratio"] = None
    report, table = render_report(results), render_table(results)
    (sentence,) = findings(results)
    low, high = (100 * bound for bound in results["pooled"][arm]["wer_interval"])
    wer = 100 * results["pooled"][arm]["wer"]
    assert sentence == (
        f"all corpora: {arm} has {wer:.1f} % WER, 95 % interval {low:.1f} to {high:.1f} %; no other arm was measured to "
        "compare it with."
    )
    assert f"- {sentence}" in report and sentence[:60] in table
    for text in (report, table):
        assert (
            "difference" not in text
            and "vs fp" not in text
            and "share of fp" not in text
            and "## Differences" not in text
        )
    assert "degradation.png" not in [path.name for path in draw_plots(results, tmp_path)]


def test_shared_texts_are_told(results: dict[str, Any]) -> None:
    assert cells(render_report(results), "studio", "fr", under="Speech")[-1] == "not compared"
    results["corpora"]["studio"]["overlap"] = {"test_rows": 20, "same_text": 3, "same_audio": 0, "unchecked": []}
    results["corpora"]["street"]["overlap"] = {"test_rows": 20, "same_text": 0, "same_audio": 0, "unchecked": ["radio"]}
    report = render_report(results)
    assert cells(report, "studio", "fr", under="Speech")[-1] == "3 (15.0 %)"
    assert cells(report, "street", "fr", under="Speech")[-1] == "0 (0.0 %), without radio"
    results["corpora"]["street"]["overlap"]["without_text"] = ["calls"]
    assert (
        cells(render_report(results), "street", "fr", under="Speech")[-1]
        == "0 (0.0 %), without radio, as far as known of calls"
    )
    results["corpora"]["street"]["overlap"] = {"test_rows": 0, "same_text": 0, "same_audio": 0, "unchecked": ["radio"]}
    assert cells(render_report(results), "street", "fr", under="Speech")[-1] == "not compared"


def test_a_part_of_the_test_speech_is_not_shown_as_the_whole(results: dict[str, Any]) -> None:
    assert "Of each corpus" not in render_report(results)
    results["recipe"] |= {"min_eval_words": 4, "max_eval_samples": 50, "sample_seed": 42}
    assert "\n\nOf each corpus: clips with 4 words or more, at most 50 clips, drawn with seed 42.\n\n" in render_report(
        results
    )


def test_no_training_no_curve(results: dict[str, Any], tmp_path: Path) -> None:
    assert "training.png" not in [path.name for path in draw_plots(results, tmp_path)]


def test_markers_that_would_hide_each_other_stand_apart() -> None:
    assert _side_by_side({"fp": 100.0, "a": 10.0, "b": 50.0}, 5.0) == {"fp": 100.0, "a": 10.0, "b": 50.0}
    places = _side_by_side({"fp": 100.0, "b": 12.0, "a": 10.0, "c": 14.0}, 5.0)
    assert places == {"fp": 100.0, "a": 7.0, "b": 12.0, "c": 17.0} and list(places) == ["fp", "b", "a", "c"]


def test_events_of_the_schedule() -> None:
    recipe = {"warmup_steps": 5, "fake_quant_start_step": 0, "freeze_scales_step": 80}
    start = (0, "fake quantization starts")
    assert _events(recipe, 100) == [(5, "warm-up ends"), start, (80, "scales stand still")]
    assert _events({**recipe, "warmup_steps": 0, "freeze_scales_step": None}, 100) == [start]
    assert _events({"warmup_steps": 0.1, "fake_quant_start_step": 20, "freeze_scales_step": None}, 100) == [
        (10, "warm-up ends"),
        (20, "fake quantization starts"),
    ]
    assert _events({"freeze_scales_step": 101}, 100) == []


def test_texts_need_neither_matplotlib_nor_onnxruntime() -> None:
    script = (
        "import sys, qat_plugin.evaluation.plots, qat_plugin.evaluation.report; "
        "print([m for m in ('matplotlib', 'onnxruntime') if m in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    output = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert output.stdout.strip() == "[]"
