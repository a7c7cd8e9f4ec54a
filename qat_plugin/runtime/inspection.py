"""`qat-plugin inspect FOLDER`: where the bytes and the milliseconds of an exported model are, by layer and by operator."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import numpy_helper

from qat_plugin.errors import DataError
from qat_plugin.models import load_processor, part_of
from qat_plugin.runtime.files import ModelFiles, find_model_files
from qat_plugin.runtime.sessions import open_session

Feed = dict[str, NDArray[Any]]

# What a weight's initializers are called behind the module's name, and what a reader calls them.
_KINDS = {
    "weight_quantized": "integers",
    "weight_scale": "scales",
    "weight_zero_point": "scales",
    "weight_multiplier": "scales",
    "input_scale": "scales",
}
_REPEATS = 5
_PROMPT, _WINDOW_SECONDS = 4, 30.0


@dataclass(frozen=True)
class Bytes:
    """Bytes of a folder.

    `parts`: for each part of the model (`encoder.layers.0`, `decoder.embed_tokens`, ...) how many are "integers",
    "scales" (zero points and multipliers included) and "float". `graphs`: what the ONNX files hold beside weights.
    `others`: every other file.
    """

    parts: dict[str, Counter[str]]
    graphs: int
    others: dict[str, int]

    @property
    def total(self) -> int:
        """All of them."""
        return sum(sum(kinds.values()) for kinds in self.parts.values()) + self.graphs + sum(self.others.values())


@dataclass(frozen=True)
class Milliseconds:
    """Time inside ONNX Runtime's kernels for one call, medians of a few: by operator and by part of the model."""

    call: str
    operators: dict[str, float]
    parts: dict[str, float]


def count_bytes(files: ModelFiles) -> Bytes:
    """Where the bytes of an exported folder are. Reads the ONNX files, not what they were made from."""
    parts: dict[str, Counter[str]] = {}
    graphs, own = 0, set()
    for path in (files.encoder, files.decoder):
        weights = 0
        for tensor in onnx.load(str(path)).graph.initializer:
            kind = _KINDS.get(tensor.name.rpartition(".")[2], "float")
            size = numpy_helper.to_array(tensor).nbytes
            parts.setdefault(part_of(tensor.name), Counter())[kind] += size
            weights += size
        belonging = [path, *path.parent.glob(f"{path.name}_data*")]
        own.update(belonging)
        graphs += sum(file.stat().st_size for file in belonging) - weights
    folders = {files.settings, files.encoder.parent}
    others = {
        p.name: p.stat().st_size for folder in folders for p in sorted(folder.iterdir()) if p.is_file() and p not in own
    }
    return Bytes(parts, graphs, others)


def measure(files: ModelFiles, seconds: float, num_threads: int | None) -> list[Milliseconds]:
    """Kernel times of the encoder for a clip of so many seconds, of the decoder's first call and of a later one."""
    extractor = load_processor(files.settings).feature_extractor
    noise = np.random.default_rng(0).standard_normal(round(seconds * extractor.sampling_rate)).astype(np.float32)
    features = extractor(0.1 * noise, sampling_rate=extractor.sampling_rate, return_tensors="np").input_features
    encoder: Feed = {"input_features": features}
    states = open_session(files.encoder, num_threads).run(None, encoder)[0]

    def decoder(tokens: int, past: int, cached: bool) -> Callable[[ort.InferenceSession], Feed]:
        def feed(session: ort.InferenceSession) -> Feed:
            found: Feed = {
                "input_ids": np.ones((1, tokens), np.int64),
                "encoder_hidden_states": states,
                "use_cache_branch": np.array([cached]),
            }
            for value in session.get_inputs():
                if value.name.startswith("past_key_values"):
                    _, heads, _, width = value.shape
                    length = states.shape[1] if ".encoder." in value.name else past
                    found[value.name] = np.zeros((1, heads, length if cached else 0, width), np.float32)
            return found

        return feed

    return [
        _profile(f"encoder, {seconds:g} s of speech", files.encoder, lambda _: encoder, num_threads),
        _profile(f"decoder, first call ({_PROMPT} tokens)", files.decoder, decoder(_PROMPT, 0, False), num_threads),
        _profile("decoder, one token behind 16", files.decoder, decoder(1, 16, True), num_threads),
    ]


