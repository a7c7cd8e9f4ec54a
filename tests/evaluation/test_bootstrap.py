"""The vectorised bootstrap against a loop in plain Python, and against cases whose answer is known."""

import bisect
import math
from statistics import NormalDist

import numpy as np
import pytest

from qat_plugin.errors import EvaluationError
from qat_plugin.evaluation import bootstrap
from qat_plugin.evaluation.bootstrap import (
    MIN_RESAMPLES,
    MIN_UNITS,
    paired_difference,
    resample_sums,
    sum_by_unit,
    unit_to_resample,
    wer_interval,
)


def random_counts(seed: int, utterances: int) -> np.ndarray:
    """Columns: errors of an arm, errors of a baseline, reference words."""
    rng = np.random.default_rng(seed)
    words = rng.integers(1, 12, utterances)
    return np.column_stack([rng.binomial(words, 0.2), rng.binomial(words, 0.3), words])


def test_against_plain_python() -> None:
    strata = [random_counts(0, 30), random_counts(1, 10)]
    strata[0][::4, 0] += 1  # so that some draws are on either side of 0
    resamples, seed = 200, 5
    generator = np.random.default_rng(seed)
    totals = [[0, 0, 0] for _ in range(resamples)]
    for counts in strata:
        for total in totals:
            for index in generator.integers(0, len(counts), size=len(counts)):
                for column in range(3):
                    total[column] += int(counts[index][column])

    sums = [sum(int(row[column]) for counts in strata for row in counts) for column in range(3)]

    def expansion(of_unit):
        """Satterthwaite's degrees of freedom, and how much narrower than the truth the draws are."""
        drawn = unbiased = doubt = 0.0
        for counts in strata:
            values, n = [of_unit(*map(int, row)) for row in counts], len(counts)
            squares = sum((value - sum(values) / n) ** 2 for value in values)
            drawn, unbiased = drawn + squares, unbiased + squares * n / (n - 1)
            doubt += (squares * n / (n - 1)) ** 2 / (n - 1)
        return unbiased**2 / doubt, math.sqrt(unbiased / drawn)

    def interval(values, freedom, spread):
        steps = range(19_000, 40_000)
        quantile = steps[bisect.bisect_left(steps, -0.05, key=lambda t: -two_sided_t(t / 1e4, freedom))] / 1e4
        tail = NormalDist().cdf(-quantile * spread)
        values = sorted(values)
        # numpy's quantile: linear between the neighbours of rank q * (n - 1)
        ranks = [q * (resamples - 1) for q in (tail, 1 - tail)]
        return [values[int(r)] + (r - int(r)) * (values[int(r) + 1] - values[int(r)]) for r in ranks]

    mine = wer_interval([s[:, [0, 2]] for s in strata], resamples=resamples, seed=seed)
    by_wer = expansion(lambda a, _, w: a - sums[0] / sums[2] * w)
    assert 9 < by_wer[0] < 38  # the ten units' share of the doubt is larger than that of the units
    assert [mine.low, mine.high] == pytest.approx(interval([a / w for a, _, w in totals], *by_wer), abs=2e-4)
    difference = paired_difference(strata, resamples=resamples, seed=seed)
    freedom, spread = by_difference = expansion(lambda a, b, w: a - b - (sums[0] - sums[1]) / sums[2] * w)
    expected = interval([(a - b) / w for a, b, w in totals], *by_difference)
    assert [difference.interval.low, difference.interval.high] == pytest.approx(expected, abs=1e-4)
    expected = interval([(a - b) / b for a, b, _ in totals], *by_difference)
    assert difference.relative_interval is not None
    assert [difference.relative_interval.low, difference.relative_interval.high] == pytest.approx(expected, abs=1e-4)
    errors, baseline, words = np.concatenate(strata).sum(axis=0)
    assert difference.value == pytest.approx((errors - baseline) / words)
    assert difference.relative == pytest.approx((errors - baseline) / baseline)
    values = sorted((a - b) / w for a, b, w in totals)
    # At this share of the draws the quantile, linear between its neighbours, is 0.
    count = sum(value < 0 for value in values)
    assert 0 < resamples - count < count  # most draws are below 0, so the upper bound reaches 0 first
    up_to = (count - 1 - values[count - 1] / (values[count] - values[count - 1])) / (resamples - 1)
    t = -NormalDist().inv_cdf(1 - up_to) / spread
    assert difference.p_value == pytest.approx(two_sided_t(t, freedom), rel=0.01)


def two_sided_t(t: float, freedom: float) -> float:
    """The probability beyond ±t of Student's t, by adding up its density."""
    x = np.linspace(t, t + 60, 60_001)
    density = (1 + x**2 / freedom) ** (-(freedom + 1) / 2)
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(freedom * math.pi)
    return float(2 * scale * np.trapezoid(density, x))


