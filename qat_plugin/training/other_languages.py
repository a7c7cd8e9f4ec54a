"""Training speech written down in languages that nobody speaks in it, so that a model quantized on it keeps them, too.

Whisper writes a clip in whatever language it is told: 'Jinak to nejde' becomes 'Y en acto neid'. Such a transcript is no
translation to learn from, but its words are those of the language, and a decoder that gives them the float model's
probabilities has kept what it knows of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.utils.data import ConcatDataset, Dataset, Subset

from qat_plugin.data.loading import Corpus


class InOtherLanguages(Dataset[dict[str, Any]]):
    """The samples of `dataset`, a `TrainingDataset`, that can be told another language than is spoken, and told it; without labels.

    The languages take turns; a sample whose own is the only one there is left out.
    """

    def __init__(self, dataset: Any, languages: Sequence[str]) -> None:
        self.dataset, self.encoder = dataset, dataset.encoder
        others = [[code for code in languages if code != spoken] for spoken in dataset.languages]
        self.indices = [i for i, codes in enumerate(others) if codes]
        self.languages = [others[i][i % len(others[i])] for i in self.indices]
        self.durations = [dataset.durations[i] for i in self.indices]
        self.ids = [f"{dataset.ids[i]} in {code}" for i, code in zip(self.indices, self.languages, strict=True)]

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
        return {name: value for name, value in self.dataset[self.indices[index]].items() if name != "labels"}


class Part(Subset[dict[str, Any]]):
    """Some samples of a dataset that has lengths and corpora, as one that has them, too."""

    def __init__(self, dataset: Any, indices: Sequence[int]) -> None:
        super().__init__(dataset, indices)
        self.durations = [dataset.durations[i] for i in indices]
        self.corpora: list[Corpus] = dataset.corpora

    def set_epoch(self, epoch: int) -> None:
        """See `TrainingDataset.set_epoch`."""
        self.dataset.set_epoch(epoch)  # type: ignore[attr-defined]


class Together(ConcatDataset[dict[str, Any]]):
    """Two datasets of the same corpora, one behind the other, with their lengths."""

    def __init__(self, first: Any, second: Any) -> None:
        super().__init__([first, second])
        self.durations = [*first.durations, *second.durations]
        self.corpora: list[Corpus] = first.corpora

    def set_epoch(self, epoch: int) -> None:
        """See `TrainingDataset.set_epoch`."""
        for dataset in self.datasets:
            dataset.set_epoch(epoch)  # type: ignore[attr-defined]