def _profile(
    call: str, path: Path, feed: Callable[[ort.InferenceSession], Feed], num_threads: int | None
) -> Milliseconds:
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(path, num_threads, Path(folder) / "profile")
        inputs = feed(session)
        for _ in range(_REPEATS + 1):
            session.run(None, inputs)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf8"))
    durations: dict[tuple[str, str], list[float]] = {}  # operator and node: the time of each run
    for event in events:
        # The kernel of an If only waits for those inside it.
        if event.get("name", "").endswith("_kernel_time") and event["args"]["op_name"] != "If":
            durations.setdefault((event["args"]["op_name"], event["name"]), []).append(event["dur"] / 1000)
    operators: dict[str, float] = {}
    parts: dict[str, float] = {}
    for (operator, node), times in durations.items():
        # The first run warms up.
        median = float(np.median(times[1:] or times))
        operators[operator] = operators.get(operator, 0.0) + median
        parts[part_of(node)] = parts.get(part_of(node), 0.0) + median
    return Milliseconds(call, operators, parts)


def add_inspect_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments that `run_inspect` reads."""
    parser.add_argument("folder", metavar="FOLDER", help="Folder that 'qat-plugin export' wrote, or a Hub id.")
    parser.add_argument("--seconds", type=float, default=4.0, help="Length of the clip that is timed (default: 4).")
    parser.add_argument("--num_threads", type=int, help="Threads; default: every physical core.")
    parser.add_argument("--format", choices=["text", "json"], default="text", help="Default: text.")


def run_inspect(args: argparse.Namespace) -> int:
    """Print where the bytes and the milliseconds are; returns 0. Raises `DataError` for an impossible length."""
    if not 0 < args.seconds <= _WINDOW_SECONDS:
        raise DataError(f"--seconds is {args.seconds:g}: it must be above 0 and at most {_WINDOW_SECONDS:g}")
    files = find_model_files(args.folder)
    size, times = count_bytes(files), measure(files, args.seconds, args.num_threads)
    if args.format == "json":
        calls = [{"call": t.call, "operators": t.operators, "parts": t.parts} for t in times]
        print(json.dumps({"bytes": {**vars(size), "total": size.total}, "milliseconds": calls}, indent=1))
        return 0
    print(_bytes_table(size))
    for call in times:
        print(f"\n{call.call}: {sum(call.operators.values()):.1f} ms in kernels")
        for column in (call.operators, call.parts):
            total = sum(column.values())
            rows = ", ".join(f"{name} {ms:.2f} ({ms / total:.0%})" for name, ms in _largest(column))
            print(f"  {rows}")
    return 0


def _largest(column: dict[str, float], count: int = 8) -> list[tuple[str, float]]:
    return sorted(column.items(), key=lambda item: -item[1])[:count]


def _bytes_table(size: Bytes) -> str:
    kinds = ("integers", "scales", "float")
    lines = [f"{'part':<28}" + "".join(f"{kind:>12}" for kind in kinds) + f"{'MB':>10}{'share':>8}"]
    for part, found in sorted(size.parts.items(), key=lambda item: -sum(item[1].values())):
        whole = sum(found.values())
        cells = "".join(f"{found[kind] / 1e6:>12.3f}" for kind in kinds)
        lines.append(f"{part:<28}{cells}{whole / 1e6:>10.3f}{whole / size.total:>8.1%}")
    for name, count in {"graphs without weights": size.graphs, **size.others}.items():
        lines.append(f"{name:<28}{'':>36}{count / 1e6:>10.3f}{count / size.total:>8.1%}")
    lines.append(f"{'all':<28}{'':>36}{size.total / 1e6:>10.3f}{1:>8.0%}")
    return "\n".join(lines)