@pytest.mark.parametrize(("units", "quantile"), [(10, 2.2622), (20, 2.0930), (30, 2.0452), (1000, 1.9623)])
def test_few_units_are_taken_further_out(units: int, quantile: float) -> None:
    """`quantile` is the 97.5 % quantile of Student's t with one degree of freedom less, from a table."""
    counts = np.column_stack([np.arange(units), np.full(units, 1000)])
    draws = resample_sums([counts], 4000, 11)
    tail = NormalDist().cdf(-quantile * math.sqrt(units / (units - 1)))
    expected = np.quantile(draws[:, 0] / draws[:, 1], [tail, 1 - tail])
    mine = wer_interval([counts], resamples=4000, seed=11)
    assert [mine.low, mine.high] == pytest.approx(expected, rel=5e-3)
    assert tail < 0.025


def test_p_value_and_interval_agree() -> None:
    """Near 0.05, too, where every other definition of either would part from the other."""
    rng = np.random.default_rng(9)
    near = verdicts = 0
    for seed in range(400):
        counts = random_counts(seed, int(rng.integers(MIN_UNITS, 40)))
        difference = paired_difference([counts], resamples=MIN_RESAMPLES, seed=seed)
        assert difference.interval is not None and difference.p_value is not None
        beyond = difference.interval.low > 0 or difference.interval.high < 0
        assert difference.beyond_interval is beyond is (difference.p_value < 0.05)
        assert 0 < difference.p_value <= 1
        near, verdicts = near + (0.03 < difference.p_value < 0.08), verdicts + beyond
    assert near > 20 and 40 < verdicts < 360


@pytest.mark.parametrize("errors", [[2, 1], [1, 2]])
def test_the_same_difference_in_every_unit_is_sure(errors: list[int]) -> None:
    difference = paired_difference([np.array([[*errors, 4]] * MIN_UNITS)], resamples=MIN_RESAMPLES)
    assert difference.interval == bootstrap.Interval(difference.value, difference.value)
    assert difference.beyond_interval and difference.p_value is not None and difference.p_value < 0.05


def test_too_few_draws_are_refused() -> None:
    for measure in (paired_difference, wer_interval):
        with pytest.raises(EvaluationError, match=f"resamples is 199: intervals need {MIN_RESAMPLES} or more"):
            measure([random_counts(0, 9)], resamples=199)


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
    difference = paired_difference([np.array([[1, 0, 5], [0, 0, 5], [2, 0, 5]] * 4)])
    assert difference.value == 12 / 60
    assert difference.relative is None and difference.relative_interval is None


def test_draws_do_not_depend_on_the_memory_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = random_counts(5, 33)
    whole = resample_sums([counts], 100, 7)
    monkeypatch.setattr(bootstrap, "_MAX_DRAWS_AT_ONCE", 50)
    assert np.array_equal(resample_sums([counts], 100, 7), whole)
    assert not np.array_equal(resample_sums([counts], 100, 8), whole)


@pytest.mark.parametrize("units", range(1, MIN_UNITS))
def test_few_units_have_neither_interval_nor_verdict(units: int) -> None:
    """Nor when another corpus has many: half of the words may be in the few."""
    for strata in ([random_counts(0, units)], [random_counts(1, 300), random_counts(0, units)]):
        assert wer_interval([counts[:, 1:] for counts in strata]) is None
        difference = paired_difference(strata)
        assert (difference.interval, difference.relative_interval, difference.p_value) == (None, None, None)
        assert difference.beyond_interval is None
        arm, baseline, words = np.concatenate(strata).sum(axis=0)
        assert difference.value == pytest.approx((arm - baseline) / words)
        assert difference.relative == (pytest.approx((arm - baseline) / baseline) if baseline else None)


# --- the unit that is drawn


def test_speakers_are_drawn_where_there_are_enough() -> None:
    enough = [f"s{i}" for i in range(MIN_UNITS)]
    assert unit_to_resample([*enough, *enough]) == "speakers"
    assert unit_to_resample([*enough[1:], *enough[1:]]) == "utterances"
    assert unit_to_resample([*enough, None]) == "utterances"
    assert unit_to_resample([None] * 50) == "utterances"


def test_counts_of_a_speaker_are_added() -> None:
    speakers = [f"s{i % MIN_UNITS}" for i in range(3 * MIN_UNITS)]
    counts = random_counts(8, len(speakers))
    expected = counts.reshape(3, MIN_UNITS, 3).sum(axis=0)
    assert np.array_equal(sum_by_unit(counts, speakers), expected)
    assert sum_by_unit(counts, [None] * len(speakers)) is counts


# --- of many samples from a known population, about 95 % have the truth in their interval

WORDS = 8


