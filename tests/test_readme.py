"""What the README says must be true: its commands exist, its code compiles, its figures are those of a results file."""

import json
import re
import shlex
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import save_tiny_whisper
from transformers import (
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    WhisperForConditionalGeneration,
    default_data_collator,
)

from qat_plugin.demo.run import _STEPS_WITHOUT_BF16
from qat_plugin.demo.speech import CORPORA
from qat_plugin.evaluation.report import render_report
from qat_plugin.recipe_loading import load_recipe, shipped_recipes
from qat_plugin.runtime.transcribe import add_transcribe_arguments

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
COMMANDS = [line.split("#")[0].strip() for kind, text in BLOCKS if kind == "bash" for line in text.splitlines()]
DEMO = ROOT / "model_cards" / "whisper-base-fr-int4-demo" / "results.json"
DEMO_FULL = ROOT / "model_cards" / "whisper-base-fr-int4-demo-full" / "results.json"
QUALITY = ROOT / "benchmarks" / "results" / "quality-int4-trained-elsewhere.json"
# Of a training that was told other languages than are spoken.
TOLD = QUALITY.with_name(f"{QUALITY.stem}-told-languages.json")


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make ")])
def test_make_targets_exist(command):
    target = command.split()[1]
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith(("qat-plugin", "accelerate"))])
def test_commands_parse(command):
    words = shlex.split(command)
    if words[0] == "accelerate":
        assert words[1:4] == ["launch", "-m", "qat_plugin.train"]
        words = ["qat-plugin", "train", *words[4:]]
    if words[1] == "transcribe":
        parser = ArgumentParser()
        add_transcribe_arguments(parser)
        assert parser.parse_args(words[2:])
        return
    fields = [word for word in words[3:] if word != "--dry_run"]
    assert words[1] in ("train", "export", "evaluate", "report", "card", "push", "run")
    load_recipe(words[2], fields)


def test_every_shipped_recipe_is_named():
    assert all(f"`{name}`" in README for name in shipped_recipes())


def test_every_licence_of_the_demos_speech_is_named():
    licences = {corpus.license for corpus in CORPORA}
    assert len(licences) == 3
    assert not [name for name in licences if name.replace("-", " ") not in README.replace("-", " ")]


@pytest.mark.parametrize("code", [text for kind, text in BLOCKS if kind == "python"])
def test_python_blocks_compile(code):
    compile(code, "README.md", "exec")


@pytest.mark.parametrize("their_own", [False, True])
def test_the_snippet_for_ones_own_script_trains_and_exports(tmp_path, monkeypatch, their_own):
    (code,) = [text for kind, text in BLOCKS if kind == "python" and "QATTrainer(" in text]
    start = save_tiny_whisper(tmp_path / "start", max_target_positions=12)
    # As many are published.
    WhisperForConditionalGeneration.from_pretrained(start).half().save_pretrained(start)
    assert code.count('"openai/whisper-base"') == 1 and code.count("qat=qat") == 1
    code = code.replace("openai/whisper-base", str(start))
    if their_own:
        assert "keep `Seq2SeqTrainer` and give it `callbacks=[qat]` instead of `qat=qat`" in README
        code = code.replace("QATTrainer(", "Seq2SeqTrainer(").replace("qat=qat", "callbacks=[qat]")
    args = Seq2SeqTrainingArguments(
        output_dir="run", max_steps=2, per_device_train_batch_size=2, learning_rate=1e-3, report_to="none", use_cpu=True,
        remove_unused_columns=False,
    )  # fmt: skip
    rows = [{"input_features": torch.randn(80, 3000), "labels": torch.tensor([7, 8, 9, i])} for i in range(4)]
    audio = np.random.default_rng(0).standard_normal(16000).astype(np.float32) * 0.1
    theirs = {"args": args, "data": rows, "collator": default_data_collator, "audio": audio}
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {**theirs, "Seq2SeqTrainer": Seq2SeqTrainer})
    parity = json.loads((tmp_path / "onnx" / "parity.json").read_text())
    assert parity["passed"] and parity["target"] == "int4"
    loaded = WhisperForConditionalGeneration.from_pretrained(tmp_path / "out")
    assert all(parameter.dtype == torch.float32 for parameter in loaded.parameters())


