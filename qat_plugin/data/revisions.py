"""Which commit of a Hub dataset a run reads, where the corpus definition names a branch.

A branch moves. The commit that a run read first is kept beside its other files, and what the run does later, in its next
steps or after an interruption, reads that one again.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from qat_plugin.data.corpora import CorpusDefinition
from qat_plugin.errors import DataError
from qat_plugin.files import is_first_process, write_whole


class RunRevisions:
    """The commits of one output folder, in its file `revisions.json`: {"dataset@branch": commit}."""

    def __init__(self, output_dir: str | Path) -> None:
        self._file = Path(output_dir) / "revisions.json"

    def pin(self, definition: CorpusDefinition) -> CorpusDefinition:
        """The definition with the commit that the run read at first; as it is where the run has not read it yet.

        Raises `DataError` when the file cannot be read.
        """
        commit = self._read().get(_asked(definition))
        return definition if commit is None else replace(definition, revision=commit)

    def keep(self, definition: CorpusDefinition, commit: str | None) -> None:
        """Remember that `definition`, as it was given to `pin`, was read at `commit`; of several processes the first one does."""
        kept = self._read()
        if commit in (None, definition.revision, kept.get(_asked(definition))) or not is_first_process():
            return
        self._file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self._file, json.dumps({**kept, _asked(definition): commit}, indent=1, sort_keys=True) + "\n")

    def _read(self) -> dict[str, str]:
        if not self._file.is_file():
            return {}
        try:
            kept: dict[str, str] = json.loads(self._file.read_text(encoding="utf8"))
        except json.JSONDecodeError as error:
            raise DataError(
                f"{self._file}, line {error.lineno}: not JSON ({error.msg}); delete the file to read the newest commits"
            ) from error
        return kept


def _asked(definition: CorpusDefinition) -> str:
    # Not the corpus: one of training and one of validation may share a name.
    return f"{definition.path}@{definition.revision}"
