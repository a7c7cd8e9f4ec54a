"""Training samples from corpora that are read while training."""

from __future__ import annotations

import itertools
import logging
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import datasets
from torch.utils.data import IterableDataset, get_worker_info

from qat_plugin.data.encoding import SampleEncoder, check_length
from qat_plugin.data.joining import Clip, join_audio, join_neighbours, join_texts
from qat_plugin.data.loading import Corpus, shuffle_buffer
from qat_plugin.data.report import MIN_ROWS_FOR_SHARE, LoadReport, Rejection
from qat_plugin.data.rows import Row
from qat_plugin.data.speed import speed_of_epoch
from qat_plugin.errors import DataError

logger = logging.getLogger(__name__)

SHUFFLE_BUFFER = 256
"""Samples, still encoded, among which the next one is drawn."""

Item = TypeVar("Item")


@dataclass(frozen=True)
class _Reader:
    """One data loader worker of one of the processes that train together."""

    number: int
    workers: int
    process: int = 0
    processes: int = 1

    @property
    def readers(self) -> int:
        return self.workers * self.processes

    @property
    def place(self) -> int:
        """Among all readers: the first workers of all processes, then the second ones."""
        return self.number * self.processes + self.process


class TrainingStream(IterableDataset[dict[str, Any]]):
    """Samples as `TrainingDataset` makes them, from rows that pass once an epoch.

    Corpora take turns sample by sample; neighbours are joined within each; samples are shuffled through a buffer with
    `seed` and the epoch. Before the first `set_epoch` it is one pass over all rows, the same in every process, which is what
    calibration reads. From then on it gives this process' share of the rows, epoch after epoch without end: processes
    whose shares differ in length then still take the same number of steps. The Trainer needs `max_steps`. Data loader
    workers share the shards of a streamed corpus between them, and the rows of a loaded one.

    Attributes:
        report: rows left out for their length or because they cannot be decoded, by the latest epoch.
    """

    def __init__(
        self,
        corpora: Sequence[Corpus],
        encoder: SampleEncoder,
        *,
        join_to_seconds: float,
        max_label_length: int,
        max_samples: int | None,
        seed: int,
        max_bad_row_share: float,
        speed_perturbation: float = 0.0,
        process: tuple[int, int] = (0, 1),
    ) -> None:
        self.corpora = list(corpora)
        self.encoder = encoder
        self.join_to_seconds = join_to_seconds
        self.max_label_length = max_label_length
        self.max_samples = max_samples
        self.seed = seed
        self.max_bad_row_share = max_bad_row_share
        self.speed_perturbation = speed_perturbation
        self.process = process
        self.epoch: int | None = None
        self.report = LoadReport("training samples")
        if max_samples is not None:
            logger.warning(
                "max_train_samples on a stream: the first %d samples, shuffled through a buffer of %d; "
                "load the corpora with streaming=False to draw from all of them",
                max_samples, SHUFFLE_BUFFER,
            )  # fmt: skip

    def set_epoch(self, epoch: int) -> None:
        """Begin with the order and the speeds of this epoch; the Trainer calls this."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield samples; raises DataError when the share of rows that cannot be decoded grows too large."""
        worker = get_worker_info()
        number, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        if self.epoch is None:
            yield from self._pass(None, _Reader(number, workers))
            return
        reader = _Reader(number, workers, *self.process)
        for epoch in itertools.count(self.epoch):
            yield from self._pass(epoch, reader)
            if self.report.kept == 0:
                # A worker without rows ends, and the others of its process go on; the first one has some if any has.
                if number == 0:
                    raise DataError(
                        f"process {reader.process + 1} of {reader.processes} has no training sample: there are fewer usable "
                        f"rows than processes. Start fewer, or load the corpora with streaming=False.\n{self.report.summary()}"
                    )
                return

    def _pass(self, epoch: int | None, reader: _Reader) -> Iterator[dict[str, Any]]:
        report = self.report = LoadReport("training samples")
        corpora = [corpus.of_process(reader.process, reader.processes) for corpus in self.corpora]
        groups = _take_turns([self._groups(corpus, report, reader) for corpus in corpora])
        groups = shuffle_buffer(groups, SHUFFLE_BUFFER, random.Random(f"{self.seed}-{epoch or 0}-{reader.place}"))
        samples = self._samples(groups, report, epoch, reader)
        if self.max_samples is not None:
            share = _share(self.max_samples, reader.process, reader.processes)
            # Workers beyond the number of shards read nothing, so that their part of the samples falls to the others.
            busy = max(min(reader.workers, _shards(corpus, reader)) for corpus in corpora)
            samples = itertools.islice(samples, _share(share, reader.number, busy) if reader.number < busy else 0)
        yield from samples
        logger.log(logging.WARNING if report.bad else logging.INFO, report.summary())

    def _groups(self, corpus: Corpus, report: LoadReport, reader: _Reader) -> Iterator[list[Row]]:
        # datasets' streams divide their shards among the workers by themselves.
        rows = iter(corpus) if corpus.streaming else itertools.islice(corpus, reader.place, None, reader.readers)
        clips = self._clips(rows, report)
        max_tokens = self.max_label_length - self.encoder.num_special
        return join_neighbours(clips, max_seconds=self.join_to_seconds, max_tokens=max_tokens)

    def _clips(self, rows: Iterator[Row], report: LoadReport) -> Iterator[Clip[Row]]:
        for row in rows:
            tokens = self.encoder.text_tokens([row["text"]])[0]
            rejection = check_length(row["duration"], tokens, self.encoder, self.max_label_length)
            if rejection is None:
                yield Clip(row, row["corpus"], row["speaker"], row["language"], row["duration"], tokens)
            else:
                report.reject(f"{row['corpus']}:{row['id']}", rejection)

    def _samples(
        self, groups: Iterator[list[Row]], report: LoadReport, epoch: int | None, reader: _Reader
    ) -> Iterator[dict[str, Any]]:
        readers = {corpus.name: corpus for corpus in self.corpora}
        for count, rows in enumerate(groups):
            try:
                audio = speed_of_epoch(
                    join_audio([readers[row["corpus"]].read(row) for row in rows]),
                    self.speed_perturbation,
                    seed=self.seed,
                    epoch=epoch,
                    place=f"{reader.place}-{count}",
                    max_seconds=self.encoder.window,
                )
                text = join_texts([row["text"] for row in rows])
                sample = self.encoder.encode(audio, text, rows[0]["language"])
            except DataError as error:
                place = "+".join(row["id"] for row in rows)
                report.reject(place, Rejection("audio cannot be decoded", str(error), bad=True))
                if report.total >= MIN_ROWS_FOR_SHARE:
                    report.stop_if_too_bad(self.max_bad_row_share)
                continue
            report.keep(sum(row["duration"] for row in rows))
            yield sample


def _take_turns(sources: list[Iterator[Item]]) -> Iterator[Item]:
    while sources:
        for source in list(sources):
            try:
                yield next(source)
            except StopIteration:
                sources.remove(source)


def _share(total: int, index: int, number: int) -> int:
    """How many of `total` the `index`th of `number` gets."""
    return total // number + (index < total % number)


def _shards(corpus: Corpus, reader: _Reader) -> int:
    """Parts of a corpus that workers can read by themselves: of a loaded one, any row."""
    return corpus.rows.num_shards if isinstance(corpus.rows, datasets.IterableDataset) else reader.workers
