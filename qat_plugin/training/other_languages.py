"""Training speech written down in languages that nobody speaks in it, so that a model quantized on it keeps them, too.

Whisper writes a clip in whatever language it is told, as words or as what sounds like some: of Polish, told French, 'La deuxième
scolaire et la colère, c'est de voir tout ce que'. Such a transcript is nothing to learn from, but a decoder that gives its
tokens the float model's probabilities has kept more of the language than one that never came by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.utils.data import ConcatDataset

from qat_plugin.data.loading import Corpus
from qat_plugin.data.part import Part


class InOtherLanguages(Part):
    """The samples of `dataset`, a `TrainingDataset`, that can be told another language than is spoken, and told it; without labels.

    The languages take turns; a sample whose own is the only one there is left out.
    """

    def __init__(self, dataset: Any, languages: Sequence[str]) -> None:
        others = [[code for code in languages if code != spoken] for spoken in dataset.languages]
        super().__init__(dataset, [i for i, codes in enumerate(others) if codes])
        self.encoder = dataset.encoder
        self.languages = [others[i][i % len(others[i])] for i in self.indices]
        self.ids = [f"{dataset.ids[i]} in {code}" for i, code in zip(self.indices, self.languages, strict=True)]

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {name: value for name, value in super().__getitem__(index).items() if name != "labels"}


class Together(ConcatDataset[dict[str, Any]]):
    """Samples as they are spoken, and behind them samples that are told another language, with their lengths.

    `own` has some samples of a `TrainingDataset`, `told` some of those `InOtherLanguages`. `heard_durations` (seconds) are those
    of the speech, in which a sample counts once.
    """

    def __init__(self, own: Part, told: Part) -> None:
        super().__init__([own, told])
        self.durations = [*own.durations, *told.durations]
        self.corpora: list[Corpus] = own.corpora
        heard = {*own.indices, *(told.dataset.indices[i] for i in told.indices)}
        self.heard_durations = [own.dataset.durations[i] for i in sorted(heard)]

    def set_epoch(self, epoch: int) -> None:
        """See `TrainingDataset.set_epoch`."""
        for dataset in self.datasets:
            dataset.set_epoch(epoch)  # type: ignore[attr-defined]
