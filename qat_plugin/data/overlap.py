"""Speech that is both trained on and tested on."""

from __future__ import annotations

import hashlib
import logging
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import datasets
from tqdm.auto import tqdm

from qat_plugin.data.audio import audio_bytes
from qat_plugin.data.loading import Corpus
from qat_plugin.data.report import MAX_EXAMPLES
from qat_plugin.errors import DataError

logger = logging.getLogger(__name__)


@dataclass
class CorpusOverlap:
    """What one test corpus shares with the training speech.

    Attributes:
        test_rows: rows compared; none of a streamed corpus.
        same_text: of these, rows whose text has the same words as a training text, however they are capitalized and punctuated.
        same_audio: of these, rows whose audio file is byte for byte also a training file.
        unchecked: training corpora that it was not compared with, because either is streamed.
        without_text: training corpora some or all of whose rows have no text to compare; their audio was.
    """

    test_rows: int = 0
    same_text: int = 0
    same_audio: int = 0
    unchecked: list[str] = field(default_factory=list)
    without_text: list[str] = field(default_factory=list)


@dataclass
class OverlapReport:
    """What training and test speech share: counts of all test corpora together, and of each.

    Attributes:
        corpora: by name of the test corpus.
        examples: up to 10 lines, each naming both rows; audio first.
        unchecked: corpora that were not compared because they are streamed.
    """

    corpora: dict[str, CorpusOverlap] = field(default_factory=dict)
    examples: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)

    @property
    def test_rows(self) -> int:
        """Of all test corpora."""
        return sum(found.test_rows for found in self.corpora.values())

    @property
    def same_text(self) -> int:
        """Of all test corpora."""
        return sum(found.same_text for found in self.corpora.values())

    @property
    def same_audio(self) -> int:
        """Of all test corpora."""
        return sum(found.same_audio for found in self.corpora.values())


def assert_no_overlap(train: Sequence[Corpus], test: Sequence[Corpus]) -> OverlapReport:
    """Refuse test audio that is in the training speech; count and report test texts that are.

    Only files of the same duration are hashed, so that a large training corpus is not read a second time. Short prompts
    such as "oui" occur everywhere, so shared text alone is no error.

    Raises:
        DataError: some audio is in both; names the rows.
    """
    report = OverlapReport(unchecked=[corpus.name for corpus in [*train, *test] if corpus.streaming])
    for corpus in test:
        skipped = [other.name for other in train if corpus.streaming or other.streaming]
        report.corpora[corpus.name] = CorpusOverlap(unchecked=skipped)
    train = [corpus for corpus in train if not corpus.streaming]
    test = [corpus for corpus in test if not corpus.streaming]
    if report.unchecked:
        logger.warning("overlap of training and test speech: not checked for streamed %s", ", ".join(report.unchecked))

    texts: dict[str, str] = {}
    by_duration: dict[float, list[tuple[Corpus, int]]] = defaultdict(list)
    without_text: list[str] = []
    for corpus in train:
        has_texts = True
        for index, (name, text, duration) in enumerate(_columns(corpus)):
            by_duration[duration].append((corpus, index))
            if text is None:
                has_texts = False
            elif words := _words(text):
                texts.setdefault(words, f"{corpus.name}:{name}")
        if not has_texts:
            without_text.append(corpus.name)

    hashes: dict[tuple[int, int], str] = {}
    audio_lines, text_lines = [], []
    for corpus in test:
        found = report.corpora[corpus.name]
        found.without_text = list(without_text)
        # Of long recordings cut at round lengths, many are as long as another one, and are read.
        columns = tqdm(_columns(corpus), desc=f"{corpus.name} in the training speech?", unit="row", leave=False)
        for index, (name, text, duration) in enumerate(columns):
            found.test_rows += 1
            here = f"{corpus.name}:{name}"
            same_length = by_duration.get(duration, [])
            twin = next((row for row in same_length if _hash(hashes, row) == _hash(hashes, (corpus, index))), None)
            if twin is not None:
                found.same_audio += 1
                audio_lines.append(f"{here} is the audio of {twin[0].name}:{_row_id(*twin)}")
            if text is not None and (words := _words(text)) in texts:
                found.same_text += 1
                text_lines.append(f"{here} has the text of {texts[words]}: {text!r}")
    report.examples = (audio_lines + text_lines)[:MAX_EXAMPLES]
    if report.same_audio:
        raise DataError(
            f"{report.same_audio} audio files and {report.same_text} texts of {report.test_rows} test rows are also in "
            "the training speech:\n  " + "\n  ".join(report.examples) + "\nRemove them from one of the two."
        )
    if report.same_text:
        logger.warning(
            "%d of %d test texts are also training texts, spoken in other recordings:\n  %s",
            report.same_text, report.test_rows, "\n  ".join(report.examples),
        )  # fmt: skip
    return report


def _words(text: str) -> str:
    """Corpora write the same sentence with and without capitals and punctuation."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def _columns(corpus: Corpus) -> Iterable[tuple[str, str | None, float]]:
    assert isinstance(corpus.rows, datasets.Dataset)
    rows = corpus.rows.select_columns(["id", "text", "duration"])
    return zip(rows["id"], rows["text"], rows["duration"])


def _row_id(corpus: Corpus, index: int) -> str:
    assert isinstance(corpus.rows, datasets.Dataset)
    return str(corpus.rows[index]["id"])


def _hash(cache: dict[tuple[int, int], str], place: tuple[Corpus, int]) -> str:
    corpus, index = place
    assert isinstance(corpus.rows, datasets.Dataset)
    key = (id(corpus), index)  # a training and a test corpus may share a name
    if key not in cache:
        cache[key] = hashlib.sha256(audio_bytes(corpus.rows[index]["audio"])).hexdigest()
    return cache[key]
