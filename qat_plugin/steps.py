"""The steps of a run: train → export → evaluate → report. Each looks first at what is done already.

Card and push are in `qat_plugin.publishing_steps`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qat_plugin.arms import ARMS, FINE_TUNED, FLOAT, FLOAT_FOLDED, TRAINED, needs_fine_tuning
from qat_plugin.data.languages import language_code
from qat_plugin.errors import DataError, WorkspaceError
from qat_plugin.files import PARITY_FILE, sha256_of
from qat_plugin.publishing_steps import card, check_is_measured, check_normalizer
from qat_plugin.recipe import Recipe, training_speech
from qat_plugin.recipe_checks import WINDOW
from qat_plugin.recipe_loading import recipe_to_dict, save_recipe
from qat_plugin.workspace import Workspace, say

if TYPE_CHECKING:
    from qat_plugin.data.overlap import OverlapReport

# Training arguments that change what is shown or kept on the way, or which device computes, not what is trained: what a GPU
# has trained is measured on CPUs.
_UNDECIDING = (
    "output_dir", "logging_", "log_", "save_", "report_to", "run_name", "project", "trackio_", "hub_", "push_to_hub",
    "disable_tqdm", "dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers",
    "dataloader_prefetch_factor", "resume_from_checkpoint", "ddp_", "do_", "overwrite_", "skip_memory_metrics",
    "local_rank", "enable_jit_checkpoint", "per_device_eval_batch_size", "eval_accumulation_steps", "predict_with_generate",
    "gradient_checkpointing", "activation_checkpointing", "use_cpu", "tf32",
)  # fmt: skip

_TRAINING_STEPS = {TRAINED: "train", FINE_TUNED: "train_fp-ft"}


def open_workspace(recipe: Recipe, *, records_recipe: bool = True) -> Workspace:
    """The recipe's output folder, with the resolved recipe written to it, unless the step only shows what was measured.

    Raises `WorkspaceError` when it holds training that was done with another recipe, naming the fields that differ, or when
    such training runs now. Training that failed before its first checkpoint left nothing to keep, and is forgotten.
    """
    workspace = Workspace(str(recipe.training.output_dir))
    writes = workspace.keeps_books and records_recipe
    differences = workspace.differences("train", training_inputs(recipe))
    if differences:
        from qat_plugin.training.run import last_checkpoint
        from qat_plugin.training.start import drop_start

        folder = workspace.checkpoint(TRAINED)
        if workspace.has_finished("train") or last_checkpoint(folder) is not None:
            raise WorkspaceError(
                f"{workspace.root} holds another run; it was trained with other values of\n  "
                + "\n  ".join(differences)
                + "\nname another output_dir, restore the values, or delete the folder"
            )
        if writes:
            with workspace.alone("train"):
                drop_start(folder)
                workspace.forget("train")
    if writes:
        save_recipe(recipe, workspace.recipe_file)
    return workspace


def training_inputs(recipe: Recipe) -> dict[str, Any]:
    """Every field that decides the trained weights; of the Trainer's, those that are not at their default."""
    groups: list[Any] = [recipe.model, recipe.quantization, recipe.distillation]
    inputs = {name: value for group in groups for name, value in dataclasses.asdict(group).items()}
    inputs |= {**training_speech(recipe.data), "language": language_code(recipe.model.language)}
    # Of the Trainer's own fields those that the recipe sets: another version of transformers has others, or other defaults, and
    # the run is the same. Beside arguments of which nothing is set, for some fields are changed when they are made.
    unset = type(recipe.training)(output_dir="unset").to_dict()
    for name, value in recipe_to_dict(recipe).items():
        if name in unset and value != unset[name] and not name.startswith(_UNDECIDING):
            inputs[name] = value
    return inputs


def train(recipe: Recipe, workspace: Workspace, *, measured_here: bool = False) -> None:
    """Train, or say that it is done; and the float control, where an arm needs it.

    With `measured_here`, test speech that cannot be read is refused as well; otherwise another machine may have it.

    Raises `DataError` when training would hear audio that is tested on, which evaluation would refuse.
    """
    from qat_plugin.training.run import end_process_group

    if workspace.keeps_books and not workspace.is_done(_TRAINING_STEPS[TRAINED], training_inputs(recipe)):
        _check_overlap_early(recipe, measured_here)
    _train(recipe, workspace, TRAINED)
    if needs_fine_tuning(recipe.evaluation.arms):
        _train(recipe, workspace, FINE_TUNED)
    end_process_group()