@pytest.mark.parametrize("path", [DEMO, DEMO_FULL, QUALITY])
def test_tables_are_those_of_the_committed_results(path):
    report = render_report(read(path))
    table = [line for line in report.split("##")[0].splitlines() if line.startswith("|")]
    assert len(table) > 3
    missing = [line for line in table if line not in README]
    assert not missing


def test_what_training_wins_is_what_the_benchmark_measured():
    results = read(QUALITY)
    versus, text = results["pooled"]["qat"]["versus"], " ".join(README.split())
    minutes = f"{results['step_seconds']['train'] / 60:.0f} minutes"
    assert f"trained {length_of(results)} on an H100, {minutes}, on less than four hours of other voices" in text
    assert "H100" in results["training"]["device"] and 3 < results["training"]["seconds"] / 3600 < 4
    more, than_folded = (f"{100 * versus[arm]['difference']:.2f}" for arm in ("fp", "fp-auto"))
    assert (
        f"makes {more} points more errors than float as Whisper is usually run (`fp`) {interval(versus['fp'])}" in text
    )
    folded = f"float with silence folded in the same way (`fp-auto`) {interval(versus['fp-auto'])}"
    assert f"and {than_folded} more than {folded}" in text
    folding = results["pooled"]["fp-auto"]["versus"]["fp"]["difference"]
    assert f"folding alone makes {-100 * folding:.2f} points fewer" in text
    assert all(versus[f"ptq-{rival}"]["interval"][1] < 0 for rival in ("rtn", "kquant", "hqq", "mse", "gptq"))
    gptq = versus["ptq-gptq"]
    assert f"{-100 * gptq['difference']:.2f} points better than GPTQ in the same format" in text
    assert f"where training starts (p = {gptq['p_value']:.3f})" in text
    words, heard, of_folded, heard_of_folded = shares(results)
    assert f"That is {words} of what GPTQ loses to `fp`, {heard} of substitutions and deletions alone" in text
    assert f"of what it loses to `fp-auto`, {of_folded} and {heard_of_folded}." in text


def test_how_much_of_it_is_fine_tuning_is_what_the_benchmark_measured():
    text, told, larger = " ".join(README.split()), read(TOLD), read(QUALITY.with_name(f"{QUALITY.stem}-control.json"))
    assert (
        f"One of {length_of(told)}, about half of which were told another language than is spoken, an option that won nothing and is "
        f"gone, was {better_than_control(told)} ([results](benchmarks/results/{TOLD.name}))."
    ) in text
    before, after = (f"{100 * each['arms']['qat']['bytes_ratio']:.1f}" for each in (read(QUALITY), larger))
    assert (
        f"One of {length_of(larger)} with four more parts in 8 bits (`int8_modules`), which take its files from {before} to {after} % "
        f"of float32, was {better_than_control(larger)} ([results](benchmarks/results/{QUALITY.stem}-control.json))."
    ) in text
    # The four Linear layers of an attention are one part, fc1 and fc2 one each.
    parts = {
        "model.encoder.layers.0.self_attn.*": 1,
        "model.encoder.layers.4.*": 3,
        "model.encoder.layers.5.fc2": 1,
        "model.decoder.layers.5.encoder_attn.*": 1,
        "model.decoder.layers.5.fc*": 2,
    }
    fewer = {"model.encoder.layers.0.self_attn.*": 1, "model.encoder.layers.4.fc*": 2, "model.decoder.layers.5.fc2": 1}
    assert {*larger["recipe"]["int8_modules"]} == {*parts} and {*told["recipe"]["int8_modules"]} == {*fewer}
    assert sum(parts.values()) == sum(fewer.values()) + 4
    shipped = read(ROOT / "recipes" / "whisper-base-int4.json")
    assert {*shipped["int8_modules"]} == {*fewer}
    assert all("H100" in each["training"]["device"] for each in (told, larger))


