"""Datasets of the Hub (or local folders in a dataset's layout), streamed or not, with the audio left encoded."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from datasets.exceptions import DatasetsError
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from qat_plugin.data.corpora import CorpusDefinition
from qat_plugin.data.report import LoadReport, Rejection
from qat_plugin.data.rows import RowFilter, RowRules, find_columns
from qat_plugin.errors import DataError

AUDIO_FEATURES = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
ROW_FEATURES = datasets.Features(
    {
        "id": datasets.Value("string"),
        "corpus": datasets.Value("string"),
        "audio": AUDIO_FEATURES,
        "text": datasets.Value("string"),
        "duration": datasets.Value("float64"),
        "speaker": datasets.Value("string"),
        "language": datasets.Value("string"),
    }
)
"""Columns of every loaded corpus. `audio` is a plain struct: datasets' own Audio feature would ask for torchcodec."""

# What the scan of a downloaded dataset writes: the row without its audio, or why the row is not used.
_SCAN_FEATURES = datasets.Features(
    {name: feature for name, feature in ROW_FEATURES.items() if name != "audio"}
    | {"_reason": datasets.Value("string"), "_detail": datasets.Value("string"), "_bad": datasets.Value("bool")}
)
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass
class EncodedAudio(datasets.Audio):
    """Audio that stays encoded while it is read. datasets' own asks for torchcodec even to pass a path on."""

    decode: bool = False

    def encode_example(self, value: str | bytes | Mapping[str, Any]) -> dict[str, Any]:
        """Bring the path, URL or bytes of a file to {"bytes", "path"}."""
        if isinstance(value, str):
            return {"bytes": None, "path": value}
        if isinstance(value, bytes):
            return {"bytes": value, "path": None}
        return {"bytes": value.get("bytes"), "path": value.get("path")}


def open_hub(
    definition: CorpusDefinition, *, streaming: bool
) -> tuple[datasets.Dataset | datasets.IterableDataset, str | None]:
    """Open one split of a dataset with undecoded audio.

    Returns:
        The raw rows, and the commit that `revision` stood for (None for a local folder).

    Raises:
        DataError: not found, gated, offline, unknown config or split, or a repo that needs a script.
    """
    assert definition.path is not None
    where = describe(definition)
    local = Path(definition.path).is_dir()
    revision = None if local else definition.revision
    try:
        builder = datasets.load_dataset_builder(definition.path, definition.config, revision=revision)
        commit = None if local else _commit(builder)
        if revision is not None and _COMMIT.fullmatch(revision) and commit != revision:
            # Without the Hub, datasets takes the newest version in its cache, whatever revision was asked for.
            raise DataError(
                f"{where}: the Hub cannot be reached, and of this dataset the cache offers commit {commit}, not the "
                f"{revision} of the corpus definition. Connect, or give a local copy: --corpus_manifests "
                f"{definition.name}=PATH."
            )
        raw = _open(definition, commit or revision, builder, streaming)
    except DataError:  # a ValueError too, but said in our words already
        raise
    except OfflineModeIsEnabled as error:
        raise DataError(
            f"{where}: the Hub is switched off (HF_HUB_OFFLINE) and the dataset is not in the cache. Unset it, or "
            f"give a local copy: --corpus_manifests {definition.name}=PATH."
        ) from error
    except (DatasetsError, HfHubHTTPError, OSError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{where} cannot be loaded: {error.__cause__ or error}\n"
            "Check id, config, split and revision in the corpus definition; for a gated dataset accept its terms on "
            "the Hub and run `hf auth login`. A local copy goes in with "
            f"--corpus_manifests {definition.name}=PATH."
        ) from error
    return raw, commit


def _commit(builder: datasets.DatasetBuilder) -> str | None:
    """The commit of a Hub dataset: in its URL, or, from the cache, the name of its folder there."""
    match = _COMMIT.search(builder.base_path or "") or _COMMIT.fullmatch(builder.hash or "")
    return match.group() if match else None


