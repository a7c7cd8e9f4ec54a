"""Training speech written down in languages that nobody speaks in it, so that a model quantized on it keeps them, too.

Whisper writes a clip in whatever language it is told, as words or as what sounds like some: of Polish, told French, 'La deuxième
scolaire et la colère, c'est de voir tout ce que'. Such a transcript is nothing to learn from, but a decoder that gives its
tokens the float model's probabilities has kept more of the language than one that never came by it.
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
    """Samples as they are spoken, and behind them samples that are told another language, with their lengths.

    `own` has some samples of a `TrainingDataset`, `told` some of those `InOtherLanguages`. `heard_durations` (seconds) are those
    of the speech, in which a sample counts once.
    """

    def __init__(self, own: Any, told: Any) -> None:
        super().__init__([own, told])
        self.durations = [*own.durations, *told.durations]
        self.corpora: list[Corpus] = own.corpora
        heard = {*own.indices, *(told.dataset.indices[i] for i in told.indices)}
        self.heard_durations = [own.dataset.durations[i] for i in sorted(heard)]

    def set_epoch(self, epoch: int) -> None:
        """See `TrainingDataset.set_epoch`."""
        for dataset in self.datasets:
            dataset.set_epoch(epoch)  # type: ignore[attr-defined]
