"""Real speech with its text, from Debian packages, as 16 kHz mono WAV files and JSONL manifests.

============  ====================================================================  ========
corpus        what                                                                  used for
============  ====================================================================  ========
asterisk_fr   Canadian French telephone prompts, one professional woman (CC-BY-SA)  testing
tuxpaint_fr   French descriptions of pictures, mostly one man (GPL-2)               training
asterisk_en   US English telephone prompts, one professional woman (CC-BY-SA)       training
asterisk_es   Mexican Spanish telephone prompts, the voice of asterisk_en           training
asterisk_it   Italian telephone prompts, one professional man (CC-BY)               testing
asterisk_ru   Russian telephone prompts, one professional woman (CC-BY)             training
============  ====================================================================  ========

The last four belong to the full demo: distillation from the float model learns from speech of any language, and so it is tested
on one that it does not train on, too. Each line of a manifest is ``{"audio": path relative to the manifest, "text", "duration" (s), "speaker", "language"}``.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
from tqdm import tqdm

from qat_plugin.data.audio import SAMPLING_RATE, read_audio
from qat_plugin.demo.debian import DebianPackage, fetch_packages, read_files
from qat_plugin.demo.folders import building, finished_origin
from qat_plugin.errors import DataError

Samples = npt.NDArray[np.int16] | npt.NDArray[np.float32]

FORMAT = 1
CORPUS_BYTES = 50_000_000  # more than the largest corpus takes
PROMPTS_VERSION = "1.6.1-1"


def _prompts(suffix: str, sha256: str, download_bytes: int) -> DebianPackage:
    return DebianPackage(f"asterisk-core-sounds-{suffix}", {PROMPTS_VERSION: sha256}, download_bytes)


FRENCH_TEXTS = _prompts("fr", "04c82c78c570c43a7136cbc5e2488d0c470b775468dff9fbce4a131b18cf1056", 23_152)
FRENCH_SOUNDS = _prompts("fr-g722", "7add61d5e42279ecff1bbdf842a5a946ac3644fac9a0fe44384731aa7270c8e0", 10_822_860)
ENGLISH_TEXTS = _prompts("en", "973e797d28e37fa6ca3c0a9d6fa717e77cf1268ae916bf09fd3503113cdffa50", 22_844)
ENGLISH_SOUNDS = _prompts("en-g722", "38c5261820b406dcb0ecb37675720da2b0864850690690352ca52707eb623806", 10_565_860)
SPANISH_TEXTS = _prompts("es", "9afdab7f559f036649fb406e625899306ca1004df8ebe39c30bfbd5912d66f74", 22_012)
SPANISH_SOUNDS = _prompts("es-g722", "e4e3b4281057d3b81b779298fd6be705f57411513955c518eed1bcaabbd615b8", 13_048_380)
ITALIAN_TEXTS = _prompts("it", "3884d9457e12f21caa018c18f0d587df5d53ebea14b673d8453a134c5941ab3b", 23_972)
ITALIAN_SOUNDS = _prompts("it-g722", "46b4cf7afc508a5fcfc051b7ea233251c0d195dd4ef83cc4b7facb4c6429b016", 10_087_176)
RUSSIAN_TEXTS = _prompts("ru", "28a61616bb0cd3345a7ea532dec4df9f071e5d0fa9f8c1a563ea9669002f39ab", 25_592)
RUSSIAN_SOUNDS = _prompts("ru-g722", "673b4238a6b8269960f055d868c6a11083f7a0d00979167cb01554046b48ed9b", 10_579_440)
STAMPS = DebianPackage(
    "tuxpaint-stamps-default",
    {
        "2022.06.04-1": "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",  # Debian 12
        "2025.03.31-1": "6312d03a37d0220b10fc91a7467bf2a2a2336e08c2f416de04311d25fd7aeacb",  # Debian 13
        "2025.05.26-1": "0984c76e6f68e467350bb29a2f782c20189c111c92489eebd71fd211ca9376c6",  # Debian 14, in the making
    },
    160_880_444,
)


@dataclass(frozen=True)
class Clip:
    """One utterance inside a package: `path` is its place there, `name` its WAV file's below `wav/`."""

    name: str
    path: str
    text: str