def _open(
    definition: CorpusDefinition, revision: str | None, builder: datasets.DatasetBuilder, streaming: bool
) -> datasets.Dataset | datasets.IterableDataset:
    features = None
    # Loose files are encoded while they are read, which needs our features; Parquet's and Arrow's audio is already.
    if streaming or not isinstance(builder, datasets.ArrowBasedBuilder):
        if hasattr(builder.config, "decode_num_threads"):
            # Streams of loose files would otherwise have decoding built in.
            builder.config.decode_num_threads = 0
        stream = builder.as_streaming_dataset(split=definition.split)
        # Unknown for Parquet files without a dataset card; their rows then arrive as they are stored.
        if stream.features is not None:
            features = stream.features.copy()
            features.update({name: EncodedAudio() for name in features if isinstance(features[name], datasets.Audio)})
        if streaming:
            return stream if features is None else stream.cast(features)
    raw = datasets.load_dataset(
        definition.path,
        definition.config,
        split=definition.split,
        revision=revision,
        features=features,
    )
    for name, feature in raw.features.items():
        if isinstance(feature, datasets.Audio):
            raw = raw.cast_column(name, datasets.Audio(decode=False))
    return raw


def describe(definition: CorpusDefinition) -> str:
    """How messages call the dataset: 'dataset ID (config, split)'."""
    parts = ", ".join(part for part in (definition.config, definition.split) if part)
    return f"dataset {definition.path} ({parts})"


def hub_rules(
    definition: CorpusDefinition, columns: list[str], keep: RowFilter, features: datasets.Features | None
) -> RowRules:
    """Rules for the raw rows of a Hub dataset with these columns; `features` are None where a stream does not tell."""
    found = find_columns(
        columns,
        describe(definition),
        audio=definition.audio_column,
        text=definition.text_column,
        speaker=definition.speaker_column,
        require_text=keep.require_text,
    )
    kind = (features or {}).get(found.language)
    names = tuple(kind.names) if isinstance(kind, datasets.ClassLabel) else ()
    return RowRules(definition.name, found, keep, language=definition.language, language_names=names)


def check_downloaded(
    raw: datasets.Dataset, rules: RowRules, report: LoadReport, where: str, num_workers: int
) -> datasets.Dataset:
    """Check every row of a downloaded dataset and keep the good ones; the audio is read, not copied."""
    columns = rules.columns
    used = [name for name in vars(columns).values() if name is not None]
    raw = raw.select_columns(used)
    scan = raw.map(
        _scan_row,
        with_indices=True,
        fn_kwargs={"rules": rules},
        remove_columns=used,
        features=_SCAN_FEATURES,
        num_proc=num_workers if num_workers > 1 else None,
        desc=f"Checking {rules.corpus}",
    )
    kept = []
    verdicts = zip(scan["_reason"], scan["_detail"], scan["_bad"], scan["duration"])
    for index, (reason, detail, bad, duration) in enumerate(verdicts):
        if reason is None:
            kept.append(index)
            report.keep(duration)
        else:
            report.reject(f"{where} row {index}", Rejection(reason, detail, bad))
    rows = scan.remove_columns(["_reason", "_detail", "_bad"])
    audio = raw.select_columns([columns.audio])
    if columns.audio != "audio":
        audio = audio.rename_column(columns.audio, "audio")
    return datasets.concatenate_datasets([rows, audio], axis=1).select(kept)


def _scan_row(raw: dict[str, Any], index: int, rules: RowRules) -> dict[str, Any]:
    result = rules.check(raw, index)
    if isinstance(result, Rejection):
        empty = dict.fromkeys(name for name in ROW_FEATURES if name != "audio")
        return {**empty, "_reason": result.reason, "_detail": result.detail, "_bad": result.bad}
    del result["audio"]
    return {**result, "_reason": None, "_detail": None, "_bad": None}
