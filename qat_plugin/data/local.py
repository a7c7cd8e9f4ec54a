"""Manifests and folders of audio on this machine, checked row by row."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import datasets
from tqdm.auto import tqdm

from qat_plugin.data.corpora import CorpusDefinition, LocalCopy
from qat_plugin.data.hub import ROW_FEATURES
from qat_plugin.data.manifests import ManifestRow, find_metadata, read_manifest
from qat_plugin.data.report import LoadReport, Rejection
from qat_plugin.data.rows import Row, RowFilter, RowRules, find_columns
from qat_plugin.errors import DataError


def manifest_path(definition: CorpusDefinition) -> Path:
    """The file that lists the rows of a manifest or audiofolder.

    Raises:
        DataError: a folder of audio has none.
    """
    assert definition.path is not None
    path = Path(definition.path)
    return find_metadata(path, definition.split) if definition.source == "audiofolder" else path


def check_local(
    definition: CorpusDefinition, keep: RowFilter, max_bad_row_share: float, num_workers: int
) -> tuple[datasets.Dataset, LoadReport, RowRules]:
    """Read a manifest or audiofolder and keep its good rows; `num_workers` threads read the audio's headers.

    Raises:
        DataError: the manifest is unusable, has other columns, too many bad rows, or no row left.
    """
    path = manifest_path(definition)
    entries = read_manifest(path)
    # Keys in order of first appearance: a row may leave out what others have.
    found = dict.fromkeys(key for entry in entries if entry.values is not None for key in entry.values)
    if not found:
        raise DataError(f"manifest {path} has no row with keys: {entries[0].place} {entries[0].problem}.")
    columns = find_columns(
        found,
        str(path),
        audio=definition.audio_column,
        text=definition.text_column,
        speaker=definition.speaker_column,
        require_text=keep.require_text,
        or_usual=isinstance(definition, LocalCopy),
    )
    rules = RowRules(definition.name, columns, keep, path.resolve().parent, definition.language)
    report = LoadReport(definition.name)
    rows = []
    with ThreadPoolExecutor(max(1, num_workers)) as pool:
        results = pool.map(lambda pair: _check_entry(rules, *pair), enumerate(entries))
        progress = tqdm(results, desc=f"Checking {definition.name}", total=len(entries), unit="row", leave=False)
        for entry, result in zip(entries, progress, strict=True):
            if isinstance(result, Rejection):
                report.reject(entry.place, result)
            else:
                report.keep(result["duration"])
                rows.append(result)
    # Before the table is made: datasets makes none of no rows.
    report.stop_if_too_bad(max_bad_row_share)
    report.stop_if_empty()
    return datasets.Dataset.from_list(rows, features=ROW_FEATURES), report, rules


def _check_entry(rules: RowRules, number: int, entry: ManifestRow) -> Row | Rejection:
    if entry.values is None:
        return Rejection("not a row", entry.problem or "has no key", bad=True)
    return rules.check(entry.values, number)