def test_how_rough_it_is_is_what_the_benchmark_measured():
    """Two trainings of the same length, GPTQ twice, and what test and training speech share."""
    told, spoken, calibrated = read(TOLD), read(QUALITY), read(QUALITY.with_name("quality-int4-300-steps.json"))
    trained = {name: value for name, value in told["recipe"].items() if name not in ("arms", "num_train_epochs")}
    assert trained.pop("pseudo_label_languages") == ["es", "it", "fr", "pt", "nl"]
    assert {name: spoken["recipe"].get(name) for name in trained} == trained
    spanish = (
        f"{100 * each['measurements']['qat']['es']['versus']['fp']['difference']:+.2f}" for each in (told, spoken)
    )
    words, heard, *_ = shares(told)
    gptq = (f"{100 * each['pooled']['ptq-gptq']['wer']:.1f} %" for each in (spoken, calibrated))
    assert calibrated["recipe"]["bf16"]
    # Of the results, those that counted texts by their words.
    (french, spanish_texts) = (calibrated["corpora"][name]["overlap"] for name in ("asterisk_fr", "es"))
    assert {*calibrated["recipe"]["train_data"]} == {*spoken["recipe"]["train_data"]}
    assert not any(corpus["overlap"]["same_audio"] for corpus in calibrated["corpora"].values())
    assert (
        f"The first of these two came to {100 * told['pooled']['qat']['versus']['fp']['difference']:.2f} points from `fp`, {words} of "
        f"what GPTQ loses and {heard} of substitutions and deletions, and on Spanish to {' points instead of '.join(spanish)}. GPTQ itself "
        f"came to {' here and to '.join(gptq)} where it was calibrated in bf16 "
        "([results](benchmarks/results/quality-int4-300-steps.json)). Of the test clips, "
        f"{french['same_text']} of {french['test_rows']} French prompts and {spanish_texts['same_text']} of "
        f"{spanish_texts['test_rows']} Spanish ones have the words of a training clip, spoken by another voice."
    ) in " ".join(README.split())


def test_what_training_does_for_languages_that_it_does_not_hear_is_what_the_benchmark_measured():
    """The same files as in the tables, on other speech; by words, whichever way it goes."""
    path = QUALITY.with_name("quality-int4-unheard-trained-elsewhere.json")
    there, here = read(path), read(QUALITY)
    assert list(there["corpora"]) == ["pt", "nl"] and there["recipe"]["train_data"] == here["recipe"]["train_data"]
    for arm in ("fp", "fp-auto", "ptq-gptq", "qat"):
        assert there["arms"][arm]["files"] == here["arms"][arm]["files"]
    versus, words = there["pooled"]["qat"]["versus"], there["pooled"]["qat"]["reference_words"]

    def told(arm: str, name: str) -> str:
        points = 100 * versus[arm]["difference"]
        return f"{abs(points):.2f} points {'more' if points > 0 else 'fewer'} than {name} {interval(versus[arm])}"

    assert (
        f"on Portuguese and Dutch that people recorded at home, {words} words, of which it heard nothing at all, the same model "
        f"makes {told('ptq-gptq', 'GPTQ')}, {told('fp-auto', '`fp-auto`')} and {told('fp', '`fp`')} "
        f"([results](benchmarks/results/{path.name}))."
    ) in " ".join(README.split())


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf8"))


def length_of(results: dict[str, Any]) -> str:
    recipe = results["recipe"]
    return f"{recipe['max_steps']} steps of {recipe['per_device_train_batch_size']} clips"


def better_than_control(results: dict[str, Any]) -> str:
    """How many points fewer than `ptq-ft`, with the interval of the gain."""
    versus = results["pooled"]["qat"]["versus"]["ptq-ft"]
    low, high = versus["interval"]
    return f"{-100 * versus['difference']:.2f} points better than its control {interval({'interval': [-high, -low]})}"


def shares(results: dict[str, Any]) -> list[str]:
    """Of what GPTQ loses, to `fp` in words and in substitutions and deletions, to `fp-auto` likewise."""
    kinds = ("words", "substitutions and deletions")
    return [f"{100 * won_back(results, arm, kind):.0f} %" for arm in ("fp", "fp-auto") for kind in kinds]


