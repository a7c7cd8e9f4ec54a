"""Two processes of one clip each train what one process of two clips trains: the loss is neither summed nor halved."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_training import tensors

WORKER = Path(__file__).with_name("two_process_worker.py")


def train(processes: int, *args: object) -> None:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={processes}",
        str(WORKER),
    ]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([*command, *map(str, args)], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_two_processes_train_what_one_trains(tiny_whisper_dir, tmp_path):
    train(1, tiny_whisper_dir, tmp_path / "one", 2)
    train(2, tiny_whisper_dir, tmp_path / "two", 1)
    one, two = tensors(tmp_path / "one" / "checkpoint-2"), tensors(tmp_path / "two" / "checkpoint-2")
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")
