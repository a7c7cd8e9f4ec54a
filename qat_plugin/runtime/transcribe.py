"""`qat-plugin transcribe FOLDER CLIP...`: audio files to text, JSON or subtitles."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm
from transformers import WhisperProcessor

from qat_plugin.data.audio import read_audio
from qat_plugin.errors import DataError, ModelError, WorkspaceError
from qat_plugin.prompt import language_and_task
from qat_plugin.runtime.decoding import Transcript, transcribe_audio
from qat_plugin.runtime.modeling import QuantizedWhisper


def add_transcribe_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments that `run_transcribe` reads."""
    parser.add_argument("folder", help="Folder of an exported model, or its Hub id.")
    parser.add_argument("clips", nargs="+", metavar="clip", help="Audio files: wav, flac, mp3, ogg, of any length.")
    parser.add_argument("--language", help="Spoken language ('fr' or 'french'); default: the one the model records.")
    parser.add_argument(
        "--encoder_context",
        choices=["auto", "full"],
        help="'auto' folds the silence behind short clips, 'full' computes the whole window. Default: the model's own.",
    )
    parser.add_argument("--task", choices=["transcribe", "translate"], help="'translate' writes English.")
    parser.add_argument(
        "--format", choices=sorted(_FORMATS), default="text", help="'json' and 'srt' come with times (default: text)."
    )
    parser.add_argument("--num_beams", type=int, default=1, help="Beams of the search; 1 is greedy (default: 1).")
    parser.add_argument("--num_threads", type=int, help="Threads; default: every physical core.")
    parser.add_argument("--output_dir", type=Path, help="Write CLIP.txt, .json or .srt there instead of to the screen.")


def run_transcribe(args: argparse.Namespace) -> int:
    """Transcribe every clip; returns 0, or 1 when some clip could not be read.

    A bad clip is reported on stderr and the others go on. Raises a `QATError` for what concerns them all: the model,
    the language, the output folder.
    """
    suffix, render = _FORMATS[args.format]
    targets = _targets(args.clips, args.output_dir, suffix)
    if args.format == "srt" and args.output_dir is None and len(args.clips) > 1:
        raise DataError(f"--format srt with {len(args.clips)} clips: subtitles are one file a clip, give --output_dir")
    if args.num_beams < 1:
        raise ModelError(f"--num_beams is {args.num_beams}: it must be at least 1")
    model = QuantizedWhisper.from_pretrained(
        args.folder, num_threads=args.num_threads, encoder_context=args.encoder_context
    )
    processor = load_processor(model)
    spoken = language_and_task(model.generation_config, args.language, args.task)
    failed = 0
    for clip, target in zip(tqdm(args.clips, unit="clip", disable=len(args.clips) == 1), targets, strict=True):
        try:
            audio = read_audio(clip)
        except DataError as error:
            tqdm.write(f"error: {error}", file=sys.stderr)
            failed += 1
            continue
        timestamps = args.format != "text"
        transcript = transcribe_audio(
            model, processor, audio, timestamps=timestamps, num_beams=args.num_beams, **spoken
        )
        described = {"file": str(clip), **spoken, "duration": round(len(audio) / 16000, 3)}
        rendered = render(transcript, described)
        if target is not None:
            _write(target, rendered + "\n")
        else:
            named = args.format == "text" and len(args.clips) > 1
            tqdm.write(f"{clip}\t{rendered}" if named else rendered, file=sys.stdout)
    if failed:
        print(f"{failed} of {len(args.clips)} clips could not be read", file=sys.stderr)
    return 1 if failed else 0


def load_processor(model: QuantizedWhisper) -> WhisperProcessor:
    """Tokenizer and feature extractor saved beside `model`. Raises `ModelError` when they are not there."""
    folder = model.files.settings
    # Without this, transformers 5 makes an empty tokenizer of nothing.
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise ModelError(f"{folder}: tokenizer.json is missing; export the model again")
    try:
        processor: WhisperProcessor = WhisperProcessor.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{folder}: tokenizer and feature extractor cannot be loaded ({str(error).splitlines()[0]}); export the "
            "model again"
        ) from error
    return processor


def _as_text(transcript: Transcript, described: dict[str, object]) -> str:
    return transcript.text


def _as_json(transcript: Transcript, described: dict[str, object]) -> str:
    segments = [{"start": round(s.start, 2), "end": round(s.end, 2), "text": s.text} for s in transcript.segments]
    return json.dumps({**described, "text": transcript.text, "segments": segments}, ensure_ascii=False)


def _as_srt(transcript: Transcript, described: dict[str, object]) -> str:
    return "\n".join(
        f"{number}\n{_srt_time(s.start)} --> {_srt_time(s.end)}\n{s.text}\n"
        for number, s in enumerate(transcript.segments, 1)
    )


def _srt_time(seconds: float) -> str:
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02},{rest % 1000:03}"


_FORMATS: dict[str, tuple[str, Callable[[Transcript, dict[str, object]], str]]] = {
    "text": (".txt", _as_text),
    "json": (".json", _as_json),
    "srt": (".srt", _as_srt),
}


def _targets(clips: list[str], output_dir: Path | None, suffix: str) -> list[Path | None]:
    """Where each clip's result goes; two clips of one name would overwrite each other and are refused beforehand."""
    if output_dir is None:
        return [None] * len(clips)
    taken: dict[str, str] = {}
    for clip in clips:
        name = Path(clip).stem + suffix
        if name in taken:
            raise DataError(
                f"{taken[name]} and {clip} would both be written to {output_dir / name}: rename one of them"
            )
        taken[name] = clip
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WorkspaceError(f"--output_dir {output_dir} cannot be made ({error.strerror}); give another") from error
    return [output_dir / name for name in taken]


def _write(path: Path, content: str) -> None:
    try:
        path.write_text(content, encoding="utf8")
    except OSError as error:
        raise WorkspaceError(
            f"{path} cannot be written ({error.strerror}); the clips before it are there, make room and run the others"
        ) from error