def draw(rng: np.random.Generator, speakers: int, each: int, *, correlated: bool) -> tuple[np.ndarray, list[str]]:
    """Errors of an arm with 22 % WER, of a baseline with 20 %, and words; where correlated, speakers differ in both."""
    names = [f"s{i}" for i in range(speakers) for _ in range(each)]
    rates, factors = np.full(speakers, 0.2), np.full(speakers, 1.1)
    if correlated:
        rates, factors = rng.beta(4, 16, speakers), rng.uniform(0.8, 1.4, speakers)
    baseline, arm = np.repeat(rates, each), np.minimum(np.repeat(rates * factors, each), 1)
    counts = np.column_stack([rng.binomial(WORDS, arm), rng.binomial(WORDS, baseline), np.full(len(names), WORDS)])
    return counts, names


def coverage(
    speakers: int, each: int, *, correlated: bool, by_speaker: bool, trials: int = 1000
) -> tuple[float, float]:
    """How often the interval of the baseline's WER, and that of the difference, hold the truth."""
    rng = np.random.default_rng(6)
    wer = difference = 0
    for trial in range(trials):
        counts, names = draw(rng, speakers, each, correlated=correlated)
        counts = sum_by_unit(counts, names if by_speaker else [None] * len(names))
        interval = wer_interval([counts[:, 1:]], resamples=400, seed=trial)
        wer += interval.low <= 0.2 <= interval.high
        interval = paired_difference([counts], resamples=400, seed=trial).interval
        difference += interval.low <= 0.02 <= interval.high
    return wer / trials, difference / trials


def test_intervals_over_utterances_cover_what_they_say() -> None:
    assert all(0.93 <= share <= 0.97 for share in coverage(1, 100, correlated=False, by_speaker=False))


def test_intervals_over_speakers_cover_what_they_say() -> None:
    assert all(0.93 <= share <= 0.97 for share in coverage(30, 12, correlated=True, by_speaker=True))


def test_a_corpus_of_few_units_is_not_made_sure_by_another_of_many() -> None:
    """Sixty clips and ten long ones of half of the words: what the pooled interval says holds."""
    rng = np.random.default_rng(3)
    wer = difference = 0
    for trial in range(600):
        strata = []
        for units, words in ((60, 8), (10, 60)):
            baseline = rng.beta(4, 16, units)
            arm = np.minimum(baseline * rng.uniform(0.8, 1.4, units), 1)
            heard = [rng.binomial(words, arm), rng.binomial(words, baseline), np.full(units, words)]
            strata.append(np.column_stack(heard))
        interval = wer_interval([counts[:, 1:] for counts in strata], resamples=400, seed=trial)
        wer += interval.low <= 0.2 <= interval.high
        interval = paired_difference(strata, resamples=400, seed=trial).interval
        difference += interval.low <= 0.02 <= interval.high
    assert 0.93 <= wer / 600 <= 0.97 and 0.93 <= difference / 600 <= 0.97


def test_utterances_of_one_speaker_are_no_evidence_of_their_own() -> None:
    """The same speech, drawn by utterance: the interval is too narrow for other speakers."""
    wer, difference = coverage(30, 12, correlated=True, by_speaker=False, trials=400)
    assert wer < 0.8 and difference < 0.93


@pytest.mark.parametrize("units", [2, 4, 7])
def test_why_fewer_units_have_no_interval(units: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were they drawn, the interval would miss the truth more often than it says; from the fewest on it is let pass."""

    def covered(count: int) -> float:
        rng, hits = np.random.default_rng(1), 0
        for trial in range(300):
            words = np.full(count, 12)
            counts = np.column_stack([rng.binomial(words, 0.02), words])
            interval = wer_interval([counts], resamples=MIN_RESAMPLES, seed=trial)
            assert interval is not None
            hits += interval.low <= 0.02 <= interval.high
        return hits / 300

    enough = covered(100)
    monkeypatch.setattr(bootstrap, "MIN_UNITS", 2)
    assert covered(units) < 0.9 < enough


@pytest.mark.parametrize("units", [MIN_UNITS, 12, 20])
def test_from_the_fewest_units_on_intervals_cover_what_they_say(units: int) -> None:
    shares = coverage(1, units, correlated=False, by_speaker=False, trials=2000)
    assert all(0.93 <= share <= 0.97 for share in shares), shares


def test_fewest_speakers_that_are_drawn() -> None:
    """With so few, the interval still covers what it says, and drawing utterances would be far off."""
    by_speaker = coverage(MIN_UNITS, 12, correlated=True, by_speaker=True, trials=2000)
    by_utterance = coverage(MIN_UNITS, 12, correlated=True, by_speaker=False, trials=400)
    assert all(0.93 <= share <= 0.97 for share in by_speaker), by_speaker
    assert by_utterance[0] < 0.8
