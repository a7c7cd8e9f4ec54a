"""A corpus of pure tones, a model that tells them apart and says what it is told to, a folder that looks exported."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, WhisperProcessor

from qat_plugin.evaluation.transcripts import Transcript, TranscriptFile
from qat_plugin.runtime.logits import end_of_text

REFERENCES = ["bonjour à tous", "merci", "il fait beau", "au revoir", "un deux trois"]


class ToneCorpus:
    """Row i is a tone of its own pitch."""

    streaming = False

    def __init__(self, references: list[str | None] = REFERENCES, seconds: float = 0.5, name: str = "tones") -> None:
        self.name = name
        self.rows = [
            {"id": f"clip{i}", "text": text, "duration": seconds, "speaker": f"s{i % 2}"}
            for i, text in enumerate(references)
        ]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)

    def read(self, row: dict[str, Any]) -> np.ndarray:
        return tone(int(row["id"].removeprefix("clip")), row["duration"])


def tone(index: int, seconds: float) -> np.ndarray:
    t = np.arange(round(16000 * seconds)) / 16000
    return (0.3 * np.sin(2 * np.pi * (300 + 500 * index) * t)).astype("float32")


class FakeModel:
    """Says `texts[i]` on hearing tone i, and remembers each call's arguments."""

    def __init__(self, folder: Path, texts: list[str] = REFERENCES) -> None:
        self.config = SimpleNamespace(max_target_positions=448)
        self.generation_config = GenerationConfig.from_pretrained(folder)
        self.calls: list[dict[str, Any]] = []
        processor = WhisperProcessor.from_pretrained(folder)
        self._tokenizer = processor.tokenizer
        self._replies = {}
        for i, text in enumerate(texts):
            features = processor.feature_extractor(tone(i, 0.5), sampling_rate=16000, return_tensors="pt")
            self._replies[self._pitch(features.input_features[0])] = text
        assert len(self._replies) == len(texts)

    @staticmethod
    def _pitch(features: torch.Tensor) -> int:
        return int(features.amax(dim=1).argmax())

    def generate(self, input_features: torch.Tensor, **arguments: Any) -> dict[str, Any]:
        heard = [self._replies[self._pitch(features)] for features in input_features]
        self.calls.append({"features": tuple(input_features.shape), "heard": heard, **arguments})
        end = end_of_text(self.generation_config)
        sequences = []
        segments = []
        for text in heard:
            tokens = self._tokenizer(text, add_special_tokens=False).input_ids
            result = torch.tensor([*range(4), *tokens, end])[:448]
            sequences.append(torch.tensor(tokens))
            segments.append([{"tokens": torch.tensor(tokens), "result": result}])
        padded = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True, padding_value=end)
        return {"sequences": padded, "segments": segments}


def exported_folder(parent: Path, tiny_whisper_dir: Path, arm: str, size: int = 1000) -> Path:
    """The tiny model's settings and tokenizer beside files that stand for the graphs."""
    folder = parent / "onnx" / arm
    folder.mkdir(parents=True)
    for path in tiny_whisper_dir.iterdir():
        if path.suffix in (".json", ".txt"):
            shutil.copy(path, folder)
    (folder / "encoder_model.onnx").write_bytes(arm.encode().ljust(size, b"\0"))
    (folder / "decoder_model_merged.onnx").write_bytes(b"\1" * size)
    if not arm.startswith("fp"):
        (folder / "quantization.json").write_text(json.dumps({"target": "int4", "skip_modules": []}), encoding="utf8")
    return folder


ENVIRONMENT = {
    "cpu": "Example CPU", "cpu_flags": ["avx2"], "cores": 2, "architecture": "x86_64", "system": "Linux",
    "python": "3.11.2", "packages": {"onnxruntime": "1.31.1"},
}  # fmt: skip


def write_transcripts(
    out_dir: Path, corpus: str, arm: str, files: dict[str, Any], texts: list[tuple[str, str]], **settings: Any
) -> Path:
    """A finished file of (reference, hypothesis) pairs, two seconds of audio and half a second of work each."""
    values = {
        "arm": arm, "corpus": corpus, "language": "french", "task": "transcribe", "num_beams": 1, "loop_guard": True,
        "max_target_positions": 448, "generation_config": {"max_length": 448}, "batch_size": 1, "num_threads": 2,
        "environment": ENVIRONMENT, "files": files, **settings,
    }  # fmt: skip
    output = TranscriptFile(out_dir / corpus, arm, values)
    transcripts = [
        Transcript(
            id=f"u{i}", batch=f"u{i}", reference=reference, hypothesis=hypothesis, tokens=len(hypothesis), duration=2.0,
            seconds=0.5, speaker=f"s{i % 3}", language="fr", long_form=False, hit_length_limit=False, loop_cut=False,
        )
        for i, (reference, hypothesis) in enumerate(texts)
    ]  # fmt: skip
    output.append(transcripts)
    output.finish(transcripts)
    return output.path
