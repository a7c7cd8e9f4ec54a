"""Some samples of a training dataset, as a training dataset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.utils.data import Dataset

from qat_plugin.data.loading import Corpus


class Part(Dataset[dict[str, Any]]):
    """The samples `indices` of `dataset`, a `TrainingDataset` or a part of one, with what the Trainer and records ask of it.

    Not torch's `Subset`, which fetches whole batches past the `__getitem__` of those that derive from it.
    """

    def __init__(self, dataset: Any, indices: Sequence[int]) -> None:
        self.dataset, self.indices = dataset, indices
        self.durations = [dataset.durations[i] for i in indices]

    @property
    def corpora(self) -> list[Corpus]:
        """See `TrainingDataset`."""
        corpora: list[Corpus] = self.dataset.corpora
        return corpora

    def set_epoch(self, epoch: int) -> None:
        """See `TrainingDataset.set_epoch`."""
        self.dataset.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample: dict[str, Any] = self.dataset[self.indices[index]]
        return sample
