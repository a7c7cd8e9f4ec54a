"""A small exported Whisper with its card, and the means to run scripts of JavaScript clients on it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import soundfile as sf
from card_sample import PARITY, RECIPE, describe, make_onnx_folder, measure
from tiny import save_tiny_whisper

from qat_plugin.encoder_context import EncoderContext
from qat_plugin.export import export_onnx
from qat_plugin.fake_quant import QuantizerConfig, read_checkpoint
from qat_plugin.models import load_processor, load_whisper
from qat_plugin.publishing import write_card
from qat_plugin.training.ptq import quantize_without_training

HERE = Path(__file__).parent
NODE = shutil.which("node")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
REPO = "tester/whisper-tiny-js"


def installed(package: str) -> bool:
    """Whether Node is here and the package of package.json is installed."""
    return NODE is not None and (HERE / "node_modules" / package).is_dir()


def make_model(root: Path, target: str | None, external_data_bytes: int = 10**9) -> tuple[Path, Path]:
    """ONNX folder and card folder of a random Whisper that speaks 20 tokens, none of them special; None: a float one."""
    # Of a dozen seeds the one whose first six tokens lead by 0.2 logits or more in every format, without a loop: no machine's rounding turns them.
    source, checkpoint = save_tiny_whisper(root / "tiny", seed=8, max_target_positions=24), root / "checkpoint"
    model = load_whisper(source)
    model.generation_config.suppress_tokens = list(range(model.config.eos_token_id + 1, model.config.vocab_size))
    if target is None:
        model.save_pretrained(source)
        checkpoint = source
    else:
        config = QuantizerConfig(target, 32, hot_tokens=50 if target == "int4" else 0)
        quantize_without_training(model, config, checkpoint, method="rtn", encoder_context=EncoderContext())
        load_processor(source).save_pretrained(checkpoint)
    folder = root / "onnx" / "qat"
    export_onnx(read_checkpoint(checkpoint), folder, external_data_bytes=external_data_bytes)
    (folder / "parity.json").write_text(json.dumps(PARITY))
    describe(folder, target)
    folders = {"qat": folder} | {arm: make_onnx_folder(root / "onnx" / arm, arm) for arm in ("fp", "ptq-rtn")}
    measured = measure(root / "evaluation", folders, {**RECIPE, "hub_model_id": REPO})
    return folder, write_card(measured, folder, root / "card").parent


def write_clip(path: Path) -> Path:
    """2.5 s of noise, 16 kHz, 16-bit PCM."""
    sf.write(path, 0.1 * np.random.default_rng(0).standard_normal(40_000), 16000, subtype="PCM_16")
    return path


def run_node(folder: Path, *arguments: str, **variables: str) -> str:
    """What a script in `folder` printed; its imports resolve as beside an installed package."""
    assert NODE is not None
    if not (folder / "node_modules").exists():
        (folder / "node_modules").symlink_to(HERE / "node_modules")
    environment = {"PATH": os.environ["PATH"], **variables}
    run = subprocess.run([NODE, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout
