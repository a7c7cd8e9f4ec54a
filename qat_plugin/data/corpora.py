"""Where a corpus lies: definitions by name, private manifests, and data of one's own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Literal, get_args

from qat_plugin.data.languages import language_code
from qat_plugin.data.manifests import SUFFIXES
from qat_plugin.errors import DataError
from qat_plugin.files import NAMED_BY_FOLDER
from qat_plugin.shipped import recipes_folder

Source = Literal["hub", "manifest", "audiofolder", "private"]


@dataclass(frozen=True)
class CorpusDefinition:
    """One JSON file of recipes/corpora. The file's name without '.json' is the corpus' name.

    Attributes:
        name: what commands and reports call it.
        source: 'hub' (a dataset on the Hub, or a local folder in its layout), 'manifest' (JSON, JSONL, CSV, TSV),
            'audiofolder' (clips with a metadata file), or 'private' (the user says where its manifest lies).
        path: Hub id or local path; relative ones start at the definition file.
        config, split: of a Hub dataset; `split` also names a subfolder of an audiofolder.
        revision: branch, tag or commit of a Hub dataset.
        language: that is spoken, of rows that have no column for it; None: the recipe's.
        audio_column, text_column, speaker_column: names in the data; the usual names are tried where they are None.
        task_id: of a Hub dataset that is a benchmark, the task in its eval.yaml whose leaderboard shows the figure.
        description, license: for readers and the model card.
    """

    name: str
    source: Source
    path: str | None = None
    config: str | None = None
    split: str | None = None
    revision: str | None = None
    language: str | None = None
    audio_column: str | None = None
    text_column: str | None = None
    speaker_column: str | None = None
    task_id: str | None = None
    description: str = ""
    license: str | None = None

    def source_of(self, commit: str | None = None) -> dict[str, str | None]:
        """What readers of results are told of it; `commit` is the one that was read, where `revision` may be a branch."""
        names = ("source", "path", "config", "split", "revision", "task_id", "license", "description")
        source = {name: getattr(self, name) for name in names}
        return {**source, "revision": commit or self.revision}


@dataclass(frozen=True)
class LocalCopy(CorpusDefinition):
    """A corpus of the Hub that is read from a manifest or folder of one's own, whose columns are called as there or as usual."""


def data_definition(path: str) -> CorpusDefinition:
    """A corpus of one's own: a manifest, or a folder of audio. Its name is the file's or folder's.

    Raises:
        DataError: nothing is there.
    """
    resolved = Path(path).expanduser().resolve()
    if resolved.is_dir():
        return CorpusDefinition(resolved.name, "audiofolder", str(resolved))
    if not resolved.is_file():
        raise DataError(f"'{path}' does not exist. Give a manifest (.json, .jsonl, .csv, .tsv) or a folder of audio.")
    name = resolved.parent.name if resolved.stem in NAMED_BY_FOLDER else resolved.stem
    return CorpusDefinition(name, "manifest", str(resolved))


def find_corpus(name_or_path: str, corpus_manifests: Sequence[str] = ()) -> CorpusDefinition:
    """The definition of a corpus by its name, by the path of a definition file, or of one's own data by its path.

    Args:
        name_or_path: a name in one of the folders of definitions; or the path of a definition file, of a manifest, or
            of a folder of audio. A .json file is a definition when it is an object with 'source'.
        corpus_manifests: NAME=PATH entries; a corpus named there is read from PATH, whatever its definition says.

    Raises:
        DataError: unknown name (lists the known ones), a private corpus without its manifest, or a broken definition.
    """
    manifests = _parse_manifests(corpus_manifests)
    known = known_corpora()
    path = Path(name_or_path).expanduser()
    if name_or_path in known:
        definition = _named_definition(name_or_path, known[name_or_path])
    elif path.suffix == ".json" and _is_definition(path):
        definition = read_definition(path)
    elif path.exists() or path.suffix in SUFFIXES or len(path.parts) > 1:
        return data_definition(name_or_path)
    else:
        raise DataError(
            f"unknown corpus '{name_or_path}'. Known: {', '.join(sorted(known)) or 'none'}. "
            "Give one of them, or the path of a definition file, a manifest or a folder of audio."
        )
    if definition.name in manifests:
        own = data_definition(manifests[definition.name])
        copy = replace(
            definition, source=own.source, path=own.path, config=None, split=None, revision=None, task_id=None
        )
        return LocalCopy(**asdict(copy)) if definition.source == "hub" else copy
    if definition.source == "private":
        raise DataError(
            f"corpus '{definition.name}' is private: {definition.description or 'its audio is not published.'} "
            f"Say where your copy lies: --corpus_manifests {definition.name}=PATH."
        )
    return definition


