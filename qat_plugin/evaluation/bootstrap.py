"""How sure a WER and a difference of two WERs are: the paired bootstrap over utterances.

Utterances are drawn with replacement, as many as there are, and a rate of sums is taken anew for every draw (Bisani and
Ney, "Bootstrap estimates for confidence intervals in ASR performance evaluation", ICASSP 2004). Arms that are compared
share the draws, so what is hard for all of them cancels out. With several corpora each is drawn from by itself: pooled
figures keep the corpora's proportions.

Utterances, not speakers, are drawn: an interval speaks for more speech of these speakers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
DEFAULT_RESAMPLES = 2000
DEFAULT_SEED = 20240229

_MAX_DRAWS_AT_ONCE = 4_000_000

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Interval:
    """The middle 95 % of the resampled values; bounds in the unit of the value."""

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
        interval: of `value`.
        relative: `value` by the baseline's WER; None where the baseline has no error.
        relative_interval: of `relative`; None where a resample of the baseline has no error.
        p_value: two-sided: how probable a resampled difference on the other side of 0 is, twice.
    """

    value: float
    interval: Interval
    relative: Optional[float]
    relative_interval: Optional[Interval]
    p_value: float

    @property
    def beyond_interval(self) -> bool:
        """Whether the interval leaves 0 out: the sign of the difference is not chance."""
        return self.interval.low > 0 or self.interval.high < 0


def resample_sums(strata: Sequence[Counts], resamples: int, seed: int) -> Counts:
    """Column sums of `resamples` draws with replacement.

    Args:
        strata: one array for each corpus, shape (utterances, columns); drawn from separately, then added.
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


def wer_interval(strata: Sequence[Counts], *, resamples: int = DEFAULT_RESAMPLES, seed: int = DEFAULT_SEED) -> Interval:
    """The interval of a corpus' (or, with several strata, the pooled corpora's) WER.

    Args:
        strata: for each corpus an array (utterances, 2): errors, reference words.
        resamples, seed: see `resample_sums`.
    """
    errors, words = resample_sums(strata, resamples, seed).T
    return _interval(errors / _at_least_one(words))


def paired_difference(
    strata: Sequence[Counts], *, resamples: int = DEFAULT_RESAMPLES, seed: int = DEFAULT_SEED
) -> Difference:
    """The difference of two arms on the same utterances.

    Args:
        strata: for each corpus an array (utterances, 3): errors of the arm, errors of the baseline, reference words.
        resamples, seed: see `resample_sums`.
    """
    arm, baseline, words = resample_sums(strata, resamples, seed).T
    differences = (arm - baseline) / _at_least_one(words)
    total_arm, total_baseline, total_words = (int(total) for total in np.sum([s.sum(axis=0) for s in strata], axis=0))
    # One is added so that no finite number of resamples claims a probability of 0.
    tail = 1 + min(np.count_nonzero(arm <= baseline), np.count_nonzero(arm >= baseline))
    return Difference(
        value=(total_arm - total_baseline) / max(total_words, 1),
        interval=_interval(differences),
        relative=(total_arm - total_baseline) / total_baseline if total_baseline else None,
        relative_interval=_interval((arm - baseline) / baseline) if baseline.all() else None,
        p_value=min(1.0, 2 * tail / (resamples + 1)),
    )


def _at_least_one(words: Counts) -> Counts:
    # A draw of nothing but empty references has no rate; its errors over one word keep it in the tail where it belongs.
    return np.maximum(words, 1)


def _interval(values: NDArray[np.float64]) -> Interval:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return Interval(float(low), float(high))
