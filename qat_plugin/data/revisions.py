"""Which commit of a Hub dataset a run reads, where the corpus definition names a branch.

A branch moves. The commit that a run read first is kept beside its other files, and what the run does later, in its next
steps or after an interruption, reads that one again.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from qat_plugin.data.corpora import CorpusDefinition
from qat_plugin.errors import DataError


class RunRevisions:
    """The commits of one output folder, in its file `revisions.json`: {corpus: {path, revision, commit}}."""

    def __init__(self, output_dir: str | Path) -> None:
        self._file = Path(output_dir) / "revisions.json"

    def pin(self, definition: CorpusDefinition) -> CorpusDefinition:
        """The definition with the commit that the run read at first; as it is where the run has not read it yet.

        Raises `DataError` when the file cannot be read.
        """
        kept = self._read().get(definition.name)
        if kept is None or kept != {**_asked(definition), "commit": kept.get("commit")}:
            return definition
        return replace(definition, revision=kept["commit"])

    def keep(self, definition: CorpusDefinition, commit: str | None) -> None:
        """Remember that `definition`, as it was given to `pin`, was read at `commit`; of several processes the first one does."""
        if commit in (None, definition.revision) or os.environ.get("RANK", "0") != "0":
            return
        kept = self._read()
        entry = {**_asked(definition), "commit": commit}
        if kept.get(definition.name) == entry:
            return
        scratch = self._file.with_suffix(".tmp")
        scratch.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_text(
            json.dumps({**kept, definition.name: entry}, indent=1, sort_keys=True) + "\n", encoding="utf8"
        )
        scratch.replace(self._file)

    def _read(self) -> dict[str, Any]:
        if not self._file.is_file():
            return {}
        try:
            kept: dict[str, Any] = json.loads(self._file.read_text(encoding="utf8"))
        except json.JSONDecodeError as error:
            raise DataError(
                f"{self._file}, line {error.lineno}: not JSON ({error.msg}); delete the file to read the newest commits"
            ) from error
        return kept


def _asked(definition: CorpusDefinition) -> dict[str, str | None]:
    return {"path": definition.path, "revision": definition.revision}
