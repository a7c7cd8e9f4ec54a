"""What an arm costs to open and to run: load time and peak memory.

Each arm is measured in a process of its own: the evaluating process has had other models in its memory, and its peak is
history. A child is this module run as a script; what it prints is the figures.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qat_plugin.data.audio import SAMPLING_RATE
from qat_plugin.errors import EvaluationError
from qat_plugin.evaluation.environment import memory_bytes, physical_cores
from qat_plugin.evaluation.run import SpeechCorpus

_WINDOW_SECONDS = 30


def longest_clip(corpus: SpeechCorpus) -> tuple[dict[str, Any], NDArray[np.float32]]:
    """The row with the longest audio, of several the last by id, and its audio, cut to one window."""
    row = max(corpus, key=lambda row: (min(row["duration"], _WINDOW_SECONDS), row["id"]))
    return row, corpus.read(row)[: _WINDOW_SECONDS * SAMPLING_RATE]


def measure_cost(
    folder: Path, audio: NDArray[np.float32], *, language: str, task: str, num_threads: int | None = None
) -> dict[str, Any]:
    """Open an ONNX folder and transcribe one clip greedily, in a fresh process; Linux only.

    Args:
        folder: complete ONNX folder. Its files are read before the time is taken: a load from memory, not from disk.
        audio: 16 kHz mono, shape (samples,), at most one window of the model.
        language, task: as `generate` knows them.
        num_threads: of each of ONNX Runtime's sessions; None: one for each physical core, see `physical_cores`.

    Returns:
        "load_seconds": from the call to a model that is ready, without importing libraries;
        "clip_seconds": length of `audio`;
        "peak_memory_bytes": the most that the process ever held, libraries included;
        "libraries_memory_bytes": what it held before the model was opened.

    Raises:
        EvaluationError: the child failed; its last line is quoted.
    """
    with tempfile.TemporaryDirectory() as scratch:
        clip = Path(scratch) / "clip.npy"
        np.save(clip, audio)
        threads = physical_cores() if num_threads is None else num_threads
        asked = json.dumps([str(folder), str(clip), language, task, threads])
        child = subprocess.run(
            [sys.executable, "-m", "qat_plugin.evaluation.cost", asked],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    if child.returncode != 0:
        lines = child.stderr.strip().splitlines() or [f"exit status {child.returncode}"]
        raise EvaluationError(f"{folder}: load time and memory could not be measured: {lines[-1]}")
    figures: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    return figures


def _measure(folder: Path, clip: Path, language: str, task: str, num_threads: int) -> dict[str, Any]:
    from qat_plugin.models import load_processor
    from qat_plugin.runtime import QuantizedWhisper
    from qat_plugin.runtime.decoding import transcribe_audio

    processor, audio = load_processor(folder), np.load(clip)
    # Features once, so that what they import is not counted as the model's.
    extractor = processor.feature_extractor
    extractor(audio, sampling_rate=extractor.sampling_rate, return_tensors="pt")
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                while file.read(1 << 20):
                    pass
    libraries = memory_bytes("VmRSS")
    start = time.perf_counter()
    model = QuantizedWhisper.from_pretrained(folder, num_threads=num_threads)
    load_seconds = time.perf_counter() - start
    transcribe_audio(model, processor, audio, language=language, task=task)
    return {
        "load_seconds": round(load_seconds, 3),
        "clip_seconds": round(len(audio) / extractor.sampling_rate, 3),
        "peak_memory_bytes": memory_bytes("VmHWM"),
        "libraries_memory_bytes": libraries,
    }


if __name__ == "__main__":
    asked_folder, asked_clip, *rest = json.loads(sys.argv[1])
    print(json.dumps(_measure(Path(asked_folder), Path(asked_clip), *rest)))
