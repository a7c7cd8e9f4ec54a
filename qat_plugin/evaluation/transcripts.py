"""The transcripts of one arm on one corpus, on disk: written utterance by utterance, continued after an interruption.

::

    CORPUS/ARM.jsonl           one `Transcript` a line
    CORPUS/ARM.settings.json   what produced them, and whether all are there
    CORPUS/ARM.DIGEST.jsonl, CORPUS/ARM.DIGEST.settings.json   the same of other settings, by the digest of these
    CORPUS/ARM.DIGEST.left_out.jsonl   of the settings with this digest, what the corpus no longer asks for

Transcripts of other settings are never mixed: when the settings changed, both files are set aside under their digest, and
taken back when those settings come again; so are utterances when a smaller `max_eval_samples` grows again. Nothing that was
computed is lost, however often settings change.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from qat_plugin.errors import EvaluationError
from qat_plugin.files import write_whole

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Transcript:
    """One utterance as one arm heard it.

    Attributes:
        id: unique in the corpus.
        batch: id of the first utterance of the batch that it was decoded in.
        reference, hypothesis: as they are, before any normalization.
        tokens: length of the transcript in tokens.
        duration: of the audio, in seconds.
        seconds: wall time of features, generation and text; of a batch, this utterance's share by duration.
        speaker: None where the corpus does not tell.
        language: code of Whisper's, that the model was told.
        long_form: longer than the model's window, hence decoded window by window.
        hit_length_limit: generation was cut off at the model's `max_target_positions`.
        loop_cut: generation fell into a loop and was ended by the loop guard.
    """

    id: str
    batch: str
    reference: str
    hypothesis: str
    tokens: int
    duration: float
    seconds: float
    speaker: str | None
    language: str
    long_form: bool
    hit_length_limit: bool
    loop_cut: bool


class TranscriptFile:
    """Appends an arm's transcripts of a corpus, and knows which batches are there already."""

    def __init__(self, folder: Path, arm: str, settings: dict[str, Any]) -> None:
        """Open `folder`/`arm`.jsonl, continuing what was written with the same settings, then or earlier.

        Raises `EvaluationError` when a line other than a torn last one cannot be read.
        """
        self.path = folder / f"{arm}.jsonl"
        self._settings_path = _settings_path(self.path)
        self._settings = settings
        folder.mkdir(parents=True, exist_ok=True)
        self._set_aside_if_changed()
        self._set_settings(complete=False)
        self._lines = _read_lines(self.path, mend=True) if self.path.exists() else []
        self._left_out = self._aside(settings).with_suffix(".left_out.jsonl")
        left_out = _read_lines(self._left_out, mend=False) if self._left_out.exists() else []
        self._batches = {**_by_batch(left_out), **_by_batch(self._lines)}

    def __len__(self) -> int:
        """Number of transcripts on disk."""
        return len(self._lines)

    def find_batch(self, rows: Sequence[dict[str, Any]]) -> list[Transcript] | None:
        """The transcripts of these rows if they were decoded together, and the corpus says the same of them; otherwise None.

        The encoder's activations are quantized per batch, so a transcript belongs to its batch.
        """
        found = self._batches.get(rows[0]["id"], [])
        same = len(found) == len(rows) and all(_is_of(transcript, row) for transcript, row in zip(found, rows))
        if not same:
            return None
        return [replace(transcript, speaker=row.get("speaker")) for transcript, row in zip(found, rows)]

    def append(self, transcripts: Iterable[Transcript]) -> None:
        """Write transcripts and hand them to the operating system at once."""
        with self.path.open("a", encoding="utf8") as file:
            for transcript in transcripts:
                file.write(_to_line(transcript))
                file.flush()
                self._lines.append(transcript)

    def finish(self, transcripts: Sequence[Transcript]) -> None:
        """Mark the file complete. Of batches that are not among `transcripts`, because the corpus asks for fewer rows now,
        lines are kept beside it; of a batch that was decoded again, the earlier ones are dropped."""
        wanted = {transcript.batch for transcript in transcripts}
        others = [line for batch, lines in self._batches.items() if batch not in wanted for line in lines]
        # Whatever moves from one file to the other is for a moment in both, rather than in none.
        if others:
            write_whole(self._left_out, "".join(map(_to_line, others)))
        if list(transcripts) != self._lines:
            write_whole(self.path, "".join(map(_to_line, transcripts)))
        if not others:
            self._left_out.unlink(missing_ok=True)
        self._set_settings(complete=True)

    def _set_aside_if_changed(self) -> None:
        if not self.path.exists():
            self._take_back()
            return
        if not self._settings_path.exists():
            raise EvaluationError(f"{self.path} lies there without {self._settings_path.name}: delete or restore it")
        before = _read_json(self._settings_path)["settings"]
        changes = _differences(before, self._settings)
        if changes:
            previous = self._aside(before)
            # The transcripts last: while they lie here, the settings say what they are.
            _settings_path(previous).write_bytes(self._settings_path.read_bytes())
            self.path.replace(previous)
            found = self._take_back()
            logger.warning(
                "%s is %s, because its settings changed; what was there is in %s. %s",
                self.path, "taken up again" if found else "begun anew", previous.name, "; ".join(changes),
            )  # fmt: skip

    def _take_back(self) -> bool:
        """Whether transcripts of these settings had been set aside; they are in their place again."""
        aside = self._aside(self._settings)
        if not aside.exists():
            return False
        self._set_settings(complete=False)
        aside.replace(self.path)
        _settings_path(aside).unlink(missing_ok=True)
        return True

    def _aside(self, settings: dict[str, Any]) -> Path:
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
        return self.path.with_suffix(f".{digest}.jsonl")

    def _set_settings(self, *, complete: bool) -> None:
        text = json.dumps({"complete": complete, "settings": self._settings}, ensure_ascii=False, indent=1)
        write_whole(self._settings_path, text + "\n")