def _check_overlap_early(recipe: Recipe, measured_here: bool) -> None:
    """Refuse before hours of training the speech that evaluation would refuse behind them."""
    from qat_plugin.training.run import check_overlap

    try:
        corpora = _test_corpora(recipe)
    except DataError as error:
        if measured_here:
            raise
        say(
            "train",
            f"whether training hears what is tested on is left to 'evaluate', for the test speech cannot be read: {error}",
        )
        return
    check_overlap(recipe, corpora)


def _train(recipe: Recipe, workspace: Workspace, arm: str) -> None:
    from qat_plugin.training.run import last_checkpoint, run_training

    folder, inputs, step = workspace.checkpoint(arm), training_inputs(recipe), _TRAINING_STEPS[arm]
    if workspace.is_done(step, inputs):
        say(step, f"done already: {folder}")
        return
    started = last_checkpoint(folder)
    args = recipe.training
    length = f"{args.max_steps} steps" if args.max_steps > 0 else f"{args.num_train_epochs:g} epochs"
    kind = f"{recipe.quantization.target} QAT" if arm == TRAINED else "float control"
    say(
        step,
        f"{kind} of {recipe.model.model_name_or_path}: {length} of "
        f"{args.per_device_train_batch_size} x {args.gradient_accumulation_steps} samples; "
        + (f"goes on from {started.name}" if started else "nothing done yet"),
    )
    with workspace.alone(step), workspace.step(step, inputs):
        run_training(recipe, folder, quantized=arm == TRAINED)


def export(recipe: Recipe, workspace: Workspace) -> None:
    """Write and verify the ONNX of every arm."""
    decided = training_inputs(recipe)
    for arm in recipe.evaluation.arms:
        inputs = _export_inputs(recipe, arm, decided)
        if workspace.is_done(f"export_{arm}", inputs):
            if _is_as_exported(workspace.onnx(arm), verified=not ARMS[arm].onnxruntime):
                say("export", f"{arm}: done already: {workspace.onnx(arm)}")
                continue
            say("export", f"{arm}: {workspace.onnx(arm)} no longer holds what was written there")
        trained = FINE_TUNED if ARMS[arm].fine_tuned else TRAINED if arm == TRAINED else None
        if trained is not None and not workspace.is_done(_TRAINING_STEPS[trained], decided):
            raise WorkspaceError(
                f"{workspace.checkpoint(trained)} holds no finished training: run the step 'train' first"
            )
        checks = "by ONNX Runtime" if ARMS[arm].onnxruntime else f"checked on {recipe.evaluation.parity_samples} clips"
        say("export", f"{arm}: ONNX from {workspace.checkpoint(arm)}, {checks}")
        with workspace.step(f"export_{arm}", inputs):
            _export_arm(recipe, workspace, arm)


def _export_inputs(recipe: Recipe, arm: str, decided: dict[str, Any]) -> dict[str, Any]:
    """What decides the files of an arm; `decided` are the `training_inputs`, the same for all."""
    return {"arm": arm, "parity_samples": recipe.evaluation.parity_samples, **decided}


def _is_as_exported(folder: Path, *, verified: bool) -> bool:
    """Whether the files are to the byte those that export wrote and, where `verified`, its parity gate passed."""
    from qat_plugin.evaluation.folder_files import changed_since_export

    return (not verified or (folder / PARITY_FILE).is_file()) and changed_since_export(folder) is None


def _export_arm(recipe: Recipe, workspace: Workspace, name: str) -> None:
    from qat_plugin.export import export_rival, export_verified
    from qat_plugin.training.run import calibration_features, run_ptq, save_float_arm
    from qat_plugin.training.speech import encoder_context

    checkpoint, arm = workspace.checkpoint(name), ARMS[name]
    if name in (FLOAT, FLOAT_FOLDED) or arm.onnxruntime:
        save_float_arm(recipe, checkpoint, None if name == FLOAT else encoder_context(recipe))
    if arm.onnxruntime:
        export_rival(
            checkpoint,
            workspace.onnx(name),
            method=arm.onnxruntime,
            reduce_range=arm.reduce_range,
            features=calibration_features(recipe) if arm.onnxruntime == "static" else (),
        )
        return
    if arm.method is not None:
        run_ptq(
            recipe, arm, checkpoint,
            training_folder=workspace.checkpoint(TRAINED), fine_tuned_folder=workspace.checkpoint(FINE_TUNED),
        )  # fmt: skip
    export_verified(
        checkpoint, workspace.onnx(name), clips=_parity_clips(recipe), task=recipe.model.task,
        quantized=name not in (FLOAT, FLOAT_FOLDED, FINE_TUNED),
    )  # fmt: skip


