"""Decoding with soundfile and resampling with soxr: wav, flac, mp3, ogg of any rate and channel count, no FFmpeg."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf
from numpy.typing import NDArray

from qat_plugin.errors import DataError

SAMPLING_RATE = 16000
"""Hz; what every Whisper hears."""

AudioSource = str | Path | bytes | Mapping[str, Any]
"""A path, the bytes of an audio file, or datasets' {"bytes": ..., "path": ...} with either of them."""

# Formats whose header promises a length that a truncated file does not keep, and in which seeking is exact and cheap.
_SEEK_CHECKED = frozenset({"FLAC", "WAV", "WAVEX", "AIFF"})


@dataclass(frozen=True)
class AudioInfo:
    """What the header of an audio file says."""

    duration: float  # seconds
    sampling_rate: int  # Hz
    channels: int


def probe_audio(source: AudioSource) -> AudioInfo:
    """Read an audio file's header, and its last sample where that is cheap, without decoding the rest.

    Raises:
        DataError: the file is missing, unreadable, truncated, or holds no sample.
    """
    where = describe_audio(source)
    try:
        with sf.SoundFile(_openable(source)) as file:
            if file.frames == 0:
                raise DataError(f"{where} holds no audio (0 samples). Remove its row or record it again.")
            if file.format in _SEEK_CHECKED:
                file.seek(file.frames - 1)
                if len(file.read(1)) != 1:
                    raise DataError(f"{where} is truncated: its last sample cannot be read. Copy it again.")
            return AudioInfo(file.frames / file.samplerate, file.samplerate, file.channels)
    except sf.SoundFileError as error:
        raise _undecodable(where, error) from error


def read_audio(source: AudioSource, *, sampling_rate: int = SAMPLING_RATE) -> NDArray[np.float32]:
    """Decode an audio file to mono at `sampling_rate`.

    Args:
        source: a path, the bytes of a file, or datasets' {"bytes", "path"}.
        sampling_rate: in Hz.

    Returns:
        float32 of shape (samples,), nominally within [-1, 1]; channels are averaged.

    Raises:
        DataError: the file is missing, cannot be decoded, is empty, or holds values that are not finite.
    """
    where = describe_audio(source)
    try:
        channels, file_rate = sf.read(_openable(source), dtype="float32", always_2d=True)
    except sf.SoundFileError as error:
        raise _undecodable(where, error) from error
    if len(channels) == 0:
        raise DataError(f"{where} holds no audio (0 samples). Remove its row or record it again.")
    audio: NDArray[np.float32] = channels.mean(axis=1, dtype=np.float32)
    if not np.isfinite(audio).all():
        raise DataError(f"{where} holds values that are not finite (NaN or infinity). Write it again.")
    if file_rate != sampling_rate:
        # Imported here: evaluating 16 kHz files needs no resampler.
        import soxr

        audio = np.asarray(soxr.resample(audio, file_rate, sampling_rate), dtype=np.float32)
    return np.ascontiguousarray(audio)


def audio_bytes(source: AudioSource) -> bytes:
    """The encoded bytes of an audio file, as stored; raises DataError when it cannot be read."""
    opened = _openable(source)
    if isinstance(opened, io.BytesIO):
        return opened.getvalue()
    return Path(opened).read_bytes()


def describe_audio(source: AudioSource) -> str:
    """How messages call the file: 'audio PATH', or 'embedded audio NAME' for bytes."""
    if isinstance(source, Mapping):
        path = source.get("path")
        if source.get("bytes") is None and path is not None:
            return f"audio {path}"
        return f"embedded audio {path}" if path else "embedded audio"
    return "embedded audio" if isinstance(source, bytes) else f"audio {source}"


def _openable(source: AudioSource) -> str | io.BytesIO:
    """What soundfile can open. Missing files are found here: libsndfile calls every failure 'system error'."""
    if isinstance(source, Mapping):
        content = source.get("bytes")
        if content is not None:
            return _in_memory(source, content)
        if source.get("path") is None:
            raise DataError("audio has neither bytes nor a path. Give one of them.")
        source = str(source["path"])
    if isinstance(source, bytes):
        return _in_memory(source, source)
    path = str(source)
    try:
        if "://" in path:
            # Streams of loose files name them by URL (hf://, zip://...::hf://...); fsspec comes with datasets.
            import fsspec

            with fsspec.open(path, "rb") as remote:
                return _in_memory(source, remote.read())
        with Path(path).open("rb") as file:
            if not file.read(1):
                raise _empty(source)
    except FileNotFoundError as error:
        raise DataError(
            f"audio {path} does not exist. Correct the path; relative ones start at the manifest."
        ) from error
    except OSError as error:
        raise DataError(f"audio {path} cannot be opened: {error.strerror or error}.") from error
    if path.lower().endswith(".raw"):
        raise DataError(f"audio {path} is raw: nothing in it tells its rate and format. Write it again as wav or flac.")
    return path


def _in_memory(source: AudioSource, content: bytes) -> io.BytesIO:
    if not content:
        raise _empty(source)
    return io.BytesIO(content)


def _empty(source: AudioSource) -> DataError:
    return DataError(f"{describe_audio(source)} is empty (0 bytes). Copy it again, or remove its row.")


def _undecodable(where: str, error: sf.SoundFileError) -> DataError:
    return DataError(f"{where} cannot be decoded: {error} Use wav, flac, mp3 or ogg, or remove its row.")
