"""A random Whisper of 0.3 M parameters with a byte-level tokenizer: real files, made in a second, no download."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import soundfile as sf
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizerFast,
)
from transformers.models.whisper.tokenization_whisper import LANGUAGES

from qat_plugin.fake_quant.positions import sharpen_positions

VOCAB_SIZE = 256 + 1 + 1 + len(LANGUAGES) + 6 + 1501


def tiny_tokenizer() -> WhisperTokenizerFast:
    """Whisper's special tokens, in Whisper's order, behind the 256 bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    specials = ["<|endoftext|>", "<|startoftranscript|>"]
    specials += [f"<|{code}|>" for code in LANGUAGES]
    specials += [
        "<|translate|>",
        "<|transcribe|>",
        "<|startoflm|>",
        "<|startofprev|>",
        "<|nospeech|>",
        "<|notimestamps|>",
    ]
    specials += [f"<|{i * 0.02:.2f}|>" for i in range(1501)]
    backend = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(specials[:-1501])
    backend.add_tokens(specials[-1501:])
    end = "<|endoftext|>"
    return WhisperTokenizerFast(tokenizer_object=backend, bos_token=end, eos_token=end, unk_token=end, pad_token=end)


def save_tiny_whisper(folder: Path, seed: int = 0, max_target_positions: int = 448) -> Path:
    """Write config, weights, generation config, tokenizer and feature extractor of a random Whisper to `folder`.

    What it says is noise, and never ends: few `max_target_positions` keep it short.
    """
    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer()
    token = tokenizer.convert_tokens_to_ids
    end, start = token("<|endoftext|>"), token("<|startoftranscript|>")
    ids = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end, "decoder_start_token_id": start}
    config = WhisperConfig(
        vocab_size=len(tokenizer), d_model=64, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=128, decoder_ffn_dim=128, num_mel_bins=80,
        max_source_positions=1500, max_target_positions=max_target_positions, init_std=0.2, begin_suppress_tokens=None,
        suppress_tokens=None, **ids,
    )  # fmt: skip
    model = WhisperForConditionalGeneration(config)
    # Transformers' own are the formula in float32, and would not be equal before and after quantization.
    sharpen_positions(model.model.encoder.embed_positions.weight)
    model.generation_config = GenerationConfig(
        max_length=max_target_positions, is_multilingual=True, no_timestamps_token_id=token("<|notimestamps|>"),
        prev_sot_token_id=token("<|startofprev|>"), max_initial_timestamp_index=50, return_timestamps=False,
        lang_to_id={f"<|{code}|>": token(f"<|{code}|>") for code in LANGUAGES},
        task_to_id={name: token(f"<|{name}|>") for name in ("transcribe", "translate")},
        suppress_tokens=[], begin_suppress_tokens=[end], **ids,
    )  # fmt: skip
    model.save_pretrained(folder)
    WhisperProcessor(WhisperFeatureExtractor(feature_size=80), tokenizer).save_pretrained(folder)
    return folder


def write_tones(folder: Path) -> Path:
    """Six clips of 0.6 to 1.6 s, each a chord of its own, with French text: a JSONL manifest."""
    texts = ["bonjour à tous", "merci", "il fait beau aujourd'hui", "au revoir", "un deux trois", "c'est l'été"]
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for i, text in enumerate(texts):
        seconds = 0.6 + 0.2 * i
        t = np.arange(int(16000 * seconds)) / 16000
        rng = np.random.default_rng(i)
        x = sum(0.2 * np.sin(2 * np.pi * f * t) for f in rng.uniform(150, 3000, 3)) + 0.01 * rng.standard_normal(t.size)
        sf.write(folder / f"clip{i}.wav", x.astype("float32"), 16000, subtype="PCM_16")
        rows.append(
            {"audio": f"clip{i}.wav", "text": text, "duration": seconds, "speaker": f"s{i % 2}", "language": "fr"}
        )
    path = folder / "manifest.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf8")
    return path


def split_tones(manifest: Path, folder: Path) -> tuple[Path, Path]:
    """Manifests in `folder` of the first four clips, to train on, and of the last two, to test on."""
    rows = [json.loads(line) for line in manifest.read_text("utf8").splitlines()]
    lines = [json.dumps({**row, "audio": str(manifest.parent / row["audio"])}) + "\n" for row in rows]
    paths = folder / "train.jsonl", folder / "test.jsonl"
    for path, part in zip(paths, (lines[:4], lines[4:]), strict=True):
        path.write_text("".join(part), encoding="utf8")
    return paths
