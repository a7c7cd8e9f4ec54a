"""What became of a corpus' rows: counts, reasons, and examples that name file and row."""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass, field

from qat_plugin.errors import DataError

logger = logging.getLogger(__name__)

MAX_EXAMPLES = 10
"""Rows that a report names for each reason."""

MIN_ROWS_FOR_SHARE = 100
"""Rows of a stream that must have passed before the share of bad ones can stop it."""


@dataclass(frozen=True)
class Rejection:
    """Why one row is not used. `bad`: the row is broken; otherwise a filter left it out on purpose."""

    reason: str
    detail: str
    bad: bool


@dataclass
class RejectedRows:
    """All rows rejected for one reason."""

    bad: bool
    count: int = 0
    examples: list[str] = field(default_factory=list)


@dataclass
class LoadReport:
    """Counts of one pass over a corpus; `total` = `kept` + the rejected rows of every reason."""

    corpus: str
    total: int = 0
    kept: int = 0
    seconds: float = 0.0
    rejected: dict[str, RejectedRows] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def bad(self) -> int:
        """Number of broken rows."""
        return sum(rows.count for rows in self.rejected.values() if rows.bad)

    @property
    def dropped(self) -> int:
        """Number of rows that a filter left out."""
        return sum(rows.count for rows in self.rejected.values() if not rows.bad)

    def keep(self, seconds: float) -> None:
        """Count one row that is used."""
        self.total += 1
        self.kept += 1
        self.seconds += seconds

    def reject(self, place: str, rejection: Rejection) -> None:
        """Count one row that is not used, and remember where it stands."""
        self.total += 1
        rows = self.rejected.setdefault(rejection.reason, RejectedRows(rejection.bad))
        rows.count += 1
        if len(rows.examples) < MAX_EXAMPLES:
            rows.examples.append(f"{place}: {rejection.detail}")

    def stop_if_too_bad(self, max_bad_row_share: float) -> None:
        """Raise DataError, with every example of a bad row, when more than `max_bad_row_share` of the rows are bad."""
        if self.bad > max_bad_row_share * self.total:
            raise DataError(
                f"corpus '{self.corpus}': {self.bad} of {self.total} rows cannot be used "
                f"({self.bad / self.total:.1%}, allowed {max_bad_row_share:.1%}).\n{self._list(bad=True)}\n"
                "Mend these rows, or raise --max_bad_row_share to leave them out."
            )

    def stop_if_empty(self) -> None:
        """Raise DataError when no row is left."""
        if self.kept == 0:
            reasons = self._list(bad=True) + self._list(bad=False)
            raise DataError(f"corpus '{self.corpus}': none of its {self.total} rows is left.\n{reasons}".rstrip())

    def counts(self) -> str:
        """One line: what is used, and how much is not, with the reasons."""
        line = f"corpus '{self.corpus}': {self.kept} of {self.total} rows used, {self.seconds / 60:.1f} min"
        if self.rejected:
            line += f"; {self.dropped} left out by filters, {self.bad} bad"
            line += f" ({', '.join(f'{reason}: {rows.count}' for reason, rows in self.rejected.items())})"
        return line

    def summary(self) -> str:
        """The line of counts, then one for each reason with its examples."""
        return "\n".join(
            [self.counts(), *(f"  {note}" for note in self.notes)]
            + [text for text in (self._list(bad=True), self._list(bad=False)) if text]
        )

    def log(self) -> None:
        """Warn of bad rows with examples, and once in a process of what filters leave out; the rest is information."""
        if self.bad:
            logger.warning(self.summary())
            return
        if self.dropped:
            _warn_once(self.counts())
        logger.info(self.summary())

    def _list(self, *, bad: bool) -> str:
        # Bad rows are there to be mended, so all examples are shown; of those left out on purpose a few say enough.
        shown = MAX_EXAMPLES if bad else 3
        lines = []
        for reason, rows in self.rejected.items():
            if rows.bad == bad:
                lines.append(f"  {rows.count} x {reason}")
                lines += [f"    {example}" for example in rows.examples[:shown]]
                if rows.count > shown:
                    lines.append(f"    ... and {rows.count - shown} more")
        return "\n".join(lines)


@functools.cache
def _warn_once(line: str) -> None:
    # The steps of a run load the same corpora one after the other.
    logger.warning(line)
