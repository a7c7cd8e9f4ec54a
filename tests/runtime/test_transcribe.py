"""`qat-plugin transcribe` as a user runs it: files in, text, JSON or subtitles out."""

import argparse
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from noise import noise
from transformers import WhisperProcessor

from qat_plugin.data.audio import read_audio
from qat_plugin.errors import DataError, ModelError, WorkspaceError
from qat_plugin.runtime import QuantizedWhisper
from qat_plugin.runtime.decoding import transcribe_audio
from qat_plugin.runtime.transcribe import add_transcribe_arguments, run_transcribe


def run(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    add_transcribe_arguments(parser)
    return run_transcribe(parser.parse_args([str(argument) for argument in arguments]))


@pytest.fixture(scope="module")
def folder(tiny_onnx_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model with a limit that keeps its endless babble short."""
    folder = tmp_path_factory.mktemp("model") / "onnx"
    shutil.copytree(tiny_onnx_dir, folder)
    settings = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**settings, "max_length": 30}))
    return folder


@pytest.fixture
def clips(tmp_path: Path) -> list[Path]:
    """A stereo wav of 8 kHz and an mp3, each under two seconds."""
    wav, mp3 = tmp_path / "clips" / "één.wav", tmp_path / "clips" / "two.mp3"
    wav.parent.mkdir()
    sf.write(wav, np.stack([noise(0.8), noise(0.8, seed=2)], axis=1), 8000)
    sf.write(mp3, noise(1.2, seed=1), 16000)
    return [wav, mp3]


@pytest.fixture
def expected(folder: Path, clips: list[Path], processor: WhisperProcessor) -> list[str]:
    """Text of each clip."""
    model = QuantizedWhisper.from_pretrained(folder)
    return [transcribe_audio(model, processor, read_audio(clip), language="fr").text for clip in clips]


def test_text_of_one_clip(
    folder: Path, clips: list[Path], expected: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, clips[0], "--language", "fr") == 0
    assert capsys.readouterr().out == expected[0] + "\n"


def test_text_of_several_clips_names_them(
    folder: Path, clips: list[Path], expected: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, *clips, "--language", "french") == 0
    assert capsys.readouterr().out == "".join(f"{c}\t{t}\n" for c, t in zip(clips, expected, strict=True))


def test_bad_clips_do_not_stop_the_others(
    folder: Path, clips: list[Path], expected: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noise_file = tmp_path / "noise.wav"
    noise_file.write_bytes(b"not audio")
    missing, output = tmp_path / "missing.flac", tmp_path / "out"
    arguments = [noise_file, clips[0], missing, clips[1], "--language", "fr", "--output_dir", output]
    assert run(folder, *arguments) == 1
    errors = capsys.readouterr().err
    assert re.search(rf"error: audio {noise_file} cannot be decoded", errors)
    assert re.search(rf"error: audio {missing} does not exist", errors)
    assert "2 of 4 clips could not be read" in errors
    written = {path.name: path.read_text(encoding="utf8") for path in output.iterdir()}
    assert written == {"één.txt": expected[0] + "\n", "two.txt": expected[1] + "\n"}


def test_json(folder: Path, clips: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, *clips, "--language", "fr", "--format", "json") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["file"] for row in rows] == [str(clip) for clip in clips]
    assert rows[0].keys() == {"file", "language", "task", "duration", "text", "segments"}
    assert (rows[0]["language"], rows[0]["task"]) == ("fr", "transcribe")
    assert rows[0]["duration"] == pytest.approx(1.6, abs=0.01)  # 0.8 s of samples for 16 kHz, written as 8 kHz
    assert all(0 <= s["start"] <= s["end"] <= 1.6 for s in rows[0]["segments"])


def test_srt_of_long_audio(folder: Path, tmp_path: Path) -> None:
    sf.write(tmp_path / "long.wav", noise(40), 16000)
    output = tmp_path / "subtitles"
    assert run(folder, tmp_path / "long.wav", "--language", "fr", "--format", "srt", "--output_dir", output) == 0
    blocks = (output / "long.srt").read_text(encoding="utf8").strip().split("\n\n")
    stamp = r"00:00:\d\d,\d{3}"
    for number, block in enumerate(blocks, 1):
        assert re.fullmatch(rf"{number}\n{stamp} --> {stamp}\n.+", block, re.DOTALL), block


def test_language_is_needed(folder: Path, clips: list[Path]) -> None:
    with pytest.raises(ModelError, match=r"no language is given .* \(--language on the command line\)"):
        run(folder, clips[0])


def test_several_subtitles_need_a_folder(folder: Path, clips: list[Path]) -> None:
    with pytest.raises(DataError, match=r"--format srt with 2 clips: .* give --output_dir"):
        run(folder, *clips, "--language", "fr", "--format", "srt")


def test_clips_of_one_name(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a/x.wav and b/x.mp3 would both be written to .*x.txt: rename one"):
        run(folder, "a/x.wav", "b/x.mp3", "--language", "fr", "--output_dir", tmp_path)


def test_output_dir_that_is_a_file(folder: Path, clips: list[Path], tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(WorkspaceError, match=r"--output_dir .*out cannot be made \(File exists\)"):
        run(folder, clips[0], "--language", "fr", "--output_dir", tmp_path / "out")


def test_no_beams(folder: Path, clips: list[Path]) -> None:
    with pytest.raises(ModelError, match="--num_beams is 0: it must be at least 1"):
        run(folder, clips[0], "--language", "fr", "--num_beams", 0)


def test_folder_without_tokenizer(folder: Path, clips: list[Path], tmp_path: Path) -> None:
    for path in folder.iterdir():
        if not path.name.startswith(("tokenizer", "vocab")):
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ModelError, match=r"tokenizer\.json is missing; export the model again"):
        run(tmp_path, clips[0], "--language", "fr")
