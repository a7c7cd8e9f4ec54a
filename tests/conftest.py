"""What every test shares: no network, a tiny real Whisper, a few synthetic clips."""

import os
import sys
from pathlib import Path

# Before any Hugging Face import: a test that reaches for the network must fail at once, not hang.
os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false", CUDA_VISIBLE_DEVICES="")
sys.path.insert(0, str(Path(__file__).parent))

import pytest
from tiny import save_tiny_whisper, write_tones


@pytest.fixture(scope="session")
def tiny_whisper_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a saved random Whisper (d_model 64, 2 + 2 layers)."""
    return save_tiny_whisper(tmp_path_factory.mktemp("tiny-whisper"))


@pytest.fixture(scope="session")
def tones_manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JSONL manifest of six synthetic clips with French text."""
    return write_tones(tmp_path_factory.mktemp("tones"))
