"""From a raw row of any source to the one shape that all later code reads, or to the reason why not.

Row: {"id": str, "corpus": str, "audio": {"bytes": bytes | None, "path": str | None}, "text": str | None,
"duration": float in seconds, "speaker": str | None, "language": code of Whisper's | None (the recipe's)}.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qat_plugin.data.audio import AudioSource, describe_audio, probe_audio
from qat_plugin.data.languages import language_code
from qat_plugin.data.report import Rejection
from qat_plugin.errors import DataError

Row = dict[str, Any]

AUDIO_COLUMNS = ("audio", "audio_filepath", "audio_path", "audio_file", "path", "file_name", "file", "wav", "filename")
TEXT_COLUMNS = ("text", "sentence", "transcript", "transcription", "raw_transcription", "normalized_text", "target")
LANGUAGE_COLUMNS = ("language", "locale", "lang")
SPEAKER_COLUMNS = ("speaker", "speaker_id", "client_id", "spk")
ID_COLUMNS = ("id", "utterance_id", "utt_id", "segment_id")
DURATION_COLUMNS = ("duration", "duration_in_seconds", "length_in_seconds")
RATE_COLUMNS = ("sampling_rate", "sample_rate")
OFFSET_COLUMNS = ("offset", "start", "start_time")

# A manifest's duration is a claim about the file; encoders pad by fractions of a second, no more.
DURATION_TOLERANCE_S = 0.5
DURATION_TOLERANCE_SHARE = 0.05


@dataclass(frozen=True)
class Columns:
    """Which raw column holds what; None where a corpus has no such column."""

    audio: str
    text: str | None
    speaker: str | None
    language: str | None
    id: str | None
    duration: str | None
    rate: str | None
    offset: str | None


@dataclass(frozen=True)
class RowFilter:
    """Rows to leave out on purpose.

    Attributes:
        min_duration, max_duration: bounds in seconds, inclusive; None for no upper bound.
        min_words: references of fewer words (separated by white space) are left out.
        require_text: a row without text is bad; otherwise its text is None.
    """

    min_duration: float = 0.0
    max_duration: float | None = None
    min_words: int = 0
    require_text: bool = True


def find_columns(
    found: Iterable[str],
    where: str,
    *,
    audio: str | None = None,
    text: str | None = None,
    speaker: str | None = None,
    require_text: bool = True,
    or_usual: bool = False,
) -> Columns:
    """Match the columns of a source with what a row needs.

    Args:
        found: the columns that the source has.
        where: how messages call the source.
        audio, text, speaker: names that the corpus definition gives; the usual names are tried otherwise.
        require_text: whether a source without text is an error.
        or_usual: whether the usual names are tried, too, where a given one is not there.

    Raises:
        DataError: a named column, or any column of audio or text, is missing; lists the columns found.
    """
    names = list(found)

    def pick(role: str, given: str | None, usual: tuple[str, ...], required: bool) -> str | None:
        if given in names:
            return given
        if given is not None and not or_usual:
            raise DataError(
                f"{where}: the corpus definition names the {role} column '{given}', which is not there. "
                f"Columns found: {_quoted(names)}. Correct '{role}_column'.{_nearest(given, names)}"
            )
        match = next((name for name in usual if name in names), None)
        if match is None and required:
            near = next((hint for name in usual if (hint := _nearest(name, names))), "")
            raise DataError(
                f"{where}: no {role} column. Columns found: {_quoted(names)}. "
                f"Rename the one that holds the {role} to one of {_quoted(usual)}.{near}"
            )
        return match

    audio_column = pick("audio", audio, AUDIO_COLUMNS, True)
    assert audio_column is not None
    return Columns(
        audio=audio_column,
        text=pick("text", text, TEXT_COLUMNS, require_text),
        speaker=pick("speaker", speaker, SPEAKER_COLUMNS, False),
        language=pick("language", None, LANGUAGE_COLUMNS, False),
        id=pick("id", None, ID_COLUMNS, False),
        duration=pick("duration", None, DURATION_COLUMNS, False),
        rate=pick("sampling rate", None, RATE_COLUMNS, False),
        offset=pick("offset", None, OFFSET_COLUMNS, False),
    )


@dataclass(frozen=True)
class RowRules:
    """Checks raw rows of one corpus; picklable, so that worker processes can hold it.

    Attributes:
        corpus: name that every row carries.
        columns: where the raw row holds what.
        keep: the filter.
        language: of rows that do not tell theirs; None leaves it to the recipe.
        folder: relative audio paths start here; None where the source holds only absolute ones or bytes.
        language_names: where rows hold a number for their language (`datasets.ClassLabel`): what each number means.
    """

    corpus: str
    columns: Columns
    keep: RowFilter
    folder: Path | None = None
    language: str | None = None
    language_names: tuple[str, ...] = ()

    def check(self, raw: Mapping[str, Any], number: int) -> Row | Rejection:
        """The row in its final shape, or why it is not used. `number` becomes the id where the row has none."""
        columns = self.columns
        audio = self._audio(raw.get(columns.audio))
        if isinstance(audio, Rejection):
            return audio
        if columns.offset is not None and _number(raw.get(columns.offset)):
            return Rejection(
                "segment of a longer file",
                f"'{columns.offset}' is {raw[columns.offset]!r}: the row means a part of {describe_audio(audio)}. "
                "Cut the audio into one file a row.",
                bad=True,
            )
        text = self._text(raw.get(columns.text) if columns.text is not None else None)
        if isinstance(text, Rejection):
            return Rejection(text.reason, f"{text.detail} ({describe_audio(audio)})", text.bad)
        try:
            info = probe_audio(audio)
        except DataError as error:
            missing = audio["bytes"] is None and not Path(audio["path"]).exists()
            return Rejection("audio missing" if missing else "audio unreadable", str(error), bad=True)
        wrong = self._wrong_tag(raw, audio, info.duration, info.sampling_rate)
        if wrong is not None:
            return wrong
        left_out = self._left_out(audio, info.duration, text)
        if left_out is not None:
            return left_out
        language = self._language(raw)
        if isinstance(language, Rejection):
            return language
        speaker = raw.get(columns.speaker) if columns.speaker is not None else None
        return {
            "id": self._id(raw, number),
            "corpus": self.corpus,
            "audio": audio,
            "text": text,
            "duration": info.duration,
            "speaker": None if speaker in (None, "") else str(speaker),
            "language": language,
        }

    def _audio(self, value: Any) -> dict[str, Any] | Rejection:
        if isinstance(value, Mapping) and isinstance(value.get("bytes"), bytes):
            return {"bytes": value["bytes"], "path": value.get("path")}
        if isinstance(value, Mapping):
            value = value.get("path")
            if self.folder is None and value:
                return {"bytes": None, "path": value}  # of a dataset, which may be a URL
        if not isinstance(value, str) or not value.strip():
            return Rejection("no audio", f"'{self.columns.audio}' is {value!r}, not a path. Give one.", bad=True)
        path = Path(value).expanduser()
        return {"bytes": None, "path": str(self.folder / path if self.folder is not None else path)}

    def _text(self, value: Any) -> str | Rejection | None:
        if isinstance(value, str) and value.strip():
            return value.strip()
        if value is not None and not isinstance(value, str):
            return Rejection("text is not a string", f"'{self.columns.text}' is {value!r}. Quote it.", bad=True)
        if self.keep.require_text:
            return Rejection("empty text", f"'{self.columns.text}' is {value!r}. Transcribe or remove it.", bad=True)
        return None

    def _language(self, raw: Mapping[str, Any]) -> str | Rejection | None:
        value = raw.get(self.columns.language) if self.columns.language is not None else None
        if value in (None, ""):
            return self.language
        if isinstance(value, int) and 0 <= value < len(self.language_names):
            value = self.language_names[value]
        code = language_code(str(value))
        if code is None:
            return Rejection(
                "unknown language",
                f"'{self.columns.language}' is {value!r}, which Whisper does not know. Write a code or name as in 'fr' or "
                "'french', or remove it: the recipe's language then holds.",
                bad=True,
            )
        return code

    def _wrong_tag(
        self, raw: Mapping[str, Any], audio: AudioSource, duration: float, sampling_rate: int
    ) -> Rejection | None:
        """A rate or duration that disagrees with the file: the row probably means another file."""
        tagged_rate = _number(raw.get(self.columns.rate)) if self.columns.rate is not None else None
        if tagged_rate is not None and tagged_rate != sampling_rate:
            return Rejection(
                "wrong sampling rate",
                f"'{self.columns.rate}' says {tagged_rate:g} Hz, {describe_audio(audio)} has {sampling_rate} Hz. "
                "Correct the tag or remove it: the file's own rate is always used.",
                bad=True,
            )
        tagged = _number(raw.get(self.columns.duration)) if self.columns.duration is not None else None
        tolerance = max(DURATION_TOLERANCE_S, DURATION_TOLERANCE_SHARE * duration)
        if tagged is not None and abs(tagged - duration) > tolerance:
            return Rejection(
                "wrong duration",
                f"'{self.columns.duration}' says {tagged:g} s, {describe_audio(audio)} lasts {duration:.2f} s. "
                "Check that text and audio belong together, then correct or remove the tag.",
                bad=True,
            )
        return None

    def _left_out(self, audio: AudioSource, duration: float, text: str | None) -> Rejection | None:
        where, keep = describe_audio(audio), self.keep
        if duration < keep.min_duration:
            return Rejection(f"shorter than {keep.min_duration:g} s", f"{where} lasts {duration:.2f} s", bad=False)
        if keep.max_duration is not None and duration > keep.max_duration:
            return Rejection(f"longer than {keep.max_duration:g} s", f"{where} lasts {duration:.2f} s", bad=False)
        if text is not None and len(text.split()) < keep.min_words:
            return Rejection(f"fewer than {keep.min_words} words", f"{where} says {text!r}", bad=False)
        return None

    def _id(self, raw: Mapping[str, Any], number: int) -> str:
        if self.columns.id is not None and raw.get(self.columns.id) not in (None, ""):
            return str(raw[self.columns.id])
        audio = raw[self.columns.audio]
        # A path as the manifest writes it stays the same when the folder moves; Hub names repeat, row numbers do not.
        return audio if isinstance(audio, str) else f"{number:08d}"


def _number(value: Any) -> float | None:
    """A finite number, also from a CSV's string; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names) or "none"


def _nearest(name: str, names: list[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.75)
    return f" Did you mean '{name}' where '{close[0]}' stands?" if close else ""
