"""Loading a corpus: its rows checked, filtered, counted and brought to one shape, its audio left encoded."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import datasets
import numpy as np
from datasets.distributed import split_dataset_by_node
from numpy.typing import NDArray

from qat_plugin.data.audio import SAMPLING_RATE, read_audio
from qat_plugin.data.corpora import CorpusDefinition, find_corpora
from qat_plugin.data.hub import check_downloaded, describe, hub_rules, open_hub
from qat_plugin.data.local import check_local
from qat_plugin.data.report import MIN_ROWS_FOR_SHARE, LoadReport, Rejection
from qat_plugin.data.revisions import RunRevisions
from qat_plugin.data.rows import Row, RowFilter, RowRules
from qat_plugin.errors import DataError

if TYPE_CHECKING:  # the recipe imports the Trainer's arguments, and torch with them
    from qat_plugin.recipe import DataArguments, EvaluationArguments

logger = logging.getLogger(__name__)

Item = TypeVar("Item")

KEEP_ALL = RowFilter()

SHUFFLE_BUFFER = 1000
"""Rows of a stream from which `max_samples` draws: a stream cannot be drawn from as a whole."""


class NoLengthError(DataError, TypeError):
    """A stream has no length. Also a TypeError, by which `list(corpus)` learns that it must do without."""


@dataclass
class Corpus:
    """Speech that is ready to use.

    Attributes:
        definition: where it came from.
        rows: checked rows (columns as in `hub.ROW_FEATURES`); of a stream, raw ones: iterate over the corpus instead.
        report: what was kept and dropped; of a stream, by its latest iteration.
        rules: how raw rows are checked.
        revision: the Hub commit that was read, where there is one.
        max_samples, seed: of a stream, how many rows to draw and how.
        max_bad_row_share: of a stream, when to fail.
    """

    definition: CorpusDefinition
    rows: datasets.Dataset | datasets.IterableDataset
    report: LoadReport
    rules: RowRules
    revision: str | None = None
    max_samples: int | None = None
    seed: int = 42
    max_bad_row_share: float = 0.0

    @property
    def name(self) -> str:
        """The corpus' name."""
        return self.definition.name

    @property
    def streaming(self) -> bool:
        """Whether rows arrive one by one and have no known number."""
        return isinstance(self.rows, datasets.IterableDataset)

    def __len__(self) -> int:
        """Number of rows; raises NoLengthError for a stream."""
        if isinstance(self.rows, datasets.IterableDataset):
            raise NoLengthError(f"corpus '{self.name}' is streamed: its length is unknown. Load it whole instead.")
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        """Yield checked rows in order; a stream is checked, counted and reported while it passes."""
        if isinstance(self.rows, datasets.IterableDataset):
            return self._iterate_stream(self.rows)
        return iter(self.rows)

    def read(self, row: Mapping[str, Any]) -> NDArray[np.float32]:
        """Decode a row's audio: float32 of shape (samples,) at 16 kHz, mono. Raises DataError that names the row."""
        try:
            return read_audio(row["audio"], sampling_rate=SAMPLING_RATE)
        except DataError as error:
            raise DataError(f"corpus '{self.name}', row '{row['id']}': {error}") from error

    def of_process(self, index: int, number: int) -> Corpus:
        """The share of a stream that process `index` of `number` reads: whole shards, or rows where these are too few."""
        if not isinstance(self.rows, datasets.IterableDataset) or number == 1:
            return self
        if self.rows.num_shards >= number:
            rows = self.rows.shard(number, index, contiguous=False)
        else:
            rows = split_dataset_by_node(self.rows, index, number)
        return replace(self, rows=rows)

    def _iterate_stream(self, raw_rows: datasets.IterableDataset) -> Iterator[Row]:
        report = self.report = LoadReport(self.name, notes=list(self.report.notes))
        where = describe(self.definition)
        numbered: Iterator[tuple[int, dict[str, Any]]] = enumerate(raw_rows)
        if self.max_samples is not None:
            # Not datasets' own shuffle: its order depends on its version, and it sleeps 5 s when it is left early.
            numbered = shuffle_buffer(numbered, SHUFFLE_BUFFER, random.Random(self.seed))
        for number, raw in numbered:
            if self.max_samples is not None and report.kept == self.max_samples:
                break
            result = self.rules.check(raw, number)
            if isinstance(result, Rejection):
                report.reject(f"{where} streamed row {number}", result)
                if report.total >= MIN_ROWS_FOR_SHARE:
                    report.stop_if_too_bad(self.max_bad_row_share)
                continue
            report.keep(result["duration"])
            yield result
        report.stop_if_too_bad(self.max_bad_row_share)
        logger.log(logging.WARNING if report.bad else logging.INFO, report.summary())


def shuffle_buffer(items: Iterable[Item], size: int, rng: random.Random) -> Iterator[Item]:
    """Yield every item once, drawn at random from the `size` items that have come and not gone."""
    buffer: list[Item] = []
    for item in items:
        if len(buffer) < size:
            buffer.append(item)
            continue
        at = rng.randrange(size)
        yield buffer[at]
        buffer[at] = item
    rng.shuffle(buffer)
    yield from buffer


