"""Packages of synthetic sounds become 16 kHz WAV files and manifests; what was begun is never taken for done."""

import gzip
import io
import json
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import soundfile

from qat_plugin.demo import speech
from qat_plugin.demo.speech import FRENCH_CORPORA, decode, fetch_speech, prompt_clips, stamp_clips
from qat_plugin.errors import DataError, WorkspaceError


def tone(frequency: float, seconds: float = 0.5, rate: int = 16000) -> np.ndarray:
    return 0.3 * np.sin(2 * np.pi * frequency * np.arange(int(seconds * rate)) / rate)


def g722(samples: np.ndarray) -> bytes:
    av = pytest.importorskip("av")
    out = io.BytesIO()
    with av.open(out, mode="w", format="g722") as container:
        stream = container.add_stream("g722", rate=16000)
        stream.layout = "mono"
        pcm = (samples * 32767).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(pcm, format="s16", layout="mono")
        frame.sample_rate, frame.time_base = 16000, Fraction(1, 16000)
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return out.getvalue()


def ogg(samples: np.ndarray, rate: int) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, samples, rate, format="OGG", subtype="VORBIS")
    return out.getvalue()


def frequency(samples: np.ndarray) -> float:
    return float(np.argmax(np.abs(np.fft.rfft(samples))) * 16000 / len(samples))


@pytest.fixture
def french(archive, monkeypatch):
    """The French corpora, with packages of four clips in the stand-in archive."""
    texts = "; Core Sounds in French\n\nhello: Bonjour à tous.\nbeep: [a beep]\ndigits/1: un\nno-sound: rien\n"
    sounds = "usr/share/asterisk/sounds/fr_CA_f_June"
    stamps = "usr/share/tuxpaint/stamps"
    stereo = np.stack([tone(500, 1.5, 44100)] * 2, axis=1)
    contents = {
        "asterisk-core-sounds-fr": {
            "usr/share/doc/asterisk-core-sounds-fr/core-sounds-fr.txt.gz": gzip.compress(texts.encode()),
            "usr/share/doc/asterisk-core-sounds-fr/copyright": b"CC-BY-SA",
        },
        "asterisk-core-sounds-fr-g722": {
            f"{sounds}/hello.g722": g722(tone(440)),
            f"{sounds}/beep.g722": g722(tone(880)),
            f"{sounds}/digits/1.g722": g722(tone(1000, seconds=1.0)),
        },
        "tuxpaint-stamps-default": {
            f"{stamps}/animals/cat_desc_fr.ogg": ogg(stereo, 44100),
            f"{stamps}/animals/cat.txt": b"A cat.\nfr.utf8=Un chat (roux).\n",
            f"{stamps}/animals/cat_two_desc_fr.ogg": ogg(stereo, 44100),  # its container has another serial number
            f"{stamps}/animals/cat_two.txt": b"fr.utf8=Un chat encore.\n",
            "usr/share/doc/tuxpaint-stamps-default/copyright": b"GPL-2",
        },
    }
    packages = {name: archive.add(name, files) for name, files in contents.items()}
    corpora = tuple(
        replace(corpus, sources=tuple((packages[package.name], pattern) for package, pattern in corpus.sources))
        for corpus in FRENCH_CORPORA
    )
    monkeypatch.setattr(speech, "FRENCH_CORPORA", corpora)


def test_manifests_and_sounds(french, tmp_path):
    manifests = fetch_speech(tmp_path)
    assert manifests == {name: tmp_path / "speech" / name / "manifest.jsonl" for name in ("asterisk_fr", "tuxpaint_fr")}
    rows = [json.loads(line) for line in manifests["asterisk_fr"].read_text(encoding="utf-8").splitlines()]
    assert [(row["audio"], row["text"]) for row in rows] == [
        ("wav/hello.wav", "Bonjour à tous."),
        ("wav/digits/1.wav", "un"),
    ]
    assert [row["duration"] for row in rows] == pytest.approx([0.5, 1.0], abs=0.01)
    assert {(row["speaker"], row["language"]) for row in rows} == {("june_wallack_fr-CA", "fr")}
    (stamp,) = [json.loads(line) for line in manifests["tuxpaint_fr"].read_text(encoding="utf-8").splitlines()]
    assert stamp == {"audio": "wav/animals__cat.wav", "text": "Un chat roux.", "duration": 1.5,
                     "speaker": "tuxpaint_fr-FR", "language": "fr"}  # fmt: skip
    for folder, audio, expected in [("asterisk_fr", "wav/digits/1.wav", 1000), ("tuxpaint_fr", stamp["audio"], 500)]:
        info = soundfile.info(tmp_path / "speech" / folder / audio)
        assert (info.samplerate, info.channels, info.subtype) == (16000, 1, "PCM_16")
        assert frequency(soundfile.read(tmp_path / "speech" / folder / audio)[0]) == pytest.approx(expected, abs=2)
    assert (tmp_path / "speech" / "asterisk_fr" / "COPYRIGHT").read_bytes() == b"CC-BY-SA"
    origin = json.loads((tmp_path / "speech" / "tuxpaint_fr" / "source.json").read_text(encoding="utf-8"))["origin"]
    assert origin["packages"] == {"tuxpaint-stamps-default": "tuxpaint-stamps-default_1.0-1_all.deb"}


