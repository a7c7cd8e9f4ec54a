"""Local manifests: JSON, JSONL, CSV or TSV files, and folders of audio with a metadata file beside the clips."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qat_plugin.errors import DataError

SUFFIXES = (".json", ".jsonl", ".csv", ".tsv")
METADATA_NAMES = ("metadata.jsonl", "metadata.csv")


@dataclass(frozen=True)
class ManifestRow:
    """One entry and where it stands. `values` is None where it is not an object; `problem` then says what it is."""

    place: str
    values: dict[str, Any] | None
    problem: str = ""


def read_manifest(path: Path) -> list[ManifestRow]:
    """Read the rows of a manifest in their order, keeping broken entries as rows with a `problem`.

    By suffix: .json (a list of objects, or {"data": [...]}), .jsonl (an object a line), .csv and .tsv (with header).

    Raises:
        DataError: the file is missing, has another suffix, is not UTF-8, is no valid JSON as a whole, has a quote that is not
            closed, or has no row.
    """
    if not path.is_file():
        raise DataError(f"manifest {path} does not exist. Give a file ending in {', '.join(SUFFIXES)}.")
    readers = {".json": _read_json, ".jsonl": _read_jsonl, ".csv": _read_csv, ".tsv": _read_csv}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"manifest {path}: unknown suffix '{path.suffix}'. Use one of {', '.join(SUFFIXES)}.")
    try:
        rows = reader(path)
    except UnicodeDecodeError as error:
        raise DataError(
            f"manifest {path} is not UTF-8 (byte {error.start}: {error.reason}). Save it as UTF-8."
        ) from error
    except OSError as error:
        raise DataError(f"manifest {path} cannot be read: {error.strerror or error}.") from error
    if not rows:
        raise DataError(f"manifest {path} has no row.")
    return rows


def find_metadata(folder: Path, split: str | None) -> Path:
    """The metadata file of a folder of audio: metadata.jsonl or .csv in the folder, or in its subfolder `split`.

    Raises:
        DataError: there is none; names the places looked at and what the folder holds.
    """
    if not folder.is_dir():
        raise DataError(f"folder of audio {folder} does not exist.")
    places = [folder / split] if split else [folder]
    for place in places:
        for name in METADATA_NAMES:
            if (place / name).is_file():
                return place / name
    held = ", ".join(sorted(entry.name for entry in folder.iterdir())[:10]) or "nothing"
    raise DataError(
        f"folder of audio {places[0]} has no {' or '.join(METADATA_NAMES)}. {folder} holds: {held}. Write a "
        "metadata.csv with the columns file_name and text, or name the subfolder as 'split' of a corpus definition."
    )


def _as_row(place: str, value: Any) -> ManifestRow:
    if isinstance(value, dict):
        return ManifestRow(place, value)
    return ManifestRow(place, None, f"is {value!r:.80}, not an object with keys")


def _read_json(path: Path) -> list[ManifestRow]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        hint = " One object a line is JSONL: rename it to .jsonl." if error.msg == "Extra data" else ""
        raise DataError(f"manifest {path} line {error.lineno} is not valid JSON: {error.msg}.{hint}") from error
    if isinstance(content, dict):
        if not isinstance(content.get("data"), list):
            raise DataError(
                f"manifest {path} is an object with the keys {sorted(content)[:10]}; "
                'it must be a list of objects, or {"data": [...]}.'
            )
        content = content["data"]
    if not isinstance(content, list):
        raise DataError(f"manifest {path} is {content!r:.80}; it must be a list of objects.")
    return [_as_row(f"{path} item {number}", value) for number, value in enumerate(content, start=1)]


def _read_jsonl(path: Path) -> list[ManifestRow]:
    rows = []
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            place = f"{path} line {number}"
            try:
                rows.append(_as_row(place, json.loads(line.rstrip())))
            except json.JSONDecodeError as error:
                rows.append(ManifestRow(place, None, f"is not valid JSON: {error.msg} at column {error.colno}"))
    return rows


def _read_csv(path: Path) -> list[ManifestRow]:
    rows = []
    with path.open(encoding="utf-8-sig", newline="") as file:
        header = file.readline()
        file.seek(0)
        # Spreadsheets in countries with a decimal comma write semicolons; the header shows which it is.
        delimiter = max("\t;,", key=header.count)
        reader = csv.DictReader(file, delimiter=delimiter)
        before = 0
        try:
            if _runs_on(reader.fieldnames or []):
                raise _unclosed(path, 1)
            before = reader.line_num
            for values in reader:
                extra = values.get(None, [])
                if _runs_on([*extra, *(value for name, value in values.items() if name is not None)]):
                    raise _unclosed(path, before + 1)
                before = reader.line_num
                place = f"{path} line {before}"
                if extra:
                    problem = f"has {len(extra)} more fields than the header. Quote the text."
                    rows.append(ManifestRow(place, None, problem))
                else:
                    rows.append(ManifestRow(place, {str(key): value for key, value in values.items()}))
        except csv.Error as error:  # a field of more than 128 KB: the same, in a long file
            raise _unclosed(path, before + 1) from error
    return rows


def _runs_on(fields: Iterable[str | None]) -> bool:
    return any("\n" in field or "\r" in field for field in fields if field is not None)


def _unclosed(path: Path, line: int) -> DataError:
    """A quote that is not closed takes the rows behind it for text, so that a line break in a field is refused."""
    return DataError(
        f"manifest {path} line {line}: a field goes on over the end of the line. Close its quote, double quotes that belong "
        'to the text ("" for "), and write a text of several lines in one.'
    )
