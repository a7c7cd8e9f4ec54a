"""How sure a WER and a difference of two WERs are: the paired bootstrap over speakers or utterances.

Units are drawn with replacement, as many as there are, and a rate of sums is taken anew for every draw (Bisani and
Ney, "Bootstrap estimates for confidence intervals in ASR performance evaluation", ICASSP 2004). Arms that are compared
share the draws, so what is hard for all of them cancels out. With several corpora each is drawn from by itself: pooled
figures keep the corpora's proportions.

A unit is a speaker with all that he or she said, where the corpus tells enough of them: utterances of one speaker err
together, and drawn one by one they feign more evidence than there is. Otherwise a unit is an utterance, and the interval
speaks for more speech of these speakers only.

Of few units the middle 95 % of the draws are too narrow: the draws' variance is that of `n - 1` in `n`, and its own
uncertainty is left out. So the quantiles are taken further out, where the middle 95 % of Student's t with `n - 1` degrees
of freedom would lie (the expanded percentile interval of Hesterberg, "What Teachers Should Know about the Bootstrap",
The American Statistician 2015). For hundreds of utterances that changes nothing to speak of. Pooled corpora have the degrees
of freedom of Satterthwaite ("An Approximate Distribution of Estimates of Variance Components", Biometrics 1946): where most of
the doubt comes from a corpus of few units, hundreds of units of another do not make up for it.

Fewer than `MIN_UNITS` units have no interval at all, hence no p-value and no verdict: that is the one place where it is
decided. Two clips that happen to agree would have an interval of no width, nine with no error one from 0 to 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal, Optional

import numpy as np
from numpy.typing import NDArray

from qat_plugin.errors import EvaluationError

CONFIDENCE = 0.95
METHOD = "expanded percentile"
DEFAULT_RESAMPLES = 2000
DEFAULT_SEED = 20240229

MIN_UNITS = 10
"""Fewest units that are drawn, of every corpus of a figure. Of fewer, so few different draws are possible that even the
expanded interval falls short of what more speech does (the tests measure its coverage). Where the speakers are fewer,
utterances are drawn, and the interval claims no more than these speakers."""

MIN_RESAMPLES = 200
"""Fewest draws: with fewer, the quantile at which the interval of `MIN_UNITS` units ends lies beyond the last of them."""

_MAX_DRAWS_AT_ONCE = 4_000_000
_NORMAL = NormalDist()

Counts = NDArray[np.int64]
Unit = Literal["speakers", "utterances"]


@dataclass(frozen=True)
class Interval:
    """95 % interval of a resampled value; bounds in the unit of the value."""

    low: float
    high: float

    @property
    def width(self) -> float:
        """Distance of the bounds."""
        return self.high - self.low


@dataclass(frozen=True)
class Difference:
    """WER of an arm minus WER of a baseline on the same utterances; below 0 the arm is better.

    Attributes:
        value: as a fraction; times 100 it is points.
        interval: of `value`; None where there are too few units to say.
        relative: `value` by the baseline's WER; None where the baseline has no error.
        relative_interval: of `relative`; None as `interval` is, and where a resample of the baseline has no error.
        p_value: two-sided: 1 minus the confidence at which the interval just reaches 0. None where `interval` is.
    """

    value: float
    interval: Optional[Interval]
    relative: Optional[float]
    relative_interval: Optional[Interval]
    p_value: Optional[float]

    @property
    def beyond_interval(self) -> Optional[bool]:
        """Whether the interval leaves 0 out: the sign of the difference is not chance. None where there is none.

        The same as a `p_value` below 1 - `CONFIDENCE`: both are read from the same draws.
        """
        return None if self.interval is None else self.interval.low > 0 or self.interval.high < 0


def unit_to_resample(speakers: Sequence[str | None]) -> Unit:
    """'speakers' where every utterance tells its own and they are `MIN_UNITS` or more; otherwise 'utterances'."""
    return "speakers" if None not in speakers and len(set(speakers)) >= MIN_UNITS else "utterances"


def has_interval(units: Iterable[int]) -> bool:
    """Whether a figure over corpora of so many units each has an interval, and a difference a verdict."""
    return all(count >= MIN_UNITS for count in units)


def sum_by_unit(counts: Counts, speakers: Sequence[str | None]) -> Counts:
    """Counts of the units that are drawn.

    Args:
        counts: shape (utterances, columns).
        speakers: of each utterance; None where unknown.

    Returns:
        Array of shape (units, columns): speakers in the order of their first utterance, or `counts` itself.
    """
    if unit_to_resample(speakers) == "utterances":
        return counts
    rows = {speaker: row for row, speaker in enumerate(dict.fromkeys(speakers))}
    sums = np.zeros((len(rows), counts.shape[1]), dtype=np.int64)
    np.add.at(sums, [rows[speaker] for speaker in speakers], counts)
    return sums


def resample_sums(strata: Sequence[Counts], resamples: int, seed: int) -> Counts:
    """Column sums of `resamples` draws with replacement.

    Args:
        strata: one array for each corpus, shape (units, columns); drawn from separately, then added.
        resamples: number of draws.
        seed: of numpy's PCG64. The result does not depend on how many draws fit into memory at once.

    Returns:
        Array of shape (resamples, columns).
    """
    generator = np.random.default_rng(seed)
    sums = np.zeros((resamples, strata[0].shape[1]), dtype=np.int64)
    for counts in strata:
        size = len(counts)
        step = max(1, _MAX_DRAWS_AT_ONCE // size)
        for start in range(0, resamples, step):
            rows = min(step, resamples - start)
            drawn = generator.integers(0, size, size=(rows, size))
            for column in range(counts.shape[1]):
                sums[start : start + rows, column] += counts[:, column][drawn].sum(axis=1)
    return sums


def wer_interval(
    strata: Sequence[Counts], *, resamples: int = DEFAULT_RESAMPLES, seed: int = DEFAULT_SEED
) -> Optional[Interval]:
    """The interval of a corpus' (or, with several strata, the pooled corpora's) WER; None where a corpus has too few units.

    Args:
        strata: for each corpus an array (units, 2): errors, reference words.
        resamples, seed: see `resample_sums`.

    Raises:
        EvaluationError: `resamples` is less than `MIN_RESAMPLES`.
    """
    _check_resamples(resamples)
    if not has_interval(map(len, strata)):
        return None
    errors, words = resample_sums(strata, resamples, seed).T
    total_errors, total_words = _totals(strata)
    rate = total_errors / max(total_words, 1)
    expansion = _Expansion([counts[:, 0] - rate * counts[:, 1] for counts in strata])
    return _interval(errors / _at_least_one(words), expansion)


def paired_difference(
    strata: Sequence[Counts], *, resamples: int = DEFAULT_RESAMPLES, seed: int = DEFAULT_SEED
) -> Difference:
    """The difference of two arms on the same utterances; without interval where a corpus has too few units.

    Args:
        strata: for each corpus an array (units, 3): errors of the arm, errors of the baseline, reference words.
        resamples, seed: see `resample_sums`.

    Raises:
        EvaluationError: `resamples` is less than `MIN_RESAMPLES`.
    """
    _check_resamples(resamples)
    total_arm, total_baseline, total_words = _totals(strata)
    difference = (total_arm - total_baseline) / max(total_words, 1)
    relative = (total_arm - total_baseline) / total_baseline if total_baseline else None
    if not has_interval(map(len, strata)):
        return Difference(difference, None, relative, None, None)
    arm, baseline, words = resample_sums(strata, resamples, seed).T
    differences = (arm - baseline) / _at_least_one(words)
    expansion = _Expansion([counts[:, 0] - counts[:, 1] - difference * counts[:, 2] for counts in strata])
    return Difference(
        value=difference,
        interval=_interval(differences, expansion),
        relative=relative,
        relative_interval=_interval((arm - baseline) / baseline, expansion) if baseline.all() else None,
        p_value=expansion.p_value(_tail_that_reaches_0(differences)),
    )


def _check_resamples(resamples: int) -> None:
    if resamples < MIN_RESAMPLES:
        raise EvaluationError(f"resamples is {resamples}: intervals need {MIN_RESAMPLES} or more")


def _totals(strata: Sequence[Counts]) -> list[int]:
    return [int(total) for total in np.sum([counts.sum(axis=0) for counts in strata], axis=0)]


def _at_least_one(words: Counts) -> Counts:
    # A draw of nothing but empty references has no rate; its errors over one word keep it in the tail where it belongs.
    return np.maximum(words, 1)


class _Expansion:
    """How far out the quantiles are taken.

    `contributions`: of each stratum what its units add to the rate's numerator beyond the rate itself, shape (units,).
    """

    def __init__(self, contributions: Sequence[NDArray[np.float64]]) -> None:
        drawn = [(len(units), len(units) * float(units.var())) for units in contributions]
        unbiased = [(n - 1, variance * n / (n - 1)) for n, variance in drawn if variance > 0]
        total = sum(variance for _, variance in unbiased)
        # Where all draws are alike, so are all quantiles.
        self._freedom, self._spread = min(n for n, _ in drawn) - 1.0, 1.0
        if total > 0:
            self._freedom = total**2 / sum(variance**2 / freedom for freedom, variance in unbiased)
            self._spread = math.sqrt(total / sum(variance for _, variance in drawn))
        # Wallace, "Bounds on Normal Approximations to Student's and the Chi-Square Distributions", 1959: within 0.2 % of
        # t's quantile from 9 degrees of freedom on, and invertible.
        self._wallace = (8 * self._freedom + 3) / (8 * self._freedom + 1)

    def tail(self) -> float:
        """The share of the draws that the interval leaves out at each end."""
        z = _NORMAL.inv_cdf((1 + CONFIDENCE) / 2)
        t = math.sqrt(self._freedom * math.expm1((self._wallace * z) ** 2 / self._freedom))
        return _NORMAL.cdf(-self._spread * t)

    def p_value(self, tail: float) -> float:
        """Two-sided, where the quantile that leaves out a share of `tail` of the draws is 0: the inverse of `tail`."""
        if tail >= 0.5:
            return 1.0
        t = -_NORMAL.inv_cdf(tail) / self._spread
        z = math.sqrt(self._freedom * math.log1p(t * t / self._freedom)) / self._wallace
        return 2 * _NORMAL.cdf(-z)


def _interval(values: NDArray[np.float64], expansion: _Expansion) -> Interval:
    tail = expansion.tail()
    low, high = np.quantile(values, [tail, 1 - tail])
    return Interval(float(low), float(high))


def _tail_that_reaches_0(values: NDArray[np.float64]) -> float:
    """The largest share that `_interval` may leave out at each end and still hold 0."""
    # None smaller than this, so that no finite number of resamples claims a probability of 0.
    return max(min(_share_up_to_0(values), _share_up_to_0(-values)), 1 / (len(values) + 1))


def _share_up_to_0(values: NDArray[np.float64]) -> float:
    """The largest share whose quantile, as numpy computes it, is not above 0; 0 where every value is."""
    ordered = np.sort(values)
    count = int(np.searchsorted(ordered, 0, side="right"))
    if count in (0, len(ordered)):
        return float(count > 0)
    below, above = float(ordered[count - 1]), float(ordered[count])
    return (count - 1 - below / (above - below)) / (len(ordered) - 1)