def test_what_training_on_a_cpu_wins_is_what_the_benchmark_measured():
    text = " ".join(README.split())

    def measured(suffix: str) -> tuple[dict[str, Any], list[str], str, str, str]:
        """Results of a run, and what README says of it: points to both float arms, share of the gap, source, p."""
        file = f"quality-int4{suffix}.json"
        results = read(QUALITY.parent / file)
        versus = results["pooled"]["qat"]["versus"]
        lost = [f"{100 * versus[arm]['difference']:.2f}" for arm in ("fp", "fp-auto")]
        source = f"[results](benchmarks/results/{file}), commit {results['commit'][:7]}"
        p_value = f"p = {versus['ptq-gptq']['p_value']:.2f}"
        return results, lost, f"{100 * won_back(results):.0f} %", source, p_value

    fast, lost, won, source, p = measured("")
    assert (
        f"`make bench-quality` trains on two CPU cores instead, {length_of(fast)}: {lost[0]} points from `fp` and {lost[1]} from "
        f"`fp-auto` on a CPU with VNNI and bf16 ({source}), {won} of what GPTQ loses to `fp` ({p})."
    ) in text
    half, lost, won, source, p = measured("-300-steps")
    assert f"{half['recipe']['max_steps']} steps came to {lost[0]} and {lost[1]} points, {won} ({source}, {p})" in text
    told, lost, won, source, p = measured("-told-languages")
    assert f"as many, told other languages, to {lost[0]} and {lost[1]}, {won} ({source}, {p})." in text
    slow, lost, won, source, p = measured("-without-vnni")
    batch = slow["recipe"]["per_device_train_batch_size"]
    assert (
        f"one part in 8 bits and batches of {batch}, won {won}: {lost[0]} and {lost[1]} points ({source}, {p})" in text
    )
    assert all(results["recipe"]["per_device_train_batch_size"] == 8 for results in (fast, half, told))
    assert all(results["recipe"]["learning_rate"] == 5e-6 for results in (fast, half, told))
    clips = [
        each["recipe"]["max_steps"] * each["recipe"]["per_device_train_batch_size"] for each in (read(QUALITY), fast)
    ]
    assert f"the GPU's training hears {clips[0] / clips[1]:.0f} times as many clips" in text
    assert told["recipe"]["pseudo_label_languages"] == ["es", "it", "fr", "pt", "nl"]
    assert half["recipe"]["max_steps"] == told["recipe"]["max_steps"] == slow["recipe"]["max_steps"] == 300
    assert not any("pseudo_label_languages" in results["recipe"] for results in (fast, slow))
    assert len(slow["recipe"]["int8_modules"]) == 1
    vnni = {"avx512_vnni", "avx_vnni"}
    assert all(vnni & {*results["machine"]["cpu_flags"]} for results in (fast, half, told))
    assert fast["recipe"]["bf16"] and not vnni & {*slow["machine"]["cpu_flags"]}


def won_back(results: dict[str, Any], baseline: str = "fp", kind: str = "words") -> float:
    """Share of what GPTQ loses to a float arm."""
    end = f" - {baseline}) recovered, {kind}"
    return next(f["value"] for f in results["figures"] if f["name"].endswith(end))


def interval(versus: dict[str, Any]) -> str:
    low, high = (100 * bound for bound in versus["interval"])
    return f"[{low:+.2f}, {high:+.2f}]"


def test_what_each_part_of_the_method_is_worth_is_what_the_benchmark_measured():
    text = " ".join(README.split())
    intervals = {row["row"]: row["interval"] for row in read(QUALITY.with_name("ablation.json"))["rows"]}
    worse = (
        ("where training starts", "start: nearest integers, searched scales"),
        ("the speech that it hears", "French prompts alone"),
        ("that the learning rate is not too high", "learning rate 1e-4"),
        ("to learn from transcripts is worse than from the float model", "taught by transcripts (cross entropy)"),
    )
    for claim, row in worse:
        assert claim in text and intervals[row][0] > 0.001, row
    assert "learned scales and which of the float model's outputs teaches hardly differ" in text
    for row in ("scales stand still", "taught by logits alone", "taught by hidden states alone"):
        assert max(map(abs, intervals[row])) < 0.002, row


def test_what_eight_bits_lose_is_what_the_benchmark_measured():
    results = read(QUALITY.parent / "quality-int8.json")
    versus, text = results["pooled"]["qat"]["versus"], " ".join(README.split())
    share = 100 * results["arms"]["qat"]["bytes_ratio"]
    of_fp, of_folded = (f"{100 * versus[arm]['difference']:+.2f} " for arm in ("fp", "fp-auto"))
    assert (
        f"quality-int8.json), commit {results['commit'][:7]}): pooled, {of_fp}points to `fp` "
        f"{interval(versus['fp'])} and {of_folded}to `fp-auto` {interval(versus['fp-auto'])}, at {share:.1f} % of its size"
    ) in text
    assert not results["commit"].endswith("+changes")
    assert all(versus[arm]["beyond_interval"] is False for arm in ("fp", "fp-auto"))


