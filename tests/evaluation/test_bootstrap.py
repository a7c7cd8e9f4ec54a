"""The vectorised bootstrap against a loop in plain Python, and against cases whose answer is known."""

import itertools

import numpy as np
import pytest

from qat_plugin.evaluation import bootstrap
from qat_plugin.evaluation.bootstrap import paired_difference, resample_sums, wer_interval


def random_counts(seed: int, utterances: int) -> np.ndarray:
    """Columns: errors of an arm, errors of a baseline, reference words."""
    rng = np.random.default_rng(seed)
    words = rng.integers(1, 12, utterances)
    return np.column_stack([rng.binomial(words, 0.2), rng.binomial(words, 0.3), words])


def test_against_plain_python() -> None:
    strata = [random_counts(0, 30), random_counts(1, 7)]
    resamples, seed = 200, 5
    generator = np.random.default_rng(seed)
    totals = [[0, 0, 0] for _ in range(resamples)]
    for counts in strata:
        for total in totals:
            for index in generator.integers(0, len(counts), size=len(counts)):
                for column in range(3):
                    total[column] += int(counts[index][column])

    def interval(values):
        values = sorted(values)
        # numpy's quantile: linear between the neighbours of rank q * (n - 1)
        ranks = [q * (resamples - 1) for q in (0.025, 0.975)]
        return [values[int(r)] + (r - int(r)) * (values[int(r) + 1] - values[int(r)]) for r in ranks]

    mine = wer_interval([s[:, [0, 2]] for s in strata], resamples=resamples, seed=seed)
    assert [mine.low, mine.high] == pytest.approx(interval([a / w for a, _, w in totals]), abs=1e-12)
    difference = paired_difference(strata, resamples=resamples, seed=seed)
    expected = interval([(a - b) / w for a, b, w in totals])
    assert [difference.interval.low, difference.interval.high] == pytest.approx(expected, abs=1e-12)
    expected = interval([(a - b) / b for a, b, _ in totals])
    assert difference.relative_interval is not None
    assert [difference.relative_interval.low, difference.relative_interval.high] == pytest.approx(expected, abs=1e-12)
    errors, baseline, words = np.concatenate(strata).sum(axis=0)
    assert difference.value == pytest.approx((errors - baseline) / words)
    assert difference.relative == pytest.approx((errors - baseline) / baseline)
    tail = min(sum(a <= b for a, b, _ in totals), sum(a >= b for a, b, _ in totals))
    assert difference.p_value == pytest.approx(2 * (1 + tail) / (resamples + 1))


def test_against_every_possible_draw() -> None:
    counts = np.array([[0, 5], [2, 5], [1, 10], [4, 4]])
    draws = [counts[list(indices)].sum(axis=0) for indices in itertools.product(range(4), repeat=4)]
    exact = np.quantile([errors / words for errors, words in draws], [0.025, 0.975])
    mine = wer_interval([counts], resamples=20_000, seed=1)
    assert [mine.low, mine.high] == pytest.approx(exact, abs=0.02)


def test_pairing_takes_out_what_is_hard_for_both() -> None:
    counts = random_counts(2, 300)
    counts[:, 1] = counts[:, 0]
    counts[::10, 1] += 1  # the baseline errs once more in every tenth utterance
    difference = paired_difference([counts])
    single = wer_interval([counts[:, [0, 2]]])
    assert difference.beyond_interval and difference.value < 0 and difference.p_value < 0.01
    assert difference.interval.width < single.width / 2


def test_equal_arms_are_level() -> None:
    counts = random_counts(3, 50)
    counts[:, 1] = counts[:, 0]
    difference = paired_difference([counts])
    assert (difference.value, difference.interval.low, difference.interval.high) == (0, 0, 0)
    assert difference.p_value == 1 and not difference.beyond_interval


def test_swapping_the_arms_turns_the_sign() -> None:
    counts = random_counts(4, 80)
    one, other = paired_difference([counts]), paired_difference([counts[:, [1, 0, 2]]])
    expected = (-other.value, -other.interval.high, other.p_value)
    assert (one.value, one.interval.low, one.p_value) == pytest.approx(expected)


def test_faultless_baseline_has_no_relative_difference() -> None:
    difference = paired_difference([np.array([[1, 0, 5], [0, 0, 5], [2, 0, 5]])])
    assert difference.value == 3 / 15
    assert difference.relative is None and difference.relative_interval is None


def test_draws_do_not_depend_on_the_memory_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = random_counts(5, 33)
    whole = resample_sums([counts], 100, 7)
    monkeypatch.setattr(bootstrap, "_MAX_DRAWS_AT_ONCE", 50)
    assert np.array_equal(resample_sums([counts], 100, 7), whole)
    assert not np.array_equal(resample_sums([counts], 100, 8), whole)


def test_interval_covers_as_often_as_it_says() -> None:
    """Of many samples from a known population, about 95 % have the true WER in their interval."""
    rng = np.random.default_rng(6)
    covered = 0
    for trial in range(200):
        words = np.full(150, 10)
        interval = wer_interval([np.column_stack([rng.binomial(words, 0.2), words])], resamples=300, seed=trial)
        covered += interval.low <= 0.2 <= interval.high
    assert 0.90 <= covered / 200 <= 0.99