@dataclass(frozen=True)
class SpeechCorpus:
    """How a corpus is made.

    `sources` are packages, each with the regular expression of what is read from it; `left_out` names clips that are
    not taken.
    """

    name: str
    language: str
    speaker: str
    license: str
    sources: tuple[tuple[DebianPackage, str], ...]
    clips: Callable[[dict[str, bytes]], Iterator[Clip]]
    left_out: frozenset[str] = frozenset()


def fetch_speech(data_dir: Path, *, full: bool = False, allow_other_versions: bool = False) -> dict[str, Path]:
    """Manifests `data_dir/speech/CORPUS/manifest.jsonl` by corpus name; finished ones are left as they are.

    Args:
        data_dir: .deb files go to its `downloads`, and are found there the next time.
        full: the other languages' too.
        allow_other_versions: take the packages that the archive has where it has none of the pinned versions.

    Raises:
        DataError: a package cannot be had or read, or `av`, which decodes G.722, is not installed.
        WorkspaceError: the disk has no room, or a corpus' folder holds something else.
    """
    corpora = CORPORA if full else FRENCH_CORPORA
    folders = {corpus.name: data_dir / "speech" / corpus.name for corpus in corpora}
    manifests = {name: folder / "manifest.jsonl" for name, folder in folders.items()}
    unfinished = []
    for corpus in corpora:
        if finished_origin(folders[corpus.name], {"format": FORMAT}):
            print(f"[demo] {corpus.name}: done already, {describe(manifests[corpus.name])}", flush=True)
        else:
            unfinished.append(corpus)
    if unfinished:
        packages = [package for corpus in unfinished for package, _ in corpus.sources]
        debs = fetch_packages(packages, data_dir / "downloads", allow_other_versions=allow_other_versions)
    for corpus in unfinished:
        started = time.perf_counter()
        print(f"[demo] {corpus.name}: decoding into {folders[corpus.name]}", flush=True)
        _build(corpus, debs, folders[corpus.name])
        seconds = time.perf_counter() - started
        print(f"[demo] {corpus.name}: {describe(manifests[corpus.name])}, ready in {seconds:.1f} s", flush=True)
    return manifests


def describe(manifest: Path) -> str:
    """How much speech a manifest lists, in words."""
    with manifest.open(encoding="utf-8") as lines:
        durations = [json.loads(line)["duration"] for line in lines]
    return f"{len(durations)} utterances, {sum(durations) / 60:.1f} min"


def prompt_clips(files: dict[str, bytes]) -> Iterator[Clip]:
    """Clips of an Asterisk prompt set, in the order of its list of texts: lines of the form `name: text`."""
    sounds = {re.sub(r"^usr/share/asterisk/sounds/[^/]+/|\.g722$", "", path): path for path in files}
    texts = next(content for path, content in files.items() if path.endswith(".txt.gz"))
    for line in gzip.decompress(texts).decode("utf-8", errors="replace").splitlines():
        name, colon, text = line.strip().partition(":")
        text = text.removeprefix(f" {name}:").strip(' “”"')  # one line names its clip twice
        described = re.search(r"[\[(<{]", text)  # [beep], (silence), <tones>: no speech
        if not line.startswith(";") and colon and text and not described and name in sounds:
            yield Clip(name, sounds[name], text)


def stamp_clips(files: dict[str, bytes]) -> Iterator[Clip]:
    """Clips of Tux Paint's stamps: the recording X_desc_fr.ogg says what X.txt has after `fr.utf8=`."""
    for path in sorted(path for path in files if path.endswith("_desc_fr.ogg")):
        stem = path.removesuffix("_desc_fr.ogg")
        lines = files.get(f"{stem}.txt", b"").decode("utf-8", errors="replace").splitlines()
        text = next((line.removeprefix("fr.utf8=").strip() for line in lines if line.startswith("fr.utf8=")), "")
        if text and not text.lower().startswith("la lettre "):  # of these, the clips say "A" only
            name = stem.removeprefix("usr/share/tuxpaint/stamps/").replace("/", "__")
            yield Clip(name, path, re.sub(r"[()]", "", text))


