from __future__ import annotations

import platform
import subprocess
import sys

import pytest
from transformers import TrainerState

from qat_plugin.training import run

# 64 MB in blocks of 1 MB, of which every other one is freed: what lies between those that stay cannot be trimmed.
SCRIPT = """
from contextlib import nullcontext
from qat_plugin.evaluation.environment import memory_bytes
from qat_plugin.memory import freed_blocks_returned_at_once, freed_memory_kept

del [bytearray(16_000_000)][0]  # from now on malloc keeps smaller blocks that are freed
{before}
with {context}:
    blocks = [bytes([number]) * 1_000_000 for number in range(64)]
    before = memory_bytes("VmRSS")
    del blocks[::2]
    print(round((before - memory_bytes("VmRSS")) / 1e6))
"""
WITHIN = "freed_blocks_returned_at_once()"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left alone")
@pytest.mark.parametrize(
    ("before", "context", "expected"),
    [
        ("", "nullcontext()", 0),
        ("", WITHIN, 32),
        (f"with {WITHIN}: pass", "nullcontext()", 0),
        ("training = freed_memory_kept(); training.__enter__()", WITHIN, 0),
        ("with freed_memory_kept(): pass", WITHIN, 32),
    ],
    ids=["by itself", "within", "afterwards", "in training", "after training"],
)
def test_freed_blocks_are_returned_within_only(before: str, context: str, expected: int) -> None:
    script = SCRIPT.format(before=before, context=context)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert abs(int(done.stdout) - expected) <= 2


def test_training_returns_what_it_kept_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[int] = []
    state = TrainerState()
    monkeypatch.setattr(run, "return_freed_memory", lambda: called.append(state.global_step))
    for step in range(1, 12):
        state.global_step = step
        run._ReturnMemory().on_step_end(None, state, None)  # type: ignore[arg-type]
    assert called == [4, 8]
