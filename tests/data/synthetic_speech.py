"""Synthetic clips and manifests for the tests of qat_plugin.data."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf
from numpy.typing import NDArray


def tone(frequency: float, seconds: float, sampling_rate: int = 16000) -> NDArray[np.float32]:
    """A sine of amplitude 0.5."""
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * sampling_rate)) / sampling_rate)).astype(
        "f4"
    )


def write_tone(path: Path, frequency: float = 440.0, seconds: float = 1.0, sampling_rate: int = 16000) -> Path:
    """A mono file in the format of its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sf.write(path, tone(frequency, seconds, sampling_rate), sampling_rate)
    return path


def wav_bytes(frequency: float, seconds: float = 1.0) -> bytes:
    """An encoded WAV file."""
    buffer = io.BytesIO()
    sf.write(buffer, tone(frequency, seconds), 16000, format="WAV")
    return buffer.getvalue()


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    """A manifest, one row a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf8")
    return path


def make_corpus(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """A manifest with one tone a row: `seconds` (default 1) and a `frequency` of its own unless given."""
    written = []
    for i, row in enumerate(rows):
        seconds, frequency = row.pop("seconds", 1.0), row.pop("frequency", 200.0 + 50 * i)
        write_tone(folder / f"clip{i}.wav", frequency, seconds)
        written.append({"audio": f"clip{i}.wav", "text": f"texte {i}", **row})
    return write_jsonl(folder / f"{folder.name}.jsonl", written)


def strongest_frequency(audio: NDArray[np.float32], sampling_rate: int = 16000) -> float:
    """Frequency in Hz of the strongest component."""
    return float(np.argmax(np.abs(np.fft.rfft(audio))) * sampling_rate / len(audio))