def _test_corpora(recipe: Recipe) -> list[Any]:
    from qat_plugin.data.loading import load_test_corpora
    from qat_plugin.data.revisions import RunRevisions

    revisions = RunRevisions(str(recipe.training.output_dir))
    return load_test_corpora(_test_names(recipe), recipe.data, recipe.evaluation, revisions=revisions)


def _parity_clips(recipe: Recipe) -> list[tuple[Any, str]]:
    """Audio and language of the first test clips, in turn from every corpus; of longer ones the first window."""
    from qat_plugin.data.audio import SAMPLING_RATE

    wanted = recipe.evaluation.parity_samples
    rows = _in_turn([[(corpus, row) for row in itertools.islice(corpus, wanted)] for corpus in _test_corpora(recipe)])
    return [
        (corpus.read(row)[: int(WINDOW * SAMPLING_RATE)], row["language"] or recipe.model.language)
        for corpus, row in itertools.islice(rows, wanted)
    ]


def _in_turn(sources: list[Any]) -> Iterator[Any]:
    missing = object()
    for items in itertools.zip_longest(*sources, fillvalue=missing):
        yield from (item for item in items if item is not missing)


def evaluate(recipe: Recipe, workspace: Workspace) -> None:
    """Measure every arm on every test corpus, one after the other, and write results, report and plots."""
    from qat_plugin.evaluation.decoder import DECODING_VERSION
    from qat_plugin.evaluation.report import render_table
    from qat_plugin.evaluation.results import is_whole, read_results

    evaluation, decided = recipe.evaluation, training_inputs(recipe)
    for arm in evaluation.arms:
        if not workspace.onnx(arm).is_dir():
            raise WorkspaceError(f"{workspace.onnx(arm)} does not exist: run the step 'export' first")
        # A training in this folder is of this recipe, but arms that need none may have been exported by another.
        differences = workspace.differences(
            f"export_{arm}", _export_inputs(recipe, arm, decided), besides=("parity_samples",)
        )
        if differences:
            raise WorkspaceError(
                f"{workspace.onnx(arm)} was exported with other values of\n  "
                + "\n  ".join(differences)
                + "\nrun the step 'export' again, or restore them"
            )
    inputs = {
        "decoding_version": DECODING_VERSION,
        **decided,
        **dataclasses.asdict(evaluation),
        **_export_states(workspace, evaluation.arms),
        **_test_speech(recipe),
    }
    if workspace.is_done("evaluate", inputs) and is_whole(workspace.results_file):
        say("evaluate", f"done already: {workspace.results_file}")
    else:
        say(
            "evaluate",
            f"{', '.join(evaluation.arms)} on {', '.join(_test_names(recipe))}; finished transcripts are kept",
        )
        with workspace.alone("evaluate"):
            # Figures of an earlier evaluation must not pass for this one's if it is interrupted; transcripts are kept.
            workspace.results_file.unlink(missing_ok=True)
            with workspace.step("evaluate", inputs, keeps_work=True):
                corpora, overlap = _measure(recipe, workspace)
                costs = _measure_costs(recipe, workspace, corpora[0])
            _write_results(recipe, workspace, corpora, costs, overlap)
    print(render_table(read_results(workspace.results_file)))


def _export_states(workspace: Workspace, arms: list[str]) -> dict[str, str]:
    """Digest of each arm's files as they are now: who changed one by hand is not shown the figures of the other."""
    from qat_plugin.evaluation.folder_files import list_files

    states = {arm: json.dumps(list_files(workspace.onnx(arm)), sort_keys=True) for arm in arms}
    return {f"onnx_{arm}": hashlib.sha256(state.encode()).hexdigest() for arm, state in states.items()}


def _test_speech(recipe: Recipe) -> dict[str, Any]:
    """Definition of each test corpus and digest of its manifest on this machine: what changed is measured again."""
    from qat_plugin.data.corpora import find_corpora
    from qat_plugin.data.local import manifest_path

    found = find_corpora(_test_names(recipe), recipe.data.corpus_manifests)
    local = [corpus for corpus in found if corpus.source != "hub" and corpus.path is not None]
    paths = {corpus.name: manifest_path(corpus) for corpus in local}
    definitions = {f"corpus_{corpus.name}": dataclasses.asdict(corpus) for corpus in found}
    return definitions | {f"manifest_{name}": sha256_of(path) for name, path in paths.items() if path.is_file()}


def _test_names(recipe: Recipe) -> list[str]:
    return [*recipe.evaluation.corpora, *recipe.evaluation.test_data]