def _by_batch(transcripts: Iterable[Transcript]) -> dict[str, list[Transcript]]:
    batches: dict[str, list[Transcript]] = {}
    for transcript in transcripts:
        batches.setdefault(transcript.batch, []).append(transcript)
    return batches


def _is_of(transcript: Transcript, row: dict[str, Any]) -> bool:
    # Who speaks decides no word: rows may be told it later.
    said = (transcript.id, transcript.reference, transcript.duration)
    if said != (row["id"], row["text"], round(float(row["duration"]), 4)):
        return False
    # A row without a language is heard in the recipe's, which is among the settings.
    return row.get("language") in (None, transcript.language)


def read_transcripts(path: Path) -> tuple[dict[str, Any], list[Transcript]]:
    """Settings and transcripts of a finished file.

    Raises `EvaluationError` when it is missing, unfinished or damaged.
    """
    settings_path = _settings_path(path)
    if not path.exists() or not settings_path.exists():
        raise EvaluationError(f"{path}: not there; run the evaluation of this arm and corpus")
    document = _read_json(settings_path)
    if not document["complete"]:
        raise EvaluationError(f"{path}: unfinished; run the evaluation again, it goes on where it stopped")
    settings: dict[str, Any] = document["settings"]
    return settings, _read_lines(path, mend=False)


def _settings_path(path: Path) -> Path:
    return path.with_suffix(".settings.json")


def _to_line(transcript: Transcript) -> str:
    return json.dumps(asdict(transcript), ensure_ascii=False) + "\n"


def _read_lines(path: Path, *, mend: bool) -> list[Transcript]:
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data) and mend:
        # A line without its end was being written when the process died: its utterance is transcribed again.
        with path.open("r+b") as file:
            file.truncate(len(whole))
    elif len(whole) < len(data):
        raise EvaluationError(f"{path}: its last line is torn; run the evaluation again")
    return [_parse(path, number, line) for number, line in enumerate(whole.splitlines(), start=1)]


def _parse(path: Path, number: int, line: bytes) -> Transcript:
    try:
        values = json.loads(line.decode("utf8"))
    except ValueError as error:
        raise EvaluationError(f"{path}, line {number}: not JSON ({error}); delete the file to begin anew") from error
    expected = {field.name for field in fields(Transcript)}
    if not isinstance(values, dict) or set(values) != expected:
        found = sorted(values) if isinstance(values, dict) else values
        raise EvaluationError(
            f"{path}, line {number}: has {found}, expected {sorted(expected)}; delete the file to begin anew"
        )
    return Transcript(**values)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf8"))
    except ValueError as error:
        raise EvaluationError(f"{path}: not JSON ({error}); delete it and the .jsonl beside it") from error
    return document


def _differences(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    """'field: old → new' for every leaf that differs."""
    changes = []
    for name in dict.fromkeys([*before, *now]):
        old, new = before.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            changes += _differences(old, new, f"{prefix}{name}.")
        elif old != new:
            changes.append(f"{prefix}{name}: {old!r} → {new!r}")
    return changes
