"""Audio longer than Whisper's window, made of test prompts one after the other: the demo's long form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import soundfile

from qat_plugin.data.audio import SAMPLING_RATE, read_audio
from qat_plugin.data.joining import join_audio, join_seconds, join_texts
from qat_plugin.demo.folders import building, finished_origin
from qat_plugin.errors import DataError

FORMAT = 2
LONG_SECONDS = 65.0
CLIPS = 2
NEEDED_BYTES = 20_000_000


def make_long_clips(manifest: Path, *, min_words: int) -> Path:
    """Write `CORPUS_long/manifest.jsonl` beside the folder of `manifest`, and return it; a finished one is left as it is.

    `CLIPS` clips of `LONG_SECONDS` or a little more, from the manifest's rows of `min_words` or more words in their order.

    Raises:
        DataError: the manifest has less speech than that.
        WorkspaceError: the disk has no room, or the folder holds something else.
    """
    source = manifest.parent
    folder = source.with_name(f"{source.name}_long")
    origin = {"format": FORMAT, "corpus": source.name}
    if finished_origin(folder, origin) is None:
        with manifest.open(encoding="utf-8") as file:
            rows = [row for row in map(json.loads, file) if len(row["text"].split()) >= min_words]
        groups = _groups(rows)
        if len(groups) < CLIPS:
            raise DataError(
                f"{manifest} has too little speech for {CLIPS} clips of {LONG_SECONDS:.0f} s: fetch it again."
            )
        with building(folder, origin, needed_bytes=NEEDED_BYTES) as temporary:
            written = [_write(group, source, temporary / f"{n}.wav") for n, group in enumerate(groups, start=1)]
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in written)
            (temporary / "manifest.jsonl").write_text(lines, encoding="utf-8")
    return folder / "manifest.jsonl"


def _groups(rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The first `CLIPS` groups of neighbours that are long enough together."""
    groups: list[list[dict[str, Any]]] = []
    group: list[dict[str, Any]] = []
    for row in rows:
        group.append(row)
        if join_seconds([each["duration"] for each in group]) >= LONG_SECONDS:
            groups.append(group)
            group = []
    return groups[:CLIPS]


def _write(group: list[dict[str, Any]], source: Path, path: Path) -> dict[str, Any]:
    """Write one clip, and return its row of the manifest."""
    audio = join_audio([read_audio(str(source / row["audio"])) for row in group])
    soundfile.write(path, audio, SAMPLING_RATE, subtype="PCM_16")
    return {
        "audio": path.name,
        "text": join_texts([row["text"] for row in group]),
        "duration": round(len(audio) / SAMPLING_RATE, 3),
        "speaker": group[0]["speaker"],
        "language": group[0]["language"],
    }