def find_corpora(names_or_paths: Sequence[str], corpus_manifests: Sequence[str] = ()) -> list[CorpusDefinition]:
    """The definitions of several corpora (see `find_corpus`), in the order given.

    Raises:
        DataError: as `find_corpus`; or two corpora have the same name.
    """
    definitions = [find_corpus(name, corpus_manifests) for name in names_or_paths]
    seen: dict[str, str] = {}
    for given, definition in zip(names_or_paths, definitions, strict=True):
        if definition.name in seen:
            raise DataError(
                f"two corpora are named '{definition.name}': those of '{seen[definition.name]}' and '{given}'. "
                "Name each once, or rename a file: results are filed by corpus name."
            )
        seen[definition.name] = given
    return definitions


def known_corpora() -> dict[str, Path]:
    """Definition files by corpus name: the project's own, and those of recipes/corpora in the current folder."""
    here = Path.cwd() / "recipes" / "corpora"
    return {
        path.stem: path for folder in (here, recipes_folder() / "corpora") for path in sorted(folder.glob("*.json"))
    }


def _named_definition(name: str, shipped: Path) -> CorpusDefinition:
    """The definition of a known name. Raises DataError when the current folder has another one of that name."""
    own = Path.cwd() / "recipes" / "corpora" / f"{name}.json"
    if own.is_file() and own.read_bytes() != shipped.read_bytes():
        raise DataError(f"corpus '{name}' has two definitions, {shipped} and {own}: give the path of the one you mean.")
    return read_definition(shipped)


def read_definition(path: Path) -> CorpusDefinition:
    """Read one definition file; raises DataError that names the file and the field at fault."""
    try:
        values = json.loads(path.read_text(encoding="utf8"))
    except json.JSONDecodeError as error:
        raise DataError(f"corpus definition {path} line {error.lineno} is not valid JSON: {error.msg}.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"corpus definition {path} cannot be read: {error}.") from error
    allowed = [field.name for field in fields(CorpusDefinition) if field.name != "name"]
    if not isinstance(values, dict) or "source" not in values:
        raise DataError(f"corpus definition {path} must be an object with 'source'.")
    for key, value in values.items():
        if key not in allowed:
            raise DataError(f"corpus definition {path}: unknown field '{key}'. Known: {', '.join(allowed)}.")
        if value is not None and not isinstance(value, str):
            raise DataError(f"corpus definition {path}: '{key}' is {value!r}; it must be a string.")
    if values["source"] not in get_args(Source):
        raise DataError(
            f"corpus definition {path}: 'source' is {values['source']!r}; use one of {', '.join(get_args(Source))}."
        )
    if values.get("language") is not None:
        code = language_code(values["language"])
        if code is None:
            raise DataError(
                f"corpus definition {path}: 'language' is {values['language']!r}, which Whisper does not know; write a code "
                "or name as in 'fr' or 'french'."
            )
        values["language"] = code
    definition = CorpusDefinition(name=path.stem, **values)
    needed = {"hub": ("path", "split", "revision"), "manifest": ("path",), "audiofolder": ("path",), "private": ()}
    for key in needed[definition.source]:
        if not getattr(definition, key):
            raise DataError(f"corpus definition {path}: source '{definition.source}' needs '{key}'.")
    if definition.path is not None:
        # A Hub id has the look of a relative path; only one that exists beside the definition is local.
        local = (path.resolve().parent / Path(definition.path).expanduser()).resolve()
        if definition.source != "hub" or local.exists():
            definition = replace(definition, path=str(local))
    return definition


def _is_definition(path: Path) -> bool:
    """Whether a .json file is an object with 'source'; anything else is left to the manifest reader to judge."""
    if not path.is_file():
        return False
    try:
        values = json.loads(path.read_text(encoding="utf8"))
    except (ValueError, OSError):
        return False
    return isinstance(values, dict) and "source" in values


def _parse_manifests(entries: Sequence[str]) -> dict[str, str]:
    manifests = {}
    for entry in entries:
        name, equals, path = entry.partition("=")
        if not (name and equals and path):
            raise DataError(f"--corpus_manifests: {entry!r} is not NAME=PATH, as in zaion5=/data/zaion5.jsonl.")
        manifests[name] = path
    return manifests
