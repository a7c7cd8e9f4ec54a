"""The card says what the results say: every figure is looked up, and nothing else about the machine leaks into it."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from card_sample import RECIPE
from huggingface_hub import ModelCard

from qat_plugin.arms import ARMS
from qat_plugin.errors import PublishError
from qat_plugin.publishing import render_card, write_card
from qat_plugin.publishing.document import card_document
from qat_plugin.publishing.languages import CODES, asked_of_clients, hub_language
from qat_plugin.publishing.privacy import public_results


@pytest.fixture
def document(card_folder: Path) -> dict[str, Any]:
    return json.loads((card_folder / "results.json").read_text())


def front_matter(text: str) -> dict[str, Any]:
    return yaml.safe_load(text.split("---\n")[1])


def table(text: str, header: str) -> list[list[str]]:
    """Rows of the table whose header line begins so."""
    lines = text[text.index(header) :].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


def test_front_matter_is_what_the_hub_indexes(card_folder: Path) -> None:
    text = (card_folder / "README.md").read_text()
    data = front_matter(text)
    index = data.pop("model-index")
    assert data == {
        "base_model": "openai/whisper-tiny",
        "base_model_relation": "quantized",
        "datasets": ["someone/big-fr"],
        "language": "fr",
        "library_name": "onnx",
        "license": "apache-2.0",
        "metrics": ["wer"],
        "pipeline_tag": "automatic-speech-recognition",
        "tags": ["whisper", "onnx", "onnxruntime", "quantization", "qat", "quantization-aware-training", "int4"],
    }
    assert [entry["name"] for entry in index] == ["whisper-tiny-int4-qat"]
    studio, calls = index[0]["results"]
    # 2 errors in 19 words, counted by hand from the transcripts.
    assert studio["metrics"] == [{"type": "wer", "value": round(100 * 2 / 19, 2), "name": "WER"}]
    assert studio["dataset"] == {
        "name": "studio", "type": "someone/studio-fr", "config": "fr", "split": "test", "revision": "1234abc",
    }  # fmt: skip
    assert calls["dataset"] == {"name": "calls", "type": "calls"}
    assert calls["metrics"][0]["value"] == 0.0
    # The Hub's own client reads the same figures back.
    shown = {result.dataset_name: result.metric_value for result in ModelCard(text).data.eval_results}
    assert shown == {"studio": 10.53, "calls": 0.0}


def test_two_corpora_of_one_dataset_keep_their_names_in_the_index(
    results: dict[str, Any], onnx_folders: dict[str, Path]
) -> None:
    results["corpora"]["calls"]["source"] = results["corpora"]["studio"]["source"]
    (entry,) = front_matter(render_card(card_document(results, onnx_folders["qat"])))["model-index"][0]["results"]
    assert [metric["name"] for metric in entry["metrics"]] == ["WER", "WER (calls)"]


def test_a_card_says_what_it_does_not_compare_like_with_like(
    results: dict[str, Any], onnx_folders: dict[str, Path]
) -> None:
    results["recipe"] = {**RECIPE, "encoder_context": "auto", "ce_weight": 1.0}
    text = render_card(card_document(results, onnx_folders["qat"]))
    assert "\n“float” computes the whole window of 30 s, as Whisper is usually run; the others fold the silence" in text
    assert "\nThis model was taught by transcripts, and the float model was not trained so for comparison" in text
    results["recipe"] |= {"encoder_context": "full", "ce_weight": 0.0}
    text = render_card(card_document(results, onnx_folders["qat"]))
    assert "whole window" not in text and "taught by transcripts" not in text


def test_main_table_comes_first_and_holds_the_measured_figures(card_folder: Path, results: dict[str, Any]) -> None:
    text = (card_folder / "README.md").read_text()
    assert text.index("| model | format |") < text.index("\n## ")
    rows = {row[1] + row[0]: row for row in table(text, "| model | format |")}
    assert [row[0] for row in rows.values()] == [
        "float", "quantized without training: plain rounding", "**this model**, quantization-aware training",
    ]  # fmt: skip
    low, high = results["measurements"]["qat"]["studio"]["wer_interval"]
    qat = list(rows.values())[2]
    assert qat[1] == "int4"
    assert qat[2] == f"{100 * 2 / 19:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
    assert qat[3] == "0.0"  # four clips are too few for an interval, and so are both corpora
    assert qat[4] == f"{100 * 2 / 27:.1f}"  # counts added, not rates averaged
    size, whole = results["arms"]["qat"]["bytes"], results["arms"]["fp"]["bytes"]
    assert qat[5] == f"{size / 1e6:.1f} MB ({100 * size / whole:.1f} %)"
    assert qat[6] == "40.0x"  # 2.5 s of audio in 0.0625 s


@pytest.mark.parametrize(("corpus", "other", "verdict"), [
    ("studio", "quantized without training: plain rounding", "better"),
    ("studio", "float", "within chance"),
    ("calls", "float", "too few clips to say"),
])  # fmt: skip
def test_differences_say_whether_they_are_beyond_chance(
    card_folder: Path, results: dict[str, Any], corpus: str, other: str, verdict: str
) -> None:
    rows = table((card_folder / "README.md").read_text(), "| corpus | this model against |")
    (row,) = [row for row in rows if row[:2] == [corpus, other]]
    arm = {"float": "fp", "quantized without training: plain rounding": "ptq-rtn"}[other]
    versus = results["measurements"]["qat"][corpus]["versus"][arm]
    assert row[2] == f"{100 * versus['difference']:+.2f}"
    assert row[5] == verdict


def test_worse_beyond_the_interval_is_called_worse(document: dict[str, Any]) -> None:
    versus = document["measurements"]["qat"]["calls"]["versus"]["fp"]
    versus.update(difference=0.031, interval=[0.011, 0.052], relative=0.4, beyond_interval=True)
    row = next(
        r for r in table(render_card(document), "| corpus | this model against |") if r[:2] == ["calls", "float"]
    )
    assert row[2:] == ["+3.10", "+1.10 to +5.20", "+40.00", "worse"]


def test_error_counts_and_loops_are_shown_apart(card_folder: Path) -> None:
    rows = table((card_folder / "README.md").read_text(), "| corpus | model | words |")
    ptq = next(row for row in rows if row[:2] == ["studio", "quantized without training: plain rounding"])
    assert ptq[2:7] == ["57", "9", "12", "9", "15.8"]  # 9 of 57 words
    assert ptq[8:10] == ["3", "25.0"]  # "merci" six times in a row, in three of 12 clips


def test_parity_skips_and_machine_are_quoted(card_folder: Path) -> None:
    text = (card_folder / "README.md").read_text()
    assert table(text, "| | |\n|---|---:|") == [
        ["passed", "yes"],
        ["target", "int4"],
        ["operators: encoder_model.onnx: MatMulNBits", "12"],
        ["operators: decoder_model_merged.onnx: MatMulNBits", "21"],
        ["quantized share", "0.9312"],
        ["max weight only logit difference", "2.5e-06"],
        ["greedy clips", "8"],
        ["greedy identical", "8"],
        ["greedy undecided", "0"],
    ]
    assert "Modules left in float: `model.decoder.layers.0.fc1`." in text
    made = dict(table(text, "| | |\n|---|---|"))
    assert made["learning rate"] == "5e-06"
    assert made["wall time"] == "train 12.6 min, export_qat 31 s"
    assert made["versions"] == "Python 3.11.7, qat_plugin 0.1.0, onnxruntime 1.31.1"
    assert "at commit `abcdef0`" in text


def test_a_figure_of_the_results_that_changes_changes_the_card(document: dict[str, Any]) -> None:
    before = render_card(document)
    assert render_card(document) == before
    document["measurements"]["qat"]["studio"]["wer"] = 0.4242
    after = render_card(document)
    assert "42.4 [" in after
    assert front_matter(after)["model-index"][0]["results"][0]["metrics"][0]["value"] == 42.42
    assert "42.4 [" not in before


def test_no_local_path_is_published(card_folder: Path) -> None:
    for name in ("README.md", "results.json"):
        assert "secret" not in (card_folder / name).read_text()
    assert "mine/manifest.jsonl" in (card_folder / "README.md").read_text()


def test_a_folder_above_a_manifest_with_a_name_is_not_published(
    results: dict[str, Any], onnx_folders: dict[str, Path]
) -> None:
    results["recipe"] |= {"train_data": ["/home/alice/calls.jsonl", "/data/client/talks"]}
    assert card_document(results, onnx_folders["qat"])["recipe"]["train_data"] == ["calls.jsonl", "talks"]


def test_a_part_of_the_test_speech_is_not_published_as_the_whole(
    results: dict[str, Any], onnx_folders: dict[str, Path]
) -> None:
    def rendered() -> str:
        return render_card(card_document(results, onnx_folders["qat"]))

    assert "Of each corpus" not in rendered()
    results["recipe"] |= {"min_eval_words": 4, "max_eval_samples": 50, "sample_seed": 42}
    part, text = "clips with 4 words or more, at most 50 clips, drawn with seed 42", rendered()
    assert f"\n\nOf each corpus: {part}.\n\n" in text
    names = [m["name"] for entry in front_matter(text)["model-index"][0]["results"] for m in entry["metrics"]]
    assert names == [f"WER ({part})"] * len(results["corpora"])


def test_every_arm_has_a_name_of_its_own() -> None:
    described = [arm.description for arm in ARMS.values()]
    assert len(set(described)) == len(described)
    assert not [text for text in described if "the same" in text or any(name in text.split(", ")[0] for name in ARMS)]


def test_no_speaker_is_named(card_folder: Path, results: dict[str, Any], onnx_folders: dict[str, Path]) -> None:
    assert "worst_speakers" not in (card_folder / "results.json").read_text()
    for measurement in (results["measurements"]["qat"]["studio"], results["pooled"]["qat"]):
        measurement["worst_speakers"] = [{"speaker": "Jane Doe", "wer": 0.5}]
    assert "Jane Doe" not in json.dumps(card_document(results, onnx_folders["qat"]))


def test_the_looping_rate_is_that_of_the_results(results: dict[str, Any], onnx_folders: dict[str, Path]) -> None:
    # Of clips that loop or run into the length limit: more than its neighbour, the count of loops, tells.
    results["measurements"]["qat"]["studio"]["looping_rate"] = 0.625
    rows = table(render_card(card_document(results, onnx_folders["qat"])), "| corpus | model | words |")
    (row,) = (row for row in rows if row[0] == "studio" and "this model" in row[1])
    assert row[8:10] == ["0", "62.5"]


def test_utterances_are_named_of_corpora_of_the_hub_alone(
    results: dict[str, Any], onnx_folders: dict[str, Path]
) -> None:
    for measured in (results["measurements"]["qat"]["studio"], results["measurements"]["qat"]["calls"]):
        measured["looping_ids"] = ["u0"]
    results["pooled"]["qat"]["looping_ids"] = ["studio/u0", "calls/u0"]
    document = card_document(results, onnx_folders["qat"])
    assert document["measurements"]["qat"]["studio"]["looping_ids"] == ["u0"]
    assert not [name for name in document["measurements"]["qat"]["calls"] if name.endswith("_ids")]
    assert document["pooled"]["qat"]["looping_ids"] == ["studio/u0"]
    told = json.dumps(public_results(results))
    assert "calls/u" not in told and "secret" not in told.replace(json.dumps(results["recipe"]), "")
    assert results["measurements"]["qat"]["calls"]["looping_ids"] == ["u0"]  # the evaluator's own stay


def test_what_training_heard_of_each_test_corpus(document: dict[str, Any]) -> None:
    def heard() -> list[str]:
        return [row[-2] for row in table(render_card(document), "| corpus | language | utterances |")]

    assert heard() == ["not compared", "not compared"]
    shared = {"same_text": 3, "test_rows": 8, "same_audio": 0, "unchecked": []}
    document["corpora"]["studio"]["overlap"] = shared
    document["corpora"]["calls"]["overlap"] = {**shared, "same_text": 0}
    assert heard() == ["3 of 8 texts", "nothing"]
    # studio is on the Hub: speech of the same dataset in training is told, of whichever split
    document["training"]["corpora"]["big-fr"]["hub_id"] = "someone/studio-fr"
    shared["unchecked"] = ["big-fr", "other"]
    assert heard() == ["its dataset; 3 of 8 texts; not compared with big-fr, other", "nothing"]
    document["corpora"]["calls"]["overlap"]["without_text"] = ["radio"]
    assert heard()[1] == "texts compared as far as known of radio"
    legend = render_card(document).partition("Heard in training:\n")[2].partition("\n\nA test file")[0]
    assert re.findall(r"\*(.*?)\*", legend) == ["nothing", "texts", "its dataset", "not compared"]
    assert "What openai/whisper-tiny had heard of it before is not known" in render_card(document)


def test_the_normalizer_is_named_with_every_table_of_errors(document: dict[str, Any]) -> None:
    document["settings"]["normalizer"] = "french"
    text = render_card(document).partition("## Test speech")[0]
    tables = [part for part in text.split("\n\n") if part.startswith("|")]
    below = [part for part in text.split("\n\n") if "normalized by `french`" in part]
    assert len(tables) == len(below) == 4
    for rows, caption in zip(tables, below, strict=True):
        assert f"{rows}\n\n{caption}" in text


def test_what_was_trained_on_and_where(document: dict[str, Any]) -> None:
    made = dict(table(render_card(document), "| | |\n|---|---|"))
    assert made["training speech"] == "812 samples, 2.7 h"
    assert made["machine of the training"] == "Some GPU, processes: 2"
    document["training"] = {"corpora": {}}  # only arms without training, or an earlier version
    assert "training speech" not in dict(table(render_card(document), "| | |\n|---|---|"))


def test_the_normalizer_and_the_guard_are_named(document: dict[str, Any]) -> None:
    text = render_card(document)
    assert "Normalizer `basic`, for references and transcripts alike: Whisper's BasicTextNormalizer" in text
    guarded = "guard in every arm, in 0 of 18 clips of this model. Optimum, transformers.js and other clients decode without it"
    assert guarded in text
    document["pooled"]["qat"]["loop_cut"] = 2
    assert "in 2 of 18 clips" in render_card(document)
    document["settings"]["loop_guard"] = False
    assert "guard" not in render_card(document).partition("## Limits")[2].partition("## Reproduce")[0]


@pytest.mark.parametrize("target", ["int4", "int8"])
def test_what_shares_a_batch_may_change_a_transcript(document: dict[str, Any], target: str) -> None:
    document["arms"]["qat"]["format"] = target
    said = (
        "- The encoder's activations are quantized over a whole batch: in batches of another size than 1, transcripts"
    )
    assert said in render_card(document)
    document["recipe"]["encoder_context"] = "auto"
    folded = said.replace("whole batch", "whole batch, and silence is folded behind its longest clip")
    assert folded in render_card(document)


def figures(value: Any) -> Iterator[float]:
    """Every number in nested JSON, those within its strings included."""
    if isinstance(value, dict):
        yield from figures([*value, *value.values()])
    elif isinstance(value, list):
        for item in value:
            yield from figures(item)
    elif isinstance(value, str):
        yield from map(float, re.findall(r"\d+(?:\.\d+)?", value))
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield float(value)


UNITS = (1, 100, 1e-6, 1 / 60, 1 / 3600)
"""From results to tables: percent and points, megabytes, minutes and hours."""


def looked_up(text: str, document: dict[str, Any]) -> list[str]:
    """The lines of a card with a number that no figure of the document rounds to; code is run by other tests."""
    known = [abs(figure) * unit for figure in figures(document) for unit in UNITS]
    # made-up words, half of an utterance, Whisper's window, bits, kHz, and where a difference is none
    known += [5, 50, 30, 8, 16, 0]
    # In the hash of a commit, digits on both sides of an e are no number.
    text = text.replace(str(document["git_commit"]), "")
    missing = []
    for line in re.sub(r"```.*?```", "", text, flags=re.DOTALL).splitlines():
        for number in re.findall(r"\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?", line):
            digits = len(number.partition("e")[0].partition(".")[2])
            value = float(number.replace(",", ""))
            step = 10.0**-digits if "e" not in number else value * 10.0**-digits
            if not any(abs(value - figure) <= 0.5001 * step for figure in known):
                missing.append(f"{number} in {line}")
    return missing


def test_every_number_is_one_of_the_results(document: dict[str, Any]) -> None:
    document["arms"]["qat"]["cost"] = {"load_seconds": 0.256, "peak_memory_bytes": 812_400_000}
    text = render_card(document)
    assert len(re.findall(r"^\|.*\d", text, re.MULTILINE)) > 30
    assert looked_up(text, document) == []
    # The look-up finds what is in no results.
    (row,) = [line for line in text.splitlines() if line.startswith("| **this model**") and "40.0x" in line]
    assert looked_up(text.replace(row, row.replace("40.0x", "39.7x")), document) == [
        f"39.7 in {row.replace('40.0x', '39.7x')}"
    ]


def test_what_intervals_were_drawn_from(document: dict[str, Any]) -> None:
    assert "bootstraps over utterances (200 resamples" in render_card(document)
    document["corpora"]["studio"]["interval_unit"] = "speakers"
    assert "over speakers in studio, over utterances elsewhere" in render_card(document)
    document["corpora"]["calls"]["interval_unit"] = "speakers"
    assert "over speakers in studio, calls.\n" in render_card(document)


def test_made_up_speech_and_costs(document: dict[str, Any]) -> None:
    document["arms"]["qat"]["cost"] = {"load_seconds": 0.256, "peak_memory_bytes": 812_400_000}
    rows = table(render_card(document), "| model | utterances with 5 made-up")
    assert rows[1] == ["quantized without training: plain rounding", "0", "3", "6", "not measured", "not measured"]
    assert rows[2][3:] == ["0", "0.26", "812"]
    for measurement in document["pooled"].values():  # results of an earlier version
        del measurement["long_insertions"]
    assert "made-up" not in render_card(document)


def test_a_local_base_model_has_no_hub_id_unless_one_is_given(
    tmp_path: Path, results: dict[str, Any], onnx_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data" / "whisper-tiny").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    results["recipe"] = {**RECIPE, "model_name_or_path": "data/whisper-tiny"}  # looks like a Hub id
    text = render_card(card_document(results, onnx_folders["qat"]))
    assert "base_model" not in text
    assert "whisper-tiny in int4" in text
    # Read elsewhere, training's own record is all that tells the folder from an id.
    results["training"] = {**results["training"], "local_models": {"model_name_or_path": True}}
    monkeypatch.chdir("/")
    elsewhere = render_card(card_document(results, onnx_folders["qat"]))
    assert elsewhere == text and "data/whisper-tiny" not in elsewhere
    results["recipe"]["base_model"] = "openai/whisper-tiny"
    named = render_card(card_document(results, onnx_folders["qat"]))
    assert front_matter(named)["base_model"] == "openai/whisper-tiny"


@pytest.mark.parametrize(
    ("values", "shown", "left_out"),
    [
        ({"max_steps": 9, "num_train_epochs": 3.0}, "max_steps", "num_train_epochs"),
        ({"max_steps": -1, "num_train_epochs": 3.0}, "num_train_epochs", "max_steps"),
        ({"target": "int8", "group_size": 32}, "target", "group_size"),
        ({"target": "int4", "group_size": 32}, "group_size", None),
        ({"kl_weight": 0.0, "distillation_temperature": 2.0}, "kl_weight", "distillation_temperature"),
        ({"learned_scales": False, "scale_learning_rate": 5e-4}, "learned_scales", "scale_learning_rate"),
    ],
)  # fmt: skip
def test_settings_without_effect_are_not_shown(
    results: dict[str, Any], onnx_folders: dict[str, Path], values: dict[str, Any], shown: str, left_out: str | None
) -> None:
    results["recipe"] |= values
    card = render_card(card_document(results, onnx_folders["qat"]))
    recipe = json.loads(card.split("```json\n")[1].split("```")[0])
    assert recipe[shown] == values[shown] and left_out not in recipe
    assert left_out is None or f"| {left_out.replace('_', ' ')} |" not in card


def test_the_recipe_in_the_card_is_one_that_loads(
    tmp_path: Path, results: dict[str, Any], onnx_folders: dict[str, Path]
) -> None:
    from qat_plugin.recipe_loading import load_recipe, recipe_to_dict, shipped_recipes

    chosen = {
        **{
            "streaming": True,
            "max_steps": 10,
            "validation_data": ["data/voices.jsonl"],
            "load_best_model_at_end": True,
            "data_seed": 3,
        },
        **{
            "metric_for_best_model": "wer",
            "eval_strategy": "steps",
            "eval_steps": 5,
            "save_steps": 5,
            "adam_epsilon": 1e-6,
        },
        **{"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 1e-6}},
    }
    (tmp_path / "chosen.json").write_text(
        json.dumps({**json.loads(shipped_recipes()["whisper-base-int4"].read_text()), **chosen})
    )
    for path in [*shipped_recipes().values(), tmp_path / "chosen.json"]:
        given = recipe_to_dict(load_recipe(path))
        results["recipe"] = {**given, "model_name_or_path": "openai/whisper-tiny"}
        text = render_card(card_document(results, onnx_folders["qat"]))
        shown = tmp_path / "shown.json"
        shown.write_text(text.split("```json\n")[1].split("```")[0])
        again = recipe_to_dict(load_recipe(shown, ["--output_dir", "output"]))
        undecided = (
            "output_dir",
            "model_name_or_path",
            "run_name",
            "train_data",
            "validation_data",
            "test_data",
            "save_total_limit",
        )
        if given["max_steps"] > 0:
            undecided += ("num_train_epochs",)
        differing = {name for name in given if again[name] != given[name] and name not in undecided}
        # Evaluation while it trains decides where the best checkpoint is taken.
        free = r"(logging|dataloader|report|do)_" + ("" if given["load_best_model_at_end"] else "|(eval|save)_")
        assert not {name for name in differing if not re.match(free, name)}


def test_corpora_given_by_the_path_of_their_definition_go_by_their_names(
    results: dict[str, Any], onnx_folders: dict[str, Path]
) -> None:
    results["recipe"] |= {"corpora": ["/home/me/secret/studio.json", "calls"], "train_corpora": ["defs/big-fr.json"]}
    results["recipe"]["train_data"] = ["/home/me/secret/studio/manifest.jsonl"]
    document = card_document(results, onnx_folders["qat"])
    assert document["recipe"]["corpora"] == ["studio", "calls"]
    assert document["recipe"]["train_corpora"] == ["big-fr"]
    assert "| train corpora | big-fr |" in render_card(document)


def test_a_training_corpus_of_the_same_name_is_not_taken_for_the_test_corpus(
    results: dict[str, Any], onnx_folders: dict[str, Path]
) -> None:
    document = card_document(results, onnx_folders["qat"])
    assert document["definitions"]["studio"]["hub_id"] == "someone/studio-fr"
    assert document["training"]["corpora"]["studio"]["hub_id"] is None
    assert front_matter(render_card(document))["datasets"] == ["someone/big-fr"]


def test_results_that_do_not_say_where_a_corpus_comes_from_are_refused(
    results: dict[str, Any], onnx_folders: dict[str, Path]
) -> None:
    del results["corpora"]["calls"]["source"]["path"]
    with pytest.raises(PublishError, match=r"where the corpus 'calls' comes from.* delete evaluation/results\.json"):
        card_document(results, onnx_folders["qat"])


def test_without_float_arm_there_is_no_share_and_no_factor(document: dict[str, Any]) -> None:
    for part in ("arms", "measurements", "pooled"):
        document[part] = {"qat": document[part]["qat"]}
    document["arms"]["qat"]["bytes_ratio"] = None
    for measurement in [document["pooled"]["qat"], *document["measurements"]["qat"].values()]:
        measurement["versus"] = {}
    text = render_card(document)
    assert table(text, "| model | format |")[0][-2:] == ["0.0 MB", "40.0x"]
    assert "this model against" not in text


@pytest.mark.parametrize(("part", "name"), [("measurements", "qat"), ("settings", "normalizer"), ("pooled", "qat")])
def test_incomplete_results_name_what_is_missing(document: dict[str, Any], part: str, name: str) -> None:
    del document[part][name]
    with pytest.raises(PublishError, match=rf"the results lack .*{name}.*evaluate"):
        render_card(document)


def test_a_card_needs_results_and_a_passed_parity(
    tmp_path: Path, results_file: Path, onnx_folders: dict[str, Path]
) -> None:
    parity = onnx_folders["qat"] / "parity.json"
    parity.write_text(json.dumps({"passed": False}))
    with pytest.raises(PublishError, match=r"parity\.json: `passed` is False"):
        write_card(results_file, onnx_folders["qat"], tmp_path / "no-card")
    parity.unlink()
    with pytest.raises(PublishError, match=r"parity\.json is missing.*export"):
        write_card(results_file, onnx_folders["qat"], tmp_path / "no-card")
    results_file.unlink()
    with pytest.raises(PublishError, match=r"results\.json is missing: run `qat-plugin evaluate` first"):
        write_card(results_file, onnx_folders["qat"], tmp_path / "no-card")
    assert not (tmp_path / "no-card").exists()


@pytest.mark.parametrize(
    ("parity", "state"), [({"passed": False, "greedy_clips": 8}, "failed on"), (None, "was not run on")]
)
def test_a_card_of_unverified_files_says_so(
    tmp_path: Path, results_file: Path, onnx_folders: dict[str, Path], parity: dict[str, Any] | None, state: str
) -> None:
    file = onnx_folders["qat"] / "parity.json"
    file.write_text(json.dumps(parity)) if parity else file.unlink()
    text = write_card(results_file, onnx_folders["qat"], tmp_path / "card", allow_unverified=True).read_text()
    said = f"> **Not verified.** The check against the trained model {state} these files"
    assert said in text and text.index(said) < text.index("| model | format |")
    assert "Before these files were written, they were compared" not in text


def test_languages_are_whispers() -> None:
    from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

    assert CODES == TO_LANGUAGE_CODE
    assert [hub_language(name) for name in ("French", "fr", "javanese", "jv")] == ["fr", "fr", "jv", "jv"]
    settings = {"generation_config": {}, "language": "Javanese", "task": "transcribe"}
    assert asked_of_clients(settings) == {"language": "jw", "task": "transcribe"}  # what Whisper's tokens say
    with pytest.raises(PublishError, match="language is 'frensh'"):
        hub_language("frensh")


def test_an_english_only_model_is_not_asked_for_a_language(document: dict[str, Any]) -> None:
    # transformers' pipeline would take five beams by itself, and say something else than was measured.
    assert 'generate_kwargs={"language": "fr", "num_beams": 1, "task": "transcribe"}' in render_card(document)
    document["settings"]["language"] = "english"
    document["settings"]["generation_config"] = {"is_multilingual": False}
    text = render_card(document)
    assert (
        'print(transcriber(audio, generate_kwargs={"num_beams": 1})["text"].strip())' in text
        and 'transcriber("clip.wav");' in text
    )
    assert re.search(r"qat-plugin transcribe \S+ clip\.mp3`", text)
