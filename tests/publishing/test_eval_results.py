"""`.eval_results/wer.yaml` is what the Hub reads, with the figures of the results, and only for benchmarks."""

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import yaml
from card_sample import BENCHMARK, COMMIT, set_source
from hub_server import Hub
from huggingface_hub import ModelCard

from qat_plugin.publishing import push, render_card, write_card
from qat_plugin.publishing.document import card_document
from qat_plugin.publishing.eval_results import EVAL_RESULTS_FILE, render_eval_results

REPO = "tester/whisper-tiny-int4"


@pytest.fixture
def document(results: dict[str, Any], onnx_folders: dict[str, Path]) -> dict[str, Any]:
    results["corpora"]["studio"]["source"] |= BENCHMARK
    return card_document(results, onnx_folders["qat"])


def entries(document: dict[str, Any]) -> list[dict[str, Any]]:
    return yaml.safe_load(render_eval_results(document) or "[]")


def test_a_benchmark_gets_the_measured_figure(document: dict[str, Any]) -> None:
    assert entries(document) == [
        {
            "dataset": {"id": "someone/studio-fr", "task_id": "french", "revision": COMMIT},
            "value": round(100 * 2 / 19, 2),  # 2 errors in 19 words, counted by hand from the transcripts
            "source": {"url": f"https://huggingface.co/{document['repo_id']}", "name": "Model card"},
            "notes": "WER in percent, normalizer basic, int4, greedy",
        }
    ]
    document["measurements"]["qat"]["studio"]["wer"] = 0.4242
    assert entries(document)[0]["value"] == 42.42
    assert entries(document)[0]["value"] != document["measurements"]["fp"]["studio"]["wer"]


@pytest.mark.skipif(
    not hasattr(huggingface_hub, "EvalResultEntry"), reason="huggingface_hub reads this format from 1.0 on"
)
def test_the_hubs_own_client_reads_and_writes_the_same(
    document: dict[str, Any], hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import eval_result_entries_to_yaml, parse_eval_result_entries

    hub.patch(monkeypatch)
    ModelCard(render_card(document)).validate()  # asks the server, which reads the front matter
    assert hub.requests == ["POST /api/validate-yaml"]
    (entry,) = parsed = parse_eval_result_entries(entries(document))
    assert (entry.dataset_id, entry.task_id, entry.value) == ("someone/studio-fr", "french", 10.53)
    assert entry.dataset_revision == COMMIT
    assert eval_result_entries_to_yaml(parsed) == entries(document)


def test_a_branch_is_no_revision_and_a_folder_no_source(document: dict[str, Any]) -> None:
    document["definitions"]["studio"]["revision"] = "main"
    document["repo_id"] = None
    (entry,) = entries(document)
    assert set(entry["dataset"]) == {"id", "task_id"} and "source" not in entry


@pytest.mark.parametrize("part", [{"max_eval_samples": 100}, {"min_eval_words": 3}])
def test_a_part_of_a_benchmark_is_no_figure_for_its_leaderboard(document: dict[str, Any], part: dict[str, int]) -> None:
    document["recipe"] |= part
    assert render_eval_results(document) is None


def test_what_is_no_benchmark_stays_in_the_model_index_alone(
    card_folder: Path, results_file: Path, onnx_folders: dict[str, Path]
) -> None:
    file = card_folder / EVAL_RESULTS_FILE
    assert not file.exists()
    write_card(set_source(results_file, "studio", **BENCHMARK), onnx_folders["qat"], card_folder)
    (entry,) = yaml.safe_load(file.read_text())
    card = ModelCard.load(card_folder / "README.md")
    shown = {result.dataset_name: result.metric_value for result in card.data.eval_results}
    assert shown == {"studio": entry["value"], "calls": 0.0}
    # A card of other corpora leaves none of them behind.
    write_card(set_source(results_file, "studio", task_id=None), onnx_folders["qat"], card_folder)
    assert not file.exists()


def test_it_is_pushed_with_the_card_and_goes_when_it_is_no_longer_true(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, results_file: Path, onnx_folders: dict[str, Path]
) -> None:
    hub.patch(monkeypatch)
    folder, card = onnx_folders["qat"], tmp_path / "card"
    write_card(set_source(results_file, "studio", **BENCHMARK), folder, card)
    push(folder, card, REPO)
    sent = hub.files(REPO)
    assert sent[EVAL_RESULTS_FILE] == (card / EVAL_RESULTS_FILE).read_bytes()
    document = json.loads((card / "results.json").read_text())
    assert yaml.safe_load(sent[EVAL_RESULTS_FILE])[0]["value"] == round(
        100 * document["measurements"]["qat"]["studio"]["wer"], 2
    )
    write_card(set_source(results_file, "studio", task_id=None), folder, card)
    assert push(folder, card, REPO).removed == (EVAL_RESULTS_FILE,)
    assert EVAL_RESULTS_FILE not in hub.files(REPO)