def decode(path: str, content: bytes) -> Samples:
    """Samples of a clip at 16 kHz, mono: int16 for G.722, which is that already, float32 for other formats.

    Raises:
        DataError: the file cannot be decoded, or PyAV is needed for it and not installed.
    """
    if not path.endswith(".g722"):
        return read_audio({"bytes": content, "path": path}, sampling_rate=SAMPLING_RATE)
    try:
        import av
    except ImportError as error:
        raise DataError("G.722 speech is decoded by PyAV: pip install 'qat-plugin[demo]'.") from error
    try:
        with av.open(io.BytesIO(content), mode="r", format="g722") as container:
            frames = [frame.to_ndarray().reshape(-1) for frame in container.decode(audio=0)]
    except av.FFmpegError as error:
        raise DataError(f"{path} cannot be decoded as G.722: {error}.") from error
    return np.concatenate(frames).astype(np.int16, copy=False)


def _build(corpus: SpeechCorpus, debs: dict[str, Path], folder: Path) -> None:
    files: dict[str, bytes] = {}
    for package, pattern in corpus.sources:
        files.update(read_files(debs[package.name], pattern))
    clips = [clip for clip in corpus.clips(files) if clip.name not in corpus.left_out]
    if not clips:
        names = ", ".join(debs[package.name].name for package, _ in corpus.sources)
        raise DataError(f"{names}: no clip of {corpus.name} is inside. Use a version that the demo names.")
    origin = {
        "format": FORMAT,
        "license": corpus.license,
        "packages": {package.name: debs[package.name].name for package, _ in corpus.sources},
    }
    seen: set[bytes] = set()
    with building(folder, origin, needed_bytes=CORPUS_BYTES) as temporary:
        with (temporary / "manifest.jsonl").open("w", encoding="utf-8") as manifest:
            for clip in tqdm(clips, desc=corpus.name, unit="clip"):
                samples = decode(clip.path, files[clip.path])
                digest = hashlib.sha256(samples.tobytes()).digest()
                if digest not in seen:  # some recordings lie there under several names
                    seen.add(digest)
                    manifest.write(json.dumps(_write_clip(corpus, clip, samples, temporary), ensure_ascii=False) + "\n")
        notices = [content for path, content in files.items() if path.endswith("/copyright")]
        (temporary / "COPYRIGHT").write_bytes(b"\n".join(notices))


def _write_clip(corpus: SpeechCorpus, clip: Clip, samples: Samples, folder: Path) -> dict[str, str | float]:
    audio = f"wav/{clip.name}.wav"
    (folder / audio).parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(folder / audio, samples, SAMPLING_RATE, subtype="PCM_16")
    return {
        "audio": audio,
        "text": clip.text,
        "duration": round(len(samples) / SAMPLING_RATE, 3),
        "speaker": corpus.speaker,
        "language": corpus.language,
    }


def _prompt_corpus(speaker: str, license: str, texts: DebianPackage, sounds: DebianPackage) -> SpeechCorpus:
    language = texts.name[-2:]
    sources = ((texts, r"\.txt\.gz$|/copyright$"), (sounds, r"\.g722$"))
    # What is spelled alike in French, for asterisk_fr is for testing: "M I S D N", and "Radio U S B".
    left_out = frozenset({"fr": (), "es": ("spy-misdn", "spy-usbradio")}.get(language, ("spy-misdn",)))
    return SpeechCorpus(f"asterisk_{language}", language, speaker, license, sources, prompt_clips, left_out)


FRENCH_CORPORA = (
    _prompt_corpus("june_wallack_fr-CA", "CC-BY-SA-3.0", FRENCH_TEXTS, FRENCH_SOUNDS),
    SpeechCorpus(
        "tuxpaint_fr", "fr", "tuxpaint_fr-FR", "GPL-2.0-or-later",
        ((STAMPS, r"^usr/share/tuxpaint/stamps/.*(_desc_fr\.ogg|\.txt)$|/copyright$"),), stamp_clips,
    ),
)  # fmt: skip
CORPORA = (
    *FRENCH_CORPORA,
    _prompt_corpus("allison_smith_en-US", "CC-BY-SA-3.0", ENGLISH_TEXTS, ENGLISH_SOUNDS),
    _prompt_corpus("allison_smith_es-MX", "CC-BY-SA-3.0", SPANISH_TEXTS, SPANISH_SOUNDS),
    _prompt_corpus("carlo_flora_it-IT", "CC-BY-3.0", ITALIAN_TEXTS, ITALIAN_SOUNDS),
    _prompt_corpus("ivrvoice_ru-RU", "CC-BY-3.0", RUSSIAN_TEXTS, RUSSIAN_SOUNDS),
)
