"""Decoding: values, not only shapes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from synthetic_speech import strongest_frequency, tone, wav_bytes, write_tone

from qat_plugin.data.audio import audio_bytes, probe_audio, read_audio
from qat_plugin.errors import DataError


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "ogg"])
@pytest.mark.parametrize("sampling_rate", [8000, 16000, 44100])
def test_any_format_and_rate_keeps_pitch_length_and_loudness(tmp_path: Path, suffix: str, sampling_rate: int) -> None:
    path = write_tone(tmp_path / f"a.{suffix}", 440.0, 2.0, sampling_rate)
    audio = read_audio(path)
    assert audio.dtype == np.float32 and audio.ndim == 1
    assert abs(len(audio) - 32000) < 0.1 * 16000  # lossy encoders pad
    assert strongest_frequency(audio) == pytest.approx(440, abs=3)
    middle = audio[8000:24000]
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.03)


def test_16_khz_mono_float_is_untouched(tmp_path: Path) -> None:
    samples = tone(300, 0.5)
    sf.write(tmp_path / "a.wav", samples, 16000, subtype="FLOAT")
    np.testing.assert_array_equal(read_audio(tmp_path / "a.wav"), samples)


def test_channels_are_averaged(tmp_path: Path) -> None:
    left, right = tone(300, 0.5), tone(500, 0.5)
    silent = np.zeros_like(left)
    sf.write(tmp_path / "a.wav", np.stack([left, right, silent], axis=1), 16000, subtype="FLOAT")
    np.testing.assert_allclose(read_audio(tmp_path / "a.wav"), (left + right) / 3, atol=1e-6)


def test_bytes_and_datasets_structs_are_read_like_paths(tmp_path: Path) -> None:
    content = wav_bytes(440)
    (tmp_path / "a.wav").write_bytes(content)
    expected = read_audio(tmp_path / "a.wav")
    for source in (
        content,
        {"bytes": content, "path": "elsewhere.wav"},
        {"bytes": None, "path": str(tmp_path / "a.wav")},
    ):
        np.testing.assert_array_equal(read_audio(source), expected)
        assert audio_bytes(source) == content


def test_other_target_rate(tmp_path: Path) -> None:
    assert len(read_audio(write_tone(tmp_path / "a.wav", seconds=1.0), sampling_rate=8000)) == 8000


def test_probe_reads_the_header(tmp_path: Path) -> None:
    sf.write(tmp_path / "a.flac", np.zeros((22050, 2), "float32"), 44100)
    info = probe_audio(tmp_path / "a.flac")
    assert (info.duration, info.sampling_rate, info.channels) == (0.5, 44100, 2)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.wav does not exist\. Correct the path"):
        read_audio(tmp_path / "nowhere.wav")


def test_text_in_the_guise_of_audio(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_text("not audio")
    for read in (read_audio, probe_audio):
        with pytest.raises(DataError, match=r"a\.wav cannot be decoded: .*Use wav, flac, mp3 or ogg"):
            read(tmp_path / "a.wav")


def test_empty_audio(tmp_path: Path) -> None:
    sf.write(tmp_path / "a.wav", np.zeros(0, "float32"), 16000)
    for read in (read_audio, probe_audio):
        with pytest.raises(DataError, match=r"a\.wav holds no audio \(0 samples\)"):
            read(tmp_path / "a.wav")


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3", "a.raw"])
def test_files_and_bytes_of_no_length(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    for read in (read_audio, probe_audio):
        with pytest.raises(DataError, match=rf"audio .*{name} is empty \(0 bytes\)\. Copy it again"):
            read(tmp_path / name)
        with pytest.raises(DataError, match=rf"embedded audio {name} is empty \(0 bytes\)"):
            read({"bytes": b"", "path": name})


@pytest.mark.parametrize("name", ["a.raw", "A.RAW"])
def test_raw_samples_are_no_audio_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(bytes(3200))
    for read in (read_audio, probe_audio):
        with pytest.raises(
            DataError, match=rf"{name} is raw: nothing in it tells its rate and format\. Write it again as"
        ):
            read(tmp_path / name)


def test_truncated_flac_is_found_without_decoding_all_of_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sf.write(tmp_path / "a.flac", rng.uniform(-0.5, 0.5, 160000), 16000)
    content = (tmp_path / "a.flac").read_bytes()
    (tmp_path / "a.flac").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"a\.flac (is truncated|cannot be decoded)"):
        probe_audio(tmp_path / "a.flac")


def test_values_that_are_not_finite(tmp_path: Path) -> None:
    samples = tone(300, 0.1)
    samples[7] = np.nan
    sf.write(tmp_path / "a.wav", samples, 16000, subtype="FLOAT")
    with pytest.raises(DataError, match=r"a\.wav holds values that are not finite"):
        read_audio(tmp_path / "a.wav")