def _measure(recipe: Recipe, workspace: Workspace) -> tuple[list[Any], OverlapReport]:
    """Transcribe what is not transcribed yet; returns the test corpora and what they share with the training speech."""
    from qat_plugin.evaluation.run import evaluate_arm
    from qat_plugin.training.run import check_overlap

    evaluation = recipe.evaluation
    corpora = _test_corpora(recipe)
    overlap = check_overlap(recipe, corpora)
    compared = f"{overlap.same_text} of {overlap.test_rows} test texts, and no test audio, are in the training speech"
    unchecked = f"; not compared, because streamed: {', '.join(overlap.unchecked)}" if overlap.unchecked else ""
    some = sorted({name for found in overlap.corpora.values() for name in found.without_text})
    say("evaluate", compared + unchecked + (f"; texts as far as known of {', '.join(some)}" if some else ""))
    for corpus in corpora:
        for arm in evaluation.arms:
            evaluate_arm(
                workspace.onnx(arm),
                arm,
                corpus,
                workspace.evaluation,
                language=recipe.model.language,
                task=recipe.model.task,
                normalizer=evaluation.normalizer,
                num_beams=evaluation.eval_num_beams,
                loop_guard=evaluation.loop_guard,
                long_form=evaluation.long_form,
                batch_size=evaluation.eval_batch_size,
                num_threads=evaluation.num_threads,
            )
    return corpora, overlap


def _measure_costs(recipe: Recipe, workspace: Workspace, corpus: Any) -> dict[str, Any]:
    from qat_plugin.evaluation.cost import longest_clip, measure_cost

    row, audio = longest_clip(corpus)
    language = row["language"] or recipe.model.language
    threads = recipe.evaluation.num_threads
    say("evaluate", f"load time and memory with {row['id']}, each arm in a process of its own")
    return {
        arm: measure_cost(workspace.onnx(arm), audio, language=language, task=recipe.model.task, num_threads=threads)
        for arm in recipe.evaluation.arms
    }


def _write_results(
    recipe: Recipe, workspace: Workspace, corpora: list[Any], costs: dict[str, Any], overlap: OverlapReport
) -> None:
    from qat_plugin.evaluation.environment import git_commit
    from qat_plugin.evaluation.results import collect_results, write_results
    from qat_plugin.training.record import read_record

    results = collect_results(
        workspace.evaluation,
        {arm: workspace.onnx(arm) for arm in recipe.evaluation.arms},
        [corpus.name for corpus in corpora],
        normalizer=recipe.evaluation.normalizer,
        recipe=recipe_to_dict(recipe),
        step_seconds=workspace.seconds(),
        costs=costs,
        sources={corpus.name: corpus.definition.source_of(corpus.revision) for corpus in corpora},
        overlaps={name: dataclasses.asdict(found) for name, found in overlap.corpora.items()},
        git_commit=git_commit(),
        resamples=recipe.evaluation.bootstrap_resamples,
    )
    results["training"] = read_record(recipe.data, workspace.checkpoint(TRAINED))
    _write_report(workspace, results)
    # Last: that it is there says that the report is, too.
    write_results(results, workspace.results_file)


def report(recipe: Recipe, workspace: Workspace) -> None:
    """Render report and plots again from the results and transcripts that are there; no model is loaded."""
    from qat_plugin.evaluation.report import render_table
    from qat_plugin.evaluation.results import read_results

    say("report", f"from {workspace.results_file}")
    results = read_results(workspace.results_file)
    check_normalizer(recipe, workspace, results)
    _write_report(workspace, results)
    print(render_table(results))
    say("report", f"written: {workspace.evaluation / 'report.html'}, and report.md and the plots beside it")


def _write_report(workspace: Workspace, results: dict[str, Any]) -> None:
    from qat_plugin.evaluation.report_files import write_report

    state = workspace.checkpoint(TRAINED) / "trainer_state.json"
    # Without a training, as when only arms without one are compared, there is no curve.
    log = json.loads(state.read_text(encoding="utf8"))["log_history"] if state.is_file() else []
    write_report(results, workspace.evaluation, log)


def run_all(recipe: Recipe, workspace: Workspace) -> None:
    """Everything but the push.

    Raises `RecipeError` when `arms` lacks what is trained, and what each step raises.
    """
    check_is_measured(recipe)
    train(recipe, workspace, measured_here=True)
    steps: list[Callable[[Recipe, Workspace], Any]] = [export, evaluate, card]
    for step in steps:
        step(recipe, workspace)