def test_what_a_step_takes_on_a_gpu_is_what_the_benchmark_measured():
    results = read(QUALITY.parent / "gpu.json")
    seconds, text = results["seconds_a_step"], " ".join(README.split())

    def cost(precision: str) -> list[str]:
        step = seconds[f"QAT with distillation, {precision}"]
        others = (seconds[f"{training}, {precision}"] for training in ("fine-tuning", "distillation"))
        return [f"{step:.2f}", *(f"{step / other:.1f}" for other in others)]

    (half, over_plain, over_distillation), full = cost("bf16"), cost("float32")
    assert (
        f"on {results['batch']} clips takes {half} s in bf16, {over_plain} times as long as plain fine-tuning and "
        f"{over_distillation} times as long as distillation"
    ) in text
    assert f"in float32 {full[0]} s, {full[1]} and {full[2]} times as long" in text
    figures = {entry["name"]: entry["value"] for entry in results["figures"]}
    (weights,) = (value for name, value in figures.items() if name.endswith("weights that are equal to the bit"))
    (tokens,) = (value for name, value in figures.items() if name.endswith("next tokens that are equal"))
    assert "H100" in results["gpu"] and weights == 100.0
    assert (
        f"Every weight that the GPU trained is the one that a CPU reads; with them, {tokens:.1f} % of next tokens are the same"
        in text
    )


def test_speeds_are_those_of_the_benchmark():
    results = read(QUALITY.parent / "speed-2-threads.json")
    ratio, text = {entry["name"]: entry["value"] for entry in results["figures"]}, " ".join(README.split())
    over = [f"{ratio[f'int4 auto over {other}']:.1f}" for other in ("faster-whisper int8", "transformers float32")]
    assert f"is {over[0]} times as fast as faster-whisper int8 and {over[1]} times as fast as transformers" in text
    full = [f"{ratio[f'{target} full over faster-whisper int8']:.1f}" for target in ("int8", "int4")]
    assert f"int8 is {full[0]} and int4 {full[1]} times as fast as faster-whisper int8" in text
    assert len(alike := {f"{ratio[f'{target} full over fp32 full']:.1f}" for target in ("int8", "int4")}) == 1
    assert f"and both {alike.pop()} times as fast as the same model in float32" in text
    assert f"On the same model and {results['clips']} clips of {results['mean_seconds']:.1f} s" in text
    assert results["threads"] == 2


def test_speeds_without_vnni_are_those_of_the_benchmark():
    results = read(QUALITY.parent / "speed-2-threads-without-vnni.json")
    assert not {"avx512_vnni", "avx_vnni"} & {*results["machine"]["cpu_flags"]}
    ratio, text = {entry["name"]: entry["value"] for entry in results["figures"]}, " ".join(README.split())
    over = [f"{ratio[f'int4 auto over {other}']:.1f}" for other in ("faster-whisper int8", "transformers float32")]
    assert f"the 4-bit model is {over[0]} and {over[1]} times as fast" in text
    assert (
        results["commit"].endswith("+changes")
        and "by an earlier benchmark from files that were not committed yet" in text
    )
    full = f"{ratio['int4 full over faster-whisper int8']:.1f}"
    assert f"and with the whole window {full} times as fast as faster-whisper int8" in text
    systems = results["systems"]
    other = systems["int4 auto"]["rtfx"] / systems["whisper.cpp q8_0"]["rtfx"]
    assert f"{other:.1f} times as fast as whisper.cpp with 8 bits" in text
    assert f"Opening a 4-bit model takes {systems['int4 auto']['model_peak_mb']:.0f} MB of memory at most" in text


def test_speeds_with_one_thread_are_those_of_the_benchmark():
    over = {}
    for name in ("speed-1-threads", "speed-1-threads-without-vnni"):
        results = read(QUALITY.with_name(f"{name}.json"))
        ratio = {entry["name"]: entry["value"] for entry in results["figures"]}
        over[name] = [f"{ratio[f'{target} full over faster-whisper int8']:.1f}" for target in ("int8", "int4")]
        assert results["threads"] == 1
    (with_vnni, without), text = over.values(), " ".join(README.split())
    assert (
        f"With one thread and the whole window, int8 is {with_vnni[0]} and int4 {with_vnni[1]} times as fast as faster-whisper int8 "
        "with VNNI ([results](benchmarks/results/speed-1-threads.json)), "
        f"{' and '.join(without)} times without ([results](benchmarks/results/speed-1-threads-without-vnni.json))."
    ) in text


