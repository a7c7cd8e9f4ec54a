"""Who works on which core when torch and two ONNX Runtime sessions share a process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Torch on a single thread inside the block, then on as many as before.

    What torch does between ONNX Runtime's calls is little, and the other threads of its own would spin on, after it, on
    the cores that ONNX Runtime wants.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
