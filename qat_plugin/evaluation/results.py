"""From transcripts to results.json: every figure that is reported, and everything that decides it.

::

    {
      "schema_version": 1,
      "git_commit": str | null,
      "recipe": {field: value},                     as given, "arms" in the order of `qat_plugin.arms`
      "step_seconds": {step: seconds},              as given
      "environment": {cpu, cpu_flags, cores, architecture, system, python, packages: {name: version}},
      "settings": {language, task, normalizer, num_beams, loop_guard, long_form, batch_size, num_threads, max_target_positions,
                   decoding_version, generation_config: {...},
                   bootstrap: {resamples, seed, confidence, method}},
      "arms": {ARM: {"format": "float32" | "int8" | "int4",
                     "bytes": int,                  of all files in the ONNX folder
                     "bytes_ratio": float | null,   to the arm fp; null without fp
                     "files": {relative path: {"bytes": int, "sha256": hex}},
                     "quantization": {...} | null,                 the folder's quantization.json without digests
                     "cost": COST | null}},                        as given, see `cost`
      "corpora": {CORPUS: {utterances, words, characters, empty_references, long_form, seconds, languages,
                           "speakers": int | null,
                           "interval_unit": "speakers" | "utterances", "interval_units": int,   what is resampled
                           "source": {source, path, config, split, revision, task_id, license, description} | null,
                                                                   as given; of the Hub, the revision is the commit read
                           "overlap": OVERLAP | null,               as given: what it shares with the training speech
                           "sha256": hex}},                        of ids, references, durations, speakers, languages
      "training": {"corpora": {CORPUS: as "source"},               see `qat_plugin.training.record`
                   "samples", "seconds", "device", "processes", "local_models"},   as training wrote it down, see there
      "measurements": {ARM: {CORPUS: MEASUREMENT}},
      "pooled": {ARM: MEASUREMENT}                  all corpora together, counts added
    }

    OVERLAP = {"test_rows", "same_text", "same_audio": int, "unchecked", "without_text": [training corpus, ...]}, see `qat_plugin.data.overlap`

    MEASUREMENT = {
      "wer": fraction, "wer_interval": [low, high] | null,
      "substitutions", "deletions", "insertions", "hits", "reference_words": int,
      "cer": fraction, "character_errors", "reference_characters": int,
      "audio_seconds", "wall_seconds", "rtfx": float,
      "tokens": int,
      "looping": int, "looping_ids": [id, ...],                    see `loops`; those that the guard ended included
      "looping_rate": fraction,                                    of utterances that loop or hit the length limit
      "loop_cut": int, "loop_cut_ids": [id, ...],                  ended by the loop guard
      "hit_length_limit": int, "hit_length_limit_ids": [id, ...],
      "utterances": int,
      "longest_insertion_run": int,                                words in a row that nobody said
      "long_insertions": int, "long_insertion_ids": [id, ...],     utterances with 5 or more of them in a row
      "over_half_wrong": int,                                      utterances with more than 50 % WER
      "by_duration": [{"from_seconds": float, "to_seconds": float | null, COUNTS}, ...],
      "speaker_spread": {"speakers": int, "lowest", "median", "highest": fraction} | null,   WER of those with 20 words or more
      "worst_speakers": [{"speaker": str, COUNTS}, ...],           of these, the hardest of the last arm; the same in all arms
      "versus": {OTHER_ARM: {"difference": fraction, "interval": [low, high] | null, "p_value": float | null,
                             "relative": float | null, "relative_interval": [low, high] | null,
                             "beyond_interval": bool | null}}      every arm that comes earlier in `arms`
    }

    COUNTS = "utterances", "reference_words", "substitutions", "deletions", "insertions": int, "wer": fraction | null

`difference` is this arm's WER minus the other's: times 100 it is points, below 0 this arm is better; `relative` times
100 is percent. Intervals are the paired bootstrap's 95 %; they, "p_value" and "beyond_interval" are null where a corpus has
fewer than 10 "interval_units". Arms come in the order of `qat_plugin.arms`. In "pooled" the
ids are written CORPUS/ID and speakers CORPUS/SPEAKER. The same transcripts give the same bytes; another evaluation of the
same inputs differs in measured times and costs only ("wall_seconds", "rtfx", "step_seconds", "cost").
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qat_plugin.arms import FLOAT, arm_order
from qat_plugin.errors import EvaluationError
from qat_plugin.evaluation.bootstrap import (
    CONFIDENCE,
    DEFAULT_RESAMPLES,
    DEFAULT_SEED,
    METHOD,
    sum_by_unit,
    unit_to_resample,
)
from qat_plugin.evaluation.folder_files import list_files
from qat_plugin.evaluation.normalizer import get_normalizer
from qat_plugin.evaluation.scoring import Scored, measure_arms, pool, rounded, score
from qat_plugin.evaluation.transcripts import Transcript, read_transcripts
from qat_plugin.files import DESCRIPTION_FILE, write_whole

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
BASELINE = FLOAT

# What may differ between arms and corpora; everything else that decides a transcript or its time must not.
_OWN_SETTINGS = ("arm", "corpus", "files")


def collect_results(
    evaluation_dir: Path,
    arm_folders: Mapping[str, Path],
    corpora: Sequence[str],
    *,
    normalizer: str,
    recipe: Mapping[str, Any],
    step_seconds: Mapping[str, float],
    costs: Mapping[str, Mapping[str, Any]] | None = None,
    sources: Mapping[str, Mapping[str, Any]] | None = None,
    overlaps: Mapping[str, Mapping[str, Any]] | None = None,
    git_commit: str | None = None,
    resamples: int = DEFAULT_RESAMPLES,
    seed: int = DEFAULT_SEED,
) -> dict[str, Any]:
    """Score and compare the transcripts that `evaluate_arm` wrote.

    Args:
        evaluation_dir: holds CORPUS/ARM.jsonl.
        arm_folders: the ONNX folder of each arm.
        corpora: names, in the order of the report.
        normalizer: as in `get_normalizer`, the same for all arms.
        recipe: all its fields, JSON-able.
        step_seconds: wall time of each step of the run.
        costs: what `measure_cost` found of each arm; None where that was not measured.
        sources: of each corpus where it comes from and in which revision, JSON-able; None where that is unknown.
        overlaps: of each corpus what it shares with the training speech, JSON-able; None where that was not compared.
        git_commit: of the code that ran.
        resamples, seed: of the bootstrap.

    Returns:
        The document described at the head of this module.

    Raises:
        EvaluationError: transcripts are missing, unfinished, of other files than the folders hold now, made with
            different settings, or of different utterances; or a corpus has no reference word; or `resamples` are too few.
    """
    if not arm_folders or not corpora:
        raise EvaluationError(f"arms are {list(arm_folders)}, corpora {list(corpora)}: name at least one of each")
    normalize = get_normalizer(normalizer)
    arms = _in_order(arm_folders)
    listings = {arm: list_files(arm_folders[arm]) for arm in arms}
    scored: dict[str, dict[str, Scored]] = {}
    shared: tuple[Path, dict[str, Any]] | None = None
    for corpus in corpora:
        scored[corpus] = {}
        for arm in arms:
            path = evaluation_dir / corpus / f"{arm}.jsonl"
            settings, transcripts = read_transcripts(path)
            if settings["files"] != listings[arm]:
                raise EvaluationError(
                    f"{path}: was made with other files than {arm_folders[arm]} holds now; run the evaluation again"
                )
            common = {name: value for name, value in settings.items() if name not in _OWN_SETTINGS}
            shared = shared or (path, common)
            _check_same_settings(*shared, path, common)
            _check_same_utterances(corpus, arms[0], scored[corpus].get(arms[0]), arm, transcripts)
            scored[corpus][arm] = score(transcripts, normalize)
        if not any(words.reference_words for words in scored[corpus][arms[0]].words):
            raise EvaluationError(
                f"corpus {corpus!r}: no reference holds a word after the normalizer {normalizer!r}, so there is no "
                "WER; check its text column"
            )
    assert shared is not None
    settings = dict(shared[1])
    environment = settings.pop("environment")
    pooled = {arm: pool({corpus: scored[corpus][arm] for corpus in corpora}) for arm in arms}
    bootstrap = {"resamples": resamples, "seed": seed}
    by_corpus = {corpus: measure_arms({arm: [scored[corpus][arm]] for arm in arms}, scored[corpus], **bootstrap)
                 for corpus in corpora}  # fmt: skip
    return {
        "schema_version": SCHEMA_VERSION,
        "git_commit": git_commit,
        "recipe": {**recipe, **({"arms": _in_order(recipe["arms"])} if "arms" in recipe else {})},
        "step_seconds": {step: round(seconds, 1) for step, seconds in step_seconds.items()},
        "environment": environment,
        "settings": {
            "normalizer": normalizer,
            **settings,
            "bootstrap": {**bootstrap, "confidence": CONFIDENCE, "method": METHOD},
        },
        "arms": _describe_arms(arms, arm_folders, listings, costs or {}),
        "corpora": {
            corpus: {
                **_describe_corpus(scored[corpus][arms[0]]),
                "source": (sources or {}).get(corpus),
                "overlap": (overlaps or {}).get(corpus),
            }
            for corpus in corpora
        },
        "measurements": {arm: {corpus: by_corpus[corpus][arm] for corpus in corpora} for arm in arms},
        "pooled": measure_arms({arm: [scored[c][arm] for c in corpora] for arm in arms}, pooled, **bootstrap),
    }


def write_results(results: Mapping[str, Any], path: Path) -> None:
    """Write results.json; the same results give the same bytes."""
    write_whole(path, json.dumps(results, ensure_ascii=False, indent=1, allow_nan=False) + "\n")


def read_results(path: Path) -> dict[str, Any]:
    """Read results.json. Raises `EvaluationError` when it is missing or of another schema."""
    if not path.is_file():
        raise EvaluationError(f"{path}: not there; run the evaluation first")
    try:
        results: dict[str, Any] = json.loads(path.read_text(encoding="utf8"))
    except ValueError as error:
        raise EvaluationError(f"{path}: not JSON ({error}); run the evaluation again") from error
    if results.get("schema_version") != SCHEMA_VERSION:
        raise EvaluationError(
            f"{path}: schema_version is {results.get('schema_version')!r}, this version reads {SCHEMA_VERSION}; "
            "run the evaluation again"
        )
    return results


def is_whole(path: Path) -> bool:
    """Whether results.json is one that this version reads, with the transcripts that it was scored from beside it."""
    if not path.is_file():
        return False
    try:
        results = read_results(path)
    except EvaluationError as error:
        logger.warning("%s", error)
        return False
    return all(
        (path.parent / corpus / f"{arm}.jsonl").is_file() for corpus in results["corpora"] for arm in results["arms"]
    )


def _in_order(arms: Iterable[str]) -> list[str]:
    return sorted(arms, key=lambda arm: (arm_order(arm), arm))


def _check_same_settings(first: Path, expected: dict[str, Any], path: Path, found: dict[str, Any]) -> None:
    for name in dict.fromkeys([*expected, *found]):
        if expected.get(name) != found.get(name):
            raise EvaluationError(
                f"{name} is {expected.get(name)!r} in {first} and {found.get(name)!r} in {path}: such results cannot "
                "be compared; evaluate both with the same settings on the same machine"
            )


def _check_same_utterances(
    corpus: str, first_arm: str, first: Scored | None, arm: str, transcripts: list[Transcript]
) -> None:
    if first is None:
        return
    expected = {t.id: (t.reference, t.duration) for t in first.transcripts}
    found = {t.id: (t.reference, t.duration) for t in transcripts}
    for name in dict.fromkeys([*expected, *found]):
        if expected.get(name) != found.get(name):
            raise EvaluationError(
                f"corpus {corpus!r}, utterance {name!r}: (reference, seconds) is {expected.get(name)} in arm "
                f"{first_arm!r} and {found.get(name)} in arm {arm!r}; arms are compared on the same utterances only, "
                "evaluate both again"
            )
    if [t.id for t in first.transcripts] != [t.id for t in transcripts]:
        raise EvaluationError(
            f"corpus {corpus!r}: the utterances of arms {first_arm!r} and {arm!r} come in different order or number; "
            "evaluate both again"
        )


def _describe_arms(
    arms: Sequence[str],
    folders: Mapping[str, Path],
    listings: Mapping[str, dict[str, dict[str, Any]]],
    costs: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    sizes = {arm: sum(entry["bytes"] for entry in listings[arm].values()) for arm in arms}
    described = {}
    for arm in arms:
        quantization = _read_quantization(folders[arm])
        described[arm] = {
            "format": (quantization or {}).get("target") or "float32",
            "bytes": sizes[arm],
            "bytes_ratio": rounded(sizes[arm] / sizes[BASELINE]) if BASELINE in sizes else None,
            "files": listings[arm],
            "quantization": quantization,
            "cost": costs.get(arm),
        }
    return described


def _read_quantization(folder: Path) -> dict[str, Any] | None:
    path = folder / DESCRIPTION_FILE
    if not path.is_file():
        return None
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf8"))
    except ValueError as error:
        raise EvaluationError(f"{path}: not JSON ({error}); export the model again") from error
    return {name: value for name, value in document.items() if name not in ("files", "sha256")}


def _describe_corpus(part: Scored) -> dict[str, Any]:
    speakers = {t.speaker for t in part.transcripts if t.speaker is not None}
    evaluated = [[t.id, t.reference, t.duration, t.speaker, t.language] for t in part.transcripts]
    units = sum_by_unit(np.ones((len(part.ids), 1), dtype=np.int64), part.speakers)
    return {
        "utterances": len(part.transcripts),
        "words": sum(w.reference_words for w in part.words),
        "characters": sum(c.reference_characters for c in part.characters),
        "empty_references": sum(w.reference_words == 0 for w in part.words),
        "long_form": sum(t.long_form for t in part.transcripts),
        "seconds": round(sum(t.duration for t in part.transcripts), 3),
        "speakers": len(speakers) if speakers else None,
        "languages": sorted({t.language for t in part.transcripts}),
        "interval_unit": unit_to_resample(part.speakers),
        "interval_units": len(units),
        "sha256": hashlib.sha256(json.dumps(evaluated, ensure_ascii=False).encode("utf8")).hexdigest(),
    }