def test_second_call_starts_nothing(french, archive, tmp_path, monkeypatch, capsys):
    first = fetch_speech(tmp_path)
    calls, written = archive.calls(), first["asterisk_fr"].stat().st_mtime_ns
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **kwargs: pytest.fail("a program was started"))
    capsys.readouterr()
    assert fetch_speech(tmp_path) == first
    assert archive.calls() == calls
    assert first["asterisk_fr"].stat().st_mtime_ns == written
    assert "asterisk_fr: done already, 2 utterances" in capsys.readouterr().out


def test_interrupted_corpus_is_not_taken_for_done(french, tmp_path, monkeypatch):
    def stop_at_the_second_clip(path, content):
        if path.endswith("digits/1.g722"):
            raise KeyboardInterrupt
        return decode(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(speech, "decode", stop_at_the_second_clip)
        with pytest.raises(KeyboardInterrupt):
            fetch_speech(tmp_path)
    assert list((tmp_path / "speech").iterdir()) == []
    assert all(path.is_file() for path in fetch_speech(tmp_path).values())


def test_a_lost_file_is_made_again(french, archive, tmp_path):
    fetch_speech(tmp_path)
    calls = len(archive.calls())
    (tmp_path / "speech" / "asterisk_fr" / "wav" / "hello.wav").unlink()
    fetch_speech(tmp_path)
    assert (tmp_path / "speech" / "asterisk_fr" / "wav" / "hello.wav").is_file()
    assert [call.split()[0] for call in archive.calls()[calls:]] == ["dpkg-deb"] * 2  # read again, not downloaded


def test_a_folder_of_someone_else_is_left_alone(french, tmp_path):
    mine = tmp_path / "speech" / "asterisk_fr" / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("keep", encoding="utf-8")
    with pytest.raises(WorkspaceError, match=r"asterisk_fr exists, but has no source\.json"):
        fetch_speech(tmp_path)
    assert mine.read_text(encoding="utf-8") == "keep"


def test_no_room_on_the_disk(french, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "qat_plugin.demo.folders.shutil.disk_usage", lambda path: type("Usage", (), {"free": 5_000_000})
    )
    with pytest.raises(WorkspaceError, match=r"asterisk_fr needs 50 MB in .*, and the disk has 5 MB left"):
        fetch_speech(tmp_path)


def test_prompts_without_speech_are_left_out():
    lines = (
        "; comment\na: “Bonjour.”\nb: [beep]\nc: (silence)\nd: <tones>\ne:\nf: no file\ng: g: Deux fois\nsub/h: x: y\n"
    )
    names = ["a", "b", "c", "d", "e", "g", "sub/h"]
    files = {f"usr/share/asterisk/sounds/xx/{name}.g722": b"" for name in names}
    files["usr/share/doc/p/texts.txt.gz"] = gzip.compress(lines.encode())
    assert [(clip.name, clip.text) for clip in prompt_clips(files)] == [
        ("a", "Bonjour."),
        ("g", "Deux fois"),
        ("sub/h", "x: y"),
    ]


def test_stamps_without_text_and_the_alphabet_are_left_out():
    base = "usr/share/tuxpaint/stamps"
    files = {f"{base}/{name}_desc_fr.ogg": b"" for name in ("a/cat", "letter", "untold", "empty")}
    texts = {"a/cat": "fr.utf8=Un chat.", "letter": "fr.utf8=La lettre A", "empty": "fr.utf8="}
    files |= {f"{base}/{name}.txt": text.encode() for name, text in texts.items()}
    assert [(clip.name, clip.text) for clip in stamp_clips(files)] == [("a__cat", "Un chat.")]


def test_g722_comes_back_as_it_was():
    samples = tone(700, 1.0)
    decoded = decode("x.g722", g722(samples))
    assert decoded.dtype == np.int16
    assert abs(len(decoded) - 16000) <= 160
    lag = 22  # samples by which G.722's two filter banks delay the signal
    error = decoded[lag:15000] / 32767 - samples[: 15000 - lag]
    assert 20 * np.log10(np.std(samples) / np.std(error)) > 25


def test_undecodable_clips_are_named():
    with pytest.raises(DataError, match=r"a/x\.ogg"):
        decode("a/x.ogg", b"not audio")


def test_without_av_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(DataError, match=r"pip install 'qat-plugin\[demo\]'"):
        decode("x.g722", b"\0")