def load_corpus(
    definition: CorpusDefinition,
    *,
    streaming: bool = False,
    max_samples: int | None = None,
    seed: int = 42,
    max_bad_row_share: float = 0.01,
    keep: RowFilter = KEEP_ALL,
    num_workers: int = 1,
) -> Corpus:
    """Load, check and filter a corpus; logs its report.

    Args:
        definition: from `find_corpus` or `data_definition`.
        streaming: read a Hub dataset while iterating; local manifests are always loaded.
        max_samples: use so many rows at most. Loaded corpora are drawn from as a whole, after filtering, and keep their
            order; a stream is drawn from through a buffer of `SHUFFLE_BUFFER` rows.
        seed: of that draw.
        max_bad_row_share: the share of broken rows (0 to 1) above which the corpus is refused.
        keep: rows to leave out on purpose.
        num_workers: threads (manifests) or processes (Hub datasets) that read the audio's headers.

    Raises:
        DataError: the source cannot be read, has other columns, too many bad rows, or no row left.
    """
    if max_samples is not None and max_samples < 1:
        raise DataError(f"corpus '{definition.name}': max_samples is {max_samples}; it must be 1 or more.")
    if definition.source == "hub":
        corpus = _load_hub(definition, streaming, max_samples, seed, max_bad_row_share, keep, num_workers)
        if corpus.streaming:
            return corpus
    elif definition.source in ("manifest", "audiofolder"):
        rows, report, rules = check_local(definition, keep, max_bad_row_share, num_workers)
        corpus = Corpus(definition, _with_unique_ids(rows), report, rules)
    else:
        raise DataError(f"corpus '{definition.name}' is private. Resolve it with find_corpus and --corpus_manifests.")
    if max_samples is not None and max_samples < len(corpus):
        _draw(corpus, max_samples, seed)
    corpus.report.log()
    return corpus


def load_training_corpora(
    names_or_paths: Sequence[str],
    data_args: DataArguments,
    *,
    allow_missing_text: bool = False,
    revisions: RunRevisions,
) -> list[Corpus]:
    """The corpora to train on, filtered as the recipe says; of Hub datasets at the commits that the run has read before.

    `max_train_samples` counts training samples, which may join several rows: `training_dataset` draws them.
    """
    return [
        _load_for_run(
            definition,
            revisions,
            streaming=data_args.streaming,
            max_bad_row_share=data_args.max_bad_row_share,
            keep=RowFilter(
                min_duration=data_args.min_duration_in_seconds,
                max_duration=data_args.max_duration_in_seconds,
                require_text=not allow_missing_text,
            ),
            num_workers=data_args.preprocessing_num_workers,
        )
        for definition in find_corpora(names_or_paths, data_args.corpus_manifests)
    ]


def load_test_corpora(
    names_or_paths: Sequence[str],
    data_args: DataArguments,
    evaluation_args: EvaluationArguments,
    *,
    revisions: RunRevisions,
) -> list[Corpus]:
    """The corpora to test on, as `load_training_corpora`. No duration filter: whatever was said is part of the word error rate."""
    return [
        _load_for_run(
            definition,
            revisions,
            max_samples=evaluation_args.max_eval_samples,
            seed=data_args.sample_seed,
            max_bad_row_share=data_args.max_bad_row_share,
            keep=RowFilter(min_words=evaluation_args.min_eval_words),
            num_workers=data_args.preprocessing_num_workers,
        )
        for definition in find_corpora(names_or_paths, data_args.corpus_manifests)
    ]


def _load_for_run(definition: CorpusDefinition, revisions: RunRevisions, **options: Any) -> Corpus:
    corpus = load_corpus(revisions.pin(definition), **options)
    revisions.keep(definition, corpus.revision)
    return corpus


def _load_hub(
    definition: CorpusDefinition,
    streaming: bool,
    max_samples: int | None,
    seed: int,
    max_bad_row_share: float,
    keep: RowFilter,
    num_workers: int,
) -> Corpus:
    raw, commit = open_hub(definition, streaming=streaming)
    report = LoadReport(definition.name)
    if commit is not None and definition.revision != commit:
        report.notes.append(f"revision '{definition.revision}' is commit {commit}; name that commit to pin it")
    if isinstance(raw, datasets.IterableDataset):
        first = next(iter(raw), None)
        if first is None:
            raise DataError(f"{describe(definition)} has no row.")
        rules = hub_rules(definition, list(first), keep, raw.features)
        if max_samples is not None:
            report.notes.append(
                f"streamed: {max_samples} rows drawn with seed {seed} through a buffer of {SHUFFLE_BUFFER}, "
                "from the beginning of the corpus and not from all of it"
            )
        return Corpus(definition, raw, report, rules, commit, max_samples, seed, max_bad_row_share)
    rules = hub_rules(definition, raw.column_names, keep, raw.features)
    rows = check_downloaded(raw, rules, report, describe(definition), num_workers)
    report.stop_if_too_bad(max_bad_row_share)
    report.stop_if_empty()
    return Corpus(definition, _with_unique_ids(rows), report, rules, commit)


def _with_unique_ids(rows: datasets.Dataset) -> datasets.Dataset:
    """Number repeated ids ('clip', 'clip#2', ...): results are filed by id."""
    ids = list(rows["id"])
    if len(set(ids)) == len(ids):
        return rows
    taken = set(ids)
    seen: set[str] = set()
    unique = []
    for name in ids:
        candidate, copy = name, 1
        while candidate in seen or (copy > 1 and candidate in taken):
            copy += 1
            candidate = f"{name}#{copy}"
        seen.add(candidate)
        unique.append(candidate)
    names = rows.column_names
    return rows.remove_columns("id").add_column("id", unique).select_columns(names)


def _draw(corpus: Corpus, max_samples: int, seed: int) -> None:
    assert isinstance(corpus.rows, datasets.Dataset)
    chosen = sorted(random.Random(seed).sample(range(len(corpus.rows)), max_samples))
    corpus.report.notes.append(f"{max_samples} of {len(corpus.rows)} usable rows drawn with seed {seed}")
    corpus.rows = corpus.rows.select(chosen)