def test_memory_of_a_large_model_is_that_of_the_benchmark():
    results = read(QUALITY.parent / "large.json")
    peaks = {entry["name"].partition(":")[0]: entry["value"] for entry in results["figures"] if entry["unit"] == "GB"}
    of_float = peaks.pop("fp")
    most = max(peaks.values())
    parameters = results["steps"]["make"]["parameters"] / 1e6
    text = " ".join(README.split())
    assert (
        f"{parameters:.0f} M parameters, is quantized by plain rounding, exported and verified in {most:.1f} GB, and its float files "
        f"for comparison in {of_float:.1f} GB"
    ) in text
    used = (f"{results['steps'][f'use {target}']['peak_memory_bytes'] / 1e9:.1f}" for target in ("fp", "int8", "int4"))
    assert "To open and run it takes {} GB in float, {} GB in int8 and {} GB in int4".format(*used) in text


def test_errors_on_two_kinds_of_cpu_are_those_of_the_benchmark():
    results = read(QUALITY.parent / "cpus.json")
    assert "avx512_vnni" in results["other_machine"]["cpu_flags"]
    assert "avx512_vnni" not in results["machine"]["cpu_flags"]
    errors = {entry["name"].partition(":")[0]: entry["errors"] for entry in results["figures"]}
    words, text = sum(row["words"] for row in results["counts"]["fp-auto"]["here"].values()), " ".join(README.split())
    assert errors["fp-auto"]["here"] == errors["fp-auto"]["there"]
    assert f"on the same {words} words the float model makes {errors['fp-auto']['here']} errors" in text
    assert f"4-bit one {errors['ptq-rtn']['there']} and {errors['ptq-rtn']['here']}" in text


def test_tokens_of_torch_and_onnx_are_those_of_the_benchmark():
    results = read(QUALITY.parent / "parity-int4.json")
    same, text = results["identical_tokens"], " ".join(README.split())
    assert f"of 100 prompts it gives {100 * same['float64']:.0f} the same tokens in float64 as in float32" in text
    assert f"gives {100 * same['onnx']:.0f} the tokens of torch in float32" in text
    figures = {entry["name"]: entry["value"] for entry in results["figures"]}
    assert any(name.startswith("clips of 100 ") for name in figures)
    (share,) = (value for name, value in figures.items() if "integers in the files are the trained ones" in name)
    assert share == 1.0 and "the ONNX, whose integers are all the trained ones" in text


def test_the_demo_of_the_readme_ran_where_it_says():
    results = read(DEMO)
    steps, minutes = load_recipe("demo", []).training.max_steps, sum(results["step_seconds"].values()) / 60
    fewer = _STEPS_WITHOUT_BF16["demo"]
    took = f"which trains all {steps} steps, and took {minutes:.0f} minutes; one without trains {fewer}."
    assert f"on a CPU with bf16, {took}" in README
    assert results["recipe"]["max_steps"] == steps and results["recipe"]["bf16"]
    assert {"avx512_bf16", "avx512_vnni"} <= {*results["environment"]["cpu_flags"]}


def test_the_full_demo_of_the_readme_ran_where_it_says():
    results = read(DEMO_FULL)
    steps, minutes = load_recipe("demo-full", []).training.max_steps, sum(results["step_seconds"].values()) / 60
    assert f"on a CPU with bf16, which trains all {steps} steps, after {minutes:.0f} minutes" in README
    assert results["recipe"]["max_steps"] == steps and results["recipe"]["bf16"]
    assert {"avx512_bf16", "avx512_vnni"} <= {*results["environment"]["cpu_flags"]}


def test_what_the_full_demo_wins_is_what_it_measured():
    versus = read(DEMO_FULL)["pooled"]["qat"]["versus"]
    gain, low, high = (-100 * value for value in (versus["ptq-rtn"]["difference"], *versus["ptq-rtn"]["interval"]))
    assert f"{gain:.2f} points better than plain rounding [{high:.2f}, {low:.2f}] and level with GPTQ" in README
    low, high = versus["ptq-gptq"]["interval"]
    assert low < 0 < high
