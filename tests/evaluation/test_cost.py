"""Load time and memory, measured in a process that has held nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fakes import ToneCorpus, exported_folder

from qat_plugin.errors import EvaluationError
from qat_plugin.evaluation.cost import longest_clip, measure_cost
from qat_plugin.export import export_onnx
from qat_plugin.fake_quant.checkpoint import read_checkpoint


def test_the_longest_clip_and_no_more_than_a_window() -> None:
    corpus = ToneCorpus()
    corpus.rows[3]["duration"] = 2.0
    row, audio = longest_clip(corpus)
    assert row["id"] == "clip3" and audio.shape == (32000,)
    corpus.rows[1]["duration"] = 40.0
    row, audio = longest_clip(corpus)
    assert row["id"] == "clip1" and audio.shape == (30 * 16000,)


def test_a_fresh_process_does_not_count_what_this_one_holds(tiny_whisper_dir: Path, tmp_path: Path) -> None:
    export_onnx(read_checkpoint(tiny_whisper_dir), tmp_path)
    ballast = np.ones(400_000_000 // 8)
    audio = np.zeros(16000, dtype=np.float32)
    found = measure_cost(tmp_path, audio, language="french", task="transcribe", num_threads=1)
    assert found["clip_seconds"] == 1.0 and 0 < found["load_seconds"] < 60
    libraries, peak = found["libraries_memory_bytes"], found["peak_memory_bytes"]
    # The model is a megabyte: what is measured is the process, not this one with its ballast on top.
    assert 50e6 < libraries < peak < libraries + ballast.nbytes


def test_what_failed_is_said(tiny_whisper_dir: Path, tmp_path: Path) -> None:
    folder = exported_folder(tmp_path, tiny_whisper_dir, "qat")  # its graphs are none
    with pytest.raises(EvaluationError, match=r"onnx/qat: load time and memory could not be measured: .*onnx"):
        measure_cost(folder, np.zeros(16000, dtype=np.float32), language="french", task="transcribe", num_threads=1)
