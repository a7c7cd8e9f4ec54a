"""Prompts one after the other: longer than a window, the same words in the same order."""

import json

import numpy as np
import pytest
import soundfile

from qat_plugin.demo import long_clips
from qat_plugin.demo.long_clips import make_long_clips
from qat_plugin.errors import DataError


@pytest.fixture
def manifest(tmp_path):
    folder = tmp_path / "prompts"
    folder.mkdir()
    rows = []
    for number in range(30):
        samples = np.full(16000 * 8, 0.01 * (number + 1), np.float32)
        soundfile.write(folder / f"{number}.wav", samples, 16000, subtype="PCM_16")
        text = f"texte numéro {number} entier" if number % 3 else "court"
        rows.append({"audio": f"{number}.wav", "text": text, "duration": 8.0, "speaker": "s", "language": "fr"})
    path = folder / "manifest.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_clips_are_long_and_say_what_their_prompts_say(manifest, monkeypatch):
    monkeypatch.setattr(long_clips, "LONG_SECONDS", 40.0)
    made = make_long_clips(manifest, min_words=4)
    rows = [json.loads(line) for line in made.read_text(encoding="utf-8").splitlines()]
    assert made.parent.name == "prompts_long" and len(rows) == 2
    assert rows[0]["text"] == " ".join(f"texte numéro {n} entier" for n in (1, 2, 4, 5, 7))
    for row in rows:
        samples, rate = soundfile.read(made.parent / row["audio"])
        assert rate == 16000 and len(samples) / rate == pytest.approx(row["duration"]) and row["duration"] > 40
    samples, _ = soundfile.read(made.parent / rows[1]["audio"])
    assert samples[100] == pytest.approx(0.09, abs=1e-4)  # begins with the first prompt that is not in the clip before
    before = (made.parent / "1.wav").stat().st_mtime_ns
    assert make_long_clips(manifest, min_words=4) == made
    assert (made.parent / "1.wav").stat().st_mtime_ns == before


def test_too_little_speech_is_said(manifest, monkeypatch):
    monkeypatch.setattr(long_clips, "LONG_SECONDS", 100.0)
    with pytest.raises(DataError, match="too little speech for 2 clips of 100 s"):
        make_long_clips(manifest, min_words=4)
